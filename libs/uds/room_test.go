package uds

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"
)

func TestRoom(t *testing.T) {
	rooms := func() (a, b *Room) {
		all := semaphore.NewWeighted(10)
		return &Room{of: all, all: 10}, &Room{of: all, all: 10}
	}
	now := func(r *Room, n int) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return r.Take(ctx, n)
	}
	run := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
	run("more than there is waits until its context ends", func(t *testing.T) {
		a, b := rooms()
		if err := now(a, 6); err != nil {
			t.Fatal(err)
		}
		if err := now(b, 5); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := now(b, 4); err != nil { // who waited in vain has taken nothing
			t.Error(err)
		}
	})
	run("what is taken counts towards more, and less changes nothing", func(t *testing.T) {
		a, b := rooms()
		for _, n := range []int{6, 2, 10, 5} {
			if err := now(a, n); err != nil {
				t.Errorf("%d: %v", n, err)
			}
		}
		if err := now(b, 1); err == nil {
			t.Error("10 and 1 of 10")
		}
	})
	run("what is given back is there for others", func(t *testing.T) {
		a, b := rooms()
		_ = now(a, 10)
		a.Keep(20)
		a.Keep(7)
		if err := now(b, 3); err != nil {
			t.Error(err)
		}
		a.drop()
		if err := now(b, 10); err != nil {
			t.Error(err)
		}
	})
	run("two that want more don't wait for each other", func(t *testing.T) {
		a, b := rooms()
		_, _ = now(a, 5), now(b, 5)
		done := make(chan error)
		for _, r := range []*Room{a, b} {
			go func() {
				err := now(r, 8)
				r.drop()
				done <- err
			}()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	run("more than there can be is all there is", func(t *testing.T) {
		a, _ := rooms()
		if err := now(a, 1000); err != nil {
			t.Error(err)
		}
	})
	run("a context of another place has none", func(t *testing.T) {
		r := RoomOf(context.Background())
		if err := now(r, 1<<40); err != nil {
			t.Error(err)
		}
		r.Keep(1)
	})
}
