package egress

import (
	"context"
	"errors"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// failure is why a request gets no answer from its server.
type failure struct {
	kind   string // error_type
	text   string // error, for the pack
	reason string // blocked_reason in the audit log; "" for what was not refused
	detail string // for the audit log only
}

// denied says whether it was refused, rather than failed.
func (f *failure) denied() bool { return f.reason != "" }

func grantDenied(blockedReason, reason string) *failure {
	return &failure{kind: "grant_denied", text: "Network access denied: " + reason, reason: blockedReason, detail: reason}
}

// blocked tells the pack nothing: what an address or a name stands for is not its business.
func blocked(reason, detail string) *failure {
	return &failure{kind: "blocked", text: "Request blocked by security policy", reason: reason, detail: detail}
}

var (
	errRateLimited    = &failure{kind: "rate_limited", text: "Rate limit exceeded", reason: "rate_limited"}
	errDailyQuota     = &failure{kind: "rate_limited", text: "Daily egress budget exceeded", reason: "budget_exceeded"}
	errTooLarge       = &failure{kind: "response_too_large", text: "Response too large (max: 4194304 bytes)"}
	errTimeout        = &failure{kind: "timeout", text: "Request timed out"}
	errDNS            = &failure{kind: "dns_error", text: "Name could not be resolved"}
	errTooManyStreams = &failure{kind: "rate_limited", text: "Too many requests under way", reason: "too_many_streams"}
	errClientClosed   = &failure{kind: "client_closed", text: "Client closed the connection"}
	errBadBody        = &failure{kind: "protocol_error", text: "Request body is not well-formed"}
	errInternal       = &failure{kind: "internal_error", text: "Internal error"}
)

// upstreamFailure turns an exchange's error into the contract's error types.
func upstreamFailure(err error) *failure {
	var e *upstream.Error
	if !errors.As(err, &e) {
		return errInternal
	}
	switch e.Kind {
	case upstream.KindTimeout:
		return &failure{kind: "timeout", text: e.Text}
	case upstream.KindRefused:
		return &failure{kind: "connection_refused", text: e.Text}
	case upstream.KindTLS:
		return &failure{kind: "ssl_error", text: e.Text}
	case upstream.KindTooLarge:
		return errTooLarge
	default:
		return &failure{kind: "upstream_error", text: e.Text}
	}
}

func lookupFailure(err error) *failure {
	if errors.Is(err, context.DeadlineExceeded) {
		return errTimeout
	}
	return errDNS
}
