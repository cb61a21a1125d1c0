package client

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/sony/gobreaker/v2"
)

const (
	breakerThreshold = 5               // failures in a row that open an instance's breaker
	breakerCooldown  = time.Second     // for which it stays open
	patience         = 2 * time.Second // that an instance has at least before a deadline counts as its failure, and a trial before it is left aside
)

// errGaveUp stands for what says nothing about an instance: its caller went away, or had too little time for it.
var errGaveUp = errors.New("the caller gave up")

// breaking puts a circuit breaker before an instance. A caller that gives up counts neither for the instance nor against it: packs
// choose deadlines of their own, and must not be able to close the way for all others, nor to keep it open to an instance that is dead.
//
// After an open breaker's time one call tries the instance. Others wait for it no longer than patience, since it may well
// take an hour: then another is let through, and what becomes of the first counts no more.
//
// It is not go-kit's circuitbreaker.Gobreaker, whose breaker knows successes and failures alone.
func breaking(name string, log *slog.Logger) endpoint.Middleware {
	breaker := gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		Name:        name,
		Timeout:     breakerCooldown,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerThreshold },
		IsExcluded:  func(err error) bool { return err == errGaveUp },
		OnStateChange: func(instance string, from, to gobreaker.State) {
			log.Warn("changed a circuit breaker", "instance", instance, "from", from.String(), "to", to.String())
		},
	})
	return func(next endpoint.Endpoint) endpoint.Endpoint {
		return func(ctx context.Context, request any) (any, error) {
			tell, err := breaker.Allow()
			if err != nil {
				return nil, err
			}
			if breaker.State() == gobreaker.StateHalfOpen {
				var once sync.Once
				first := tell
				tell = func(verdict error) { once.Do(func() { first(verdict) }) }
				defer time.AfterFunc(patience, func() { tell(errGaveUp) }).Stop()
			}
			verdict := errGaveUp // of a call that panics
			defer func() { tell(verdict) }()
			began := time.Now()
			response, err := next(ctx, request)
			if verdict = err; gaveUp(ctx, err, time.Since(began)) {
				verdict = errGaveUp
			}
			return response, err
		}
	}
}

// gaveUp says whether a call that ended with err after so long did so for its caller's sake. That may be known from err alone: a
// body that can't be read to its end passes for a cancelled call (see the gateway's uploads).
func gaveUp(ctx context.Context, err error, after time.Duration) bool {
	switch {
	case err == nil:
		return false
	case errors.Is(err, context.Canceled), errors.Is(ctx.Err(), context.Canceled):
		return true
	}
	return ctx.Err() != nil && after < patience
}
