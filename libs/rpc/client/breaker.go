package client

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
)

const (
	breakerThreshold = 5               // failures in a row that open an instance's breaker
	breakerCooldown  = time.Second     // for which it stays open
	patience         = 2 * time.Second // a call that its caller ended before is no failure of the instance; a trial call that takes longer no longer blocks others
)

// errGaveUp is the result of a call that says nothing about the instance: its caller cancelled it, or had set a deadline that was too short.
var errGaveUp = errors.New("the caller gave up")

// breaking puts a circuit breaker before an instance. A call whose caller gives up counts neither as a success nor as a failure. Packs
// choose deadlines of their own: if such calls were failures, a pack could open the breaker for all others; if they were successes, it could
// keep the breaker of a dead instance closed.
//
// When an open breaker has cooled down, one trial call is let through and decides. A trial may take an hour (a stream, an upload), so after
// patience it is counted as errGaveUp: another call may try, and the first one's result is ignored.
//
// open counts the breakers that don't let every call through, those of other instances among them.
//
// It is not go-kit's circuitbreaker.Gobreaker, whose breaker knows successes and failures alone.
func breaking(name string, log *slog.Logger, open prometheus.Gauge) endpoint.Middleware {
	breaker := gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		Name:        name,
		Timeout:     breakerCooldown,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerThreshold },
		IsExcluded:  func(err error) bool { return errors.Is(err, errGaveUp) },
		OnStateChange: func(instance string, from, to gobreaker.State) {
			log.Warn("changed a circuit breaker", "instance", instance, "from", from.String(), "to", to.String())
			switch {
			case from == gobreaker.StateClosed:
				open.Inc()
			case to == gobreaker.StateClosed:
				open.Dec()
			}
		},
	})
	return func(next endpoint.Endpoint) endpoint.Endpoint {
		return func(ctx context.Context, request any) (any, error) {
			report, err := breaker.Allow()
			if err != nil {
				return nil, err
			}
			if breaker.State() == gobreaker.StateHalfOpen {
				var once sync.Once
				first := report
				report = func(verdict error) { once.Do(func() { first(verdict) }) }
				defer time.AfterFunc(patience, func() { report(errGaveUp) }).Stop()
			}
			verdict := errGaveUp // of a call that panics
			defer func() { report(verdict) }()
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
