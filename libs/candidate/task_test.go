package candidate_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/candidate"
)

// A task is done once for changes that come together, and again, less and less often, until it succeeds.
func TestTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var done, failures atomic.Int32
		task := candidate.NewTask("test", func(context.Context) error {
			done.Add(1)
			if failures.Add(-1) >= 0 {
				return errors.New("away")
			}
			time.Sleep(time.Second)
			return nil
		})
		ended := make(chan error)
		go func() { ended <- task.Run(ctx, slog.New(slog.DiscardHandler)) }()
		synctest.Wait()
		if n := done.Load(); n != 0 {
			t.Errorf("done %d times without being due; want 0", n)
		}
		for range 10 {
			task.Due()
		}
		time.Sleep(time.Minute)
		if n := done.Load(); n != 1 && n != 2 { // one that comes while it is being done is for the next time
			t.Errorf("done %d times for ten changes at once, want 1 or 2", n)
		}
		done.Store(0)
		failures.Store(3)
		task.Due()
		began := time.Now()
		for done.Load() < 4 {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began); took < 7*time.Second || took > 8*time.Second {
			t.Errorf("succeeded after %v, want 1+2+4 s", took)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
