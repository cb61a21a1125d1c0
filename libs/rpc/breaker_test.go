package rpc

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/kit/endpoint"
)

// An instance that answers a caller's request as mode says.
type instance struct {
	mode   string // answers, refuses, hangs
	called int
}

func (i *instance) exchange(ctx context.Context, _ any) (any, error) {
	i.called++
	switch i.mode {
	case "answers":
		return "answer", nil
	case "hangs":
		<-ctx.Done()
		return nil, ctx.Err()
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
				test(t, i, breaking("peer@instance", slog.New(slog.DiscardHandler))(i.exchange))
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
			t.Errorf("answered %v after %v", err, time.Since(began))
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
		i.called = 0
		if err := within(CallTimeout, call); err == nil || i.called > 0 {
			t.Errorf("called %d times: %v", i.called, err)
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
		i.called = 0
		_ = within(CallTimeout, call)
		if _ = within(CallTimeout, call); i.called != 1 {
			t.Errorf("called %d times, not once", i.called)
		}
		time.Sleep(breakerCooldown + time.Millisecond)
		i.mode = "answers"
		for range 3 {
			if err := within(CallTimeout, call); err != nil {
				t.Error(err)
			}
		}
	})
}
