package build

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestBuildsThatRunAndWait: two builds run at once, and others wait for them.
func TestBuildsThatRunAndWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		b := New(Config{
			Dir: "/nowhere", Metrics: prometheus.NewRegistry(),
			CA: func() []byte { <-release; return nil }, // what a build does first
		})
		want := func(what string, running, waiting float64) {
			t.Helper()
			synctest.Wait()
			if r, w := testutil.ToFloat64(b.running), testutil.ToFloat64(b.waiting); r != running || w != waiting {
				t.Errorf("%s: %v run and %v wait, want %v and %v", what, r, w, running, waiting)
			}
		}
		want("at first", 0, 0)
		ctx, cancel := context.WithCancel(t.Context())
		for range maxParallel + 3 {
			go func() {
				if _, err := b.Build(ctx, Request{}); err == nil {
					t.Error("a build without a folder succeeds, want an error")
				}
			}()
		}
		want("five asked for", maxParallel, 3)
		cancel()
		want("three have left", maxParallel, 0)
		close(release)
		want("at the end", 0, 0)
		if _, err := b.Build(ctx, Request{}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	})
}
