package session

import (
	"context"
	"errors"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// EndedFailure is the answer to a request that ended with its session: the reason for which it would be refused now, if there is one.
func (k *Pack) EndedFailure() *decision.Failure {
	if f := k.Gate(); f != nil {
		return f
	}
	return decision.GrantDenied("grant_changed", "Network grant was changed during the request")
}

// Interrupted is why a request is over of which the context of s.With has ended.
func (k *Pack) Interrupted(s *Session) *decision.Failure {
	if s.Ended() {
		return k.EndedFailure()
	}
	return decision.ClientClosed
}

// TimedOut is why a request is over that waited until its deadline or until the end of ctx, which is of s.With.
func (k *Pack) TimedOut(ctx context.Context, s *Session) *decision.Failure {
	if ctx.Err() != nil {
		return k.Interrupted(s)
	}
	return decision.TimedOut
}

// UpstreamFailure is why an exchange with a server failed. err is of package upstream.
func (k *Pack) UpstreamFailure(s *Session, err error) *decision.Failure {
	var e *upstream.Error
	if !errors.As(err, &e) {
		return decision.Internal.WithDetail(err.Error())
	}
	if e.Kind == upstream.KindCanceled {
		return k.Interrupted(s)
	}
	f := &decision.Failure{Kind: decision.KindUpstream, Text: e.Text, Detail: err.Error()}
	switch e.Kind {
	case upstream.KindTimeout:
		f.Kind = decision.KindTimeout
	case upstream.KindRefused:
		f.Kind = decision.KindRefused
	case upstream.KindTLS:
		f.Kind = decision.KindTLS
	case upstream.KindTooLarge:
		return decision.TooLarge.WithDetail(err.Error())
	}
	return f
}

func lookupFailure(err error) *decision.Failure {
	f := decision.NotResolved
	if errors.Is(err, context.DeadlineExceeded) {
		f = decision.TimedOut
	}
	return f.WithDetail(err.Error())
}
