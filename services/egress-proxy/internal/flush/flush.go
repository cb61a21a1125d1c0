// Package flush is the loop by which counts that are kept in memory reach the store: denials and quota have one each.
package flush

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/periodic"
)

// Interval is the time between two flushes. Counts that a killed replica loses are at most this old.
const Interval = time.Second

// Run calls flush at each interval until ctx ends, and returns ctx's error. failed gets the first error of a row of
// failures, so that a database that doesn't answer for an hour is one line in the log, not 3,600.
func Run(ctx context.Context, flush func(context.Context) error, failed func(error)) error {
	failing := false
	return periodic.Run(ctx, Interval, func(ctx context.Context) {
		err := flush(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			failed(err)
		}
		failing = err != nil
	})
}
