package rpc

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/sony/gobreaker/v2"
)

const (
	breakerThreshold = 5               // failures in a row that open an instance's breaker
	breakerCooldown  = time.Second     // for which it stays open
	patience         = 2 * time.Second // that an instance has at least before a caller's deadline counts as its failure
)

// errGaveUp marks what says nothing about an instance: its caller went away, or had too little time for it.
var errGaveUp = errors.New("the caller gave up")

// breaking puts a circuit breaker before an instance. A caller that gives up counts neither for the instance nor against it: packs
// choose deadlines of their own, and must not be able to close the way for all others, nor to keep it open to an instance that is dead.
//
// It is not go-kit's circuitbreaker.Gobreaker, whose breaker knows successes and failures alone.
func breaking(name string, log *slog.Logger) endpoint.Middleware {
	breaker := gobreaker.NewCircuitBreaker[any](gobreaker.Settings{
		Name:        name,
		Timeout:     breakerCooldown,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerThreshold },
		IsExcluded:  func(err error) bool { return errors.Is(err, errGaveUp) },
		OnStateChange: func(instance string, from, to gobreaker.State) {
			log.Warn("changed a circuit breaker", "instance", instance, "from", from.String(), "to", to.String())
		},
	})
	return func(next endpoint.Endpoint) endpoint.Endpoint {
		return func(ctx context.Context, request any) (any, error) {
			return breaker.Execute(func() (any, error) {
				began := time.Now()
				response, err := next(ctx, request)
				if over := ctx.Err(); err != nil && over != nil && (errors.Is(over, context.Canceled) || time.Since(began) < patience) {
					return nil, errors.Join(errGaveUp, err)
				}
				return response, err
			})
		}
	}
}
