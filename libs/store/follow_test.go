package store

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		var failing, hanging atomic.Bool
		var looks atomic.Int32
		f := &Follower{What: "things", Every: 20 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&logged, nil)),
			Look: func(ctx context.Context) error {
				looks.Add(1)
				switch {
				case hanging.Load():
					<-ctx.Done()
					return ctx.Err()
				case failing.Load():
					return errors.New("down")
				}
				return nil
			}}
		if f.Fresh(time.Now()) {
			t.Error("fresh before anything was heard")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Follow(ctx) }()
		fresh := func(after time.Duration, want bool) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := f.Fresh(time.Now()); got != want {
				t.Errorf("fresh is %v", got)
			}
		}
		fresh(21*time.Millisecond, true)
		if n := looks.Load(); n != 1 {
			t.Errorf("%d looks", n)
		}
		failing.Store(true)
		fresh(Lease-time.Second, true)
		fresh(time.Second, false)
		failing.Store(false)
		fresh(21*time.Millisecond, true)
		hanging.Store(true) // what hangs is given up, and begun anew
		fresh(Lease+21*time.Millisecond, false)
		hanging.Store(false)
		fresh(Lease+21*time.Millisecond, true)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Follow = %v, want nil at the end of its context", err)
		}
		if got := logged.String(); strings.Count(got, "can't follow things") != 2 || strings.Count(got, "things are followed again") != 2 {
			t.Errorf("logged\n%s", got)
		}
	})
}
