package store

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/libs/periodic"
)

// Lease is how long what a process has read from a database counts when it can't be asked whether that still holds.
const Lease = 5 * time.Second

// Follower keeps what a process holds in memory of a database up to what other processes write to it, and tells how long it
// has not been able to.
type Follower struct {
	What  string        // for the log, in the plural: "network grants"
	Every time.Duration // between two looks
	// Look compares what is held with the database and takes over what is new.
	Look func(ctx context.Context) error
	Log  *slog.Logger

	heard atomic.Pointer[time.Time] // its monotonic reading counts
}

// Heard says that what is held was what the database has at a time.
func (f *Follower) Heard(at time.Time) { f.heard.Store(&at) }

// Fresh says whether what is held may be relied on: it was the database's less than Lease ago. It takes no lock.
func (f *Follower) Fresh(now time.Time) bool {
	heard := f.heard.Load()
	return heard != nil && now.Sub(*heard) < Lease
}

// Follow looks until ctx ends. One look may take Lease.
func (f *Follower) Follow(ctx context.Context) error {
	failing := false
	return periodic.Run(ctx, f.Every, func(ctx context.Context) {
		err := f.look(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil && !failing:
			f.Log.ErrorContext(ctx, "can't follow "+f.What+"; when the lease runs out nothing is allowed by them", "error", err, "lease", Lease)
		case err == nil && failing:
			f.Log.InfoContext(ctx, f.What+" are followed again")
		}
		failing = err != nil
	})
}

func (f *Follower) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Lease)
	defer cancel()
	began := time.Now()
	if err := f.Look(ctx); err != nil {
		return err
	}
	f.Heard(began)
	return nil
}
