package periodic_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/periodic"
)

func TestRunCallsEachIntervalUntilTheContextEnds(t *testing.T) {
	for name, c := range map[string]struct {
		options []periodic.Option
		want    []time.Duration
	}{
		"after the first interval": {nil, []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}},
		"at once":                  {[]periodic.Option{periodic.Immediately}, []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
				defer cancel()
				start := time.Now()
				var got []time.Duration
				if err := periodic.Run(ctx, time.Second, func(context.Context) { got = append(got, time.Since(start)) }, c.options...); err != nil {
					t.Errorf("Run = %v, want nil at the end of its context", err)
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("calls at %v, want %v", got, c.want)
				}
			})
		})
	}
}

func TestRunDoesNotOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second)
		defer cancel()
		calls, running := 0, 0
		_ = periodic.Run(ctx, time.Second, func(context.Context) {
			if running++; running != 1 {
				t.Errorf("%d calls at a time, want 1", running)
			}
			time.Sleep(2500 * time.Millisecond)
			running--
			calls++
		})
		// 1 to 3.5, then at once for the ticks missed: 3.5 to 6, 6 to 8.5, 8.5 to 11.
		if calls != 4 {
			t.Errorf("%d calls of 2.5 s in 9 s, want 4: missed ticks are one call, not many", calls)
		}
	})
}

func TestRunCallsNothingOnceTheContextHasEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 { // a select with both cases ready takes either
		if err := periodic.Run(ctx, time.Nanosecond, func(context.Context) { t.Fatal("called, want nothing called") }, periodic.Immediately); err != nil {
			t.Fatalf("Run = %v, want nil", err)
		}
	}
}

func TestRunErrEndsWithTheFirstError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want, calls := errors.New("lost"), 0
		got := periodic.RunErr(t.Context(), time.Second, func(context.Context) error {
			if calls++; calls == 3 {
				return want
			}
			return nil
		})
		if !errors.Is(got, want) || calls != 3 {
			t.Errorf("RunErr = %v after %d calls, want %v after 3", got, calls, want)
		}
	})
}
