package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// An instance that answers a caller's request as mode says.
type instance struct {
	mode   string // answers, refuses, hangs, works (for an hour), has a bad caller (whose body fails), has one that panics
	called atomic.Int32
}

// badBody fails as the gateway's uploads do.
type badBody struct{ error }

func (badBody) Is(target error) bool { return target == context.Canceled }

func (i *instance) exchange(ctx context.Context, _ any) (any, error) {
	i.called.Add(1)
	switch i.mode {
	case "answers":
		return "answer", nil
	case "hangs":
		<-ctx.Done()
		return nil, ctx.Err()
	case "works":
		time.Sleep(time.Hour)
		return "answer", nil
	case "has a bad caller":
		return nil, fmt.Errorf("send request: %w", badBody{errors.New("malformed chunk")})
	case "has one that panics":
		panic("caller")
	default:
		return nil, errors.New("connection refused")
	}
}

// within calls with a deadline.
func within(d time.Duration, call endpoint.Endpoint) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	_, err := call(ctx, nil)
	return err
}

func gone(call endpoint.Endpoint) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := call(ctx, nil)
	return err
}

func TestBreaker(t *testing.T) {
	run := func(name string, test func(t *testing.T, i *instance, call endpoint.Endpoint)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &instance{}
				test(t, i, breaking("peer@instance", slog.New(slog.DiscardHandler), prometheus.NewGauge(prometheus.GaugeOpts{}))(i.exchange))
			})
		})
	}
	run("callers in a hurry don't close the way for others", func(t *testing.T, i *instance, call endpoint.Endpoint) {
		i.mode = "hangs"
		for range 5 * breakerThreshold {
			if err := within(patience-time.Millisecond, call); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		i.mode = "answers"
		if err := within(CallTimeout, call); err != nil {
			t.Error(err)
		}
	})
	run("an instance that hangs is left alone", func(t *testing.T, i *instance, call endpoint.Endpoint) {
		i.mode = "hangs"
		for range breakerThreshold {
			if err := within(CallTimeout, call); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		began := time.Now()
		if err := within(CallTimeout, call); err == nil || time.Since(began) > 0 {
			t.Errorf("answered %v after %v, want an error at once", err, time.Since(began))
		}
	})
	run("one that is dead, too, whoever gives up in between", func(t *testing.T, i *instance, call endpoint.Endpoint) {
		i.mode = "refuses"
		for range breakerThreshold {
			for range 3 {
				if err := gone(call); err == nil {
					t.Fatal("called without a context")
				}
			}
			if err := within(CallTimeout, call); err == nil {
				t.Fatal("called a dead instance")
			}
		}
		i.called.Store(0)
		if err := within(CallTimeout, call); err == nil || i.called.Load() > 0 {
			t.Errorf("called %d times: %v; want an error without a call", i.called.Load(), err)
		}
	})
	run("who gives up proves nothing when one is tried again", func(t *testing.T, i *instance, call endpoint.Endpoint) {
		i.mode = "refuses"
		for range breakerThreshold {
			_ = within(CallTimeout, call)
		}
		time.Sleep(breakerCooldown + time.Millisecond)
		for range 3 {
			_ = gone(call)
		}
		i.called.Store(0)
		_ = within(CallTimeout, call)
		if _ = within(CallTimeout, call); i.called.Load() != 1 {
			t.Errorf("called %d times, not once", i.called.Load())
		}
		time.Sleep(breakerCooldown + time.Millisecond)
		i.mode = "answers"
		for range 3 {
			if err := within(CallTimeout, call); err != nil {
				t.Error(err)
			}
		}
	})
	run("nor do those whose requests can't be read", func(t *testing.T, i *instance, call endpoint.Endpoint) {
		i.mode = "has a bad caller"
		for range 2 * breakerThreshold {
			if err := within(CallTimeout, call); !errors.As(err, new(badBody)) {
				t.Fatal(err)
			}
		}
		i.mode = "answers"
		if err := within(CallTimeout, call); err != nil {
			t.Error(err)
		}
	})
	// reopened is the moment at which an instance that was dead is tried again.
	reopened := func(i *instance, call endpoint.Endpoint) {
		i.mode = "refuses"
		for range breakerThreshold {
			_ = within(CallTimeout, call)
		}
		time.Sleep(breakerCooldown + time.Millisecond)
		i.called.Store(0)
	}
	run("a call that takes its time is no reason for others to wait", func(t *testing.T, i *instance, call endpoint.Endpoint) {
		reopened(i, call)
		i.mode = "works"
		go func() { _ = within(2*time.Hour, call) }()
		synctest.Wait()
		time.Sleep(patience + time.Millisecond)
		i.mode = "answers"
		for range 2 {
			if err := within(CallTimeout, call); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(2 * time.Hour) // what the slow one says now is nothing new
		if err := within(CallTimeout, call); err != nil {
			t.Error(err)
		}
	})
	run("few are tried on one that hangs still", func(t *testing.T, i *instance, call endpoint.Endpoint) {
		reopened(i, call)
		i.mode = "hangs"
		const lasts = time.Minute
		for began := time.Now(); time.Since(began) < lasts; time.Sleep(10 * time.Millisecond) {
			go func() { _ = within(CallTimeout, call) }()
		}
		synctest.Wait()
		if most := int32(lasts/patience) + 1; i.called.Load() > most {
			t.Errorf("called %d times in %v, want %d at most", i.called.Load(), lasts, most)
		}
		time.Sleep(CallTimeout)
		i.mode = "answers"
		if err := within(CallTimeout, call); err != nil {
			t.Error(err)
		}
	})
	run("who panics is not waited for", func(t *testing.T, i *instance, call endpoint.Endpoint) {
		reopened(i, call)
		i.mode = "has one that panics"
		for range 2 {
			func() {
				defer func() {
					if p := recover(); p != "caller" {
						t.Errorf("panicked with %v, want the caller's own", p)
					}
				}()
				_ = within(CallTimeout, call)
			}()
		}
		i.mode = "answers"
		if err := within(CallTimeout, call); err != nil {
			t.Error(err)
		}
	})
}

// The gauge is 1 from the moment that the breaker opens until a trial call has worked.
func TestOpenCircuitIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gauge := prometheus.NewGauge(prometheus.GaugeOpts{})
		i := &instance{mode: "refuses"}
		call := breaking("peer@instance", slog.New(slog.DiscardHandler), gauge)(i.exchange)
		is := func(when string, want float64) {
			t.Helper()
			if got := testutil.ToFloat64(gauge); got != want {
				t.Errorf("%s: the gauge is %v, want %v", when, got, want)
			}
		}
		is("at first", 0)
		for range breakerThreshold {
			_ = within(CallTimeout, call)
		}
		is("after failures", 1)
		time.Sleep(breakerCooldown + time.Millisecond)
		_ = within(CallTimeout, call)
		is("after a trial that failed", 1)
		time.Sleep(breakerCooldown + time.Millisecond)
		i.mode = "answers"
		_ = within(CallTimeout, call)
		is("after one that worked", 0)
	})
}
