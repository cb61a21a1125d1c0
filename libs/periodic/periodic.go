// Package periodic runs a function again and again: the loop around a time.Ticker that most background work of the services
// is. A loop that waits for anything else besides, such as a channel of changes, has its own select.
package periodic

import (
	"context"
	"time"
)

// Option changes when Run calls its function.
type Option int

// Immediately makes the first call at once, not after the first interval.
const Immediately Option = 1

// Run calls f every interval until ctx ends, and then returns nil: the end of ctx is how such work is meant to end. Calls
// don't overlap. A call that takes longer than interval is followed at once by one more, not by all that were missed.
// f is not called any more once ctx has ended. Where f has its own errors to log, it does; see RunErr for those that end
// the loop.
func Run(ctx context.Context, interval time.Duration, f func(context.Context), options ...Option) error {
	return RunErr(ctx, interval, func(ctx context.Context) error { f(ctx); return nil }, options...)
}

// RunErr is Run for a function whose error ends the loop. It returns this error.
func RunErr(ctx context.Context, interval time.Duration, f func(context.Context) error, options ...Option) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	wait := true
	for _, o := range options {
		wait = wait && o != Immediately
	}
	for {
		if wait {
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
		wait = true
		if ctx.Err() != nil { // looked at here, too: a select with both cases ready takes either
			return nil
		}
		if err := f(ctx); err != nil {
			return err
		}
	}
}
