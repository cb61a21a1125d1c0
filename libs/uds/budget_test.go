package uds

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBudget(t *testing.T) {
	budgets := func() (a, b *Budget) {
		all := newBudget(10, newLoad(nil))
		return &Budget{pool: all, limit: 10}, &Budget{pool: all, limit: 10}
	}
	now := func(r *Budget, n int) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return r.Reserve(ctx, n)
	}
	run := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
	run("more than there is waits until its context ends", func(t *testing.T) {
		a, b := budgets()
		if err := now(a, 6); err != nil {
			t.Fatal(err)
		}
		if err := now(b, 5); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want context.DeadlineExceeded", err)
		}
		if err := now(b, 4); err != nil { // who waited in vain has taken nothing
			t.Errorf("got %v, want no error", err)
		}
	})
	run("what is taken counts towards more, and less changes nothing", func(t *testing.T) {
		a, b := budgets()
		for _, n := range []int{6, 2, 10, 5} {
			if err := now(a, n); err != nil {
				t.Errorf("Reserve %d bytes of 10: got %v, want no error", n, err)
			}
		}
		if err := now(b, 1); err == nil {
			t.Error("Reserve 1 byte while 10 of 10 are reserved: got no error, want DeadlineExceeded")
		}
	})
	run("what is given back is there for others", func(t *testing.T) {
		a, b := budgets()
		_ = now(a, 10)
		a.Shrink(20)
		a.Shrink(7)
		if err := now(b, 3); err != nil {
			t.Errorf("got %v, want no error", err)
		}
		a.release()
		if err := now(b, 10); err != nil {
			t.Errorf("got %v, want no error", err)
		}
	})
	run("two that want more don't wait for each other", func(t *testing.T) {
		a, b := budgets()
		_, _ = now(a, 5), now(b, 5)
		done := make(chan error)
		for _, r := range []*Budget{a, b} {
			go func() {
				err := now(r, 8)
				r.release()
				done <- err
			}()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("got %v, want no error", err)
			}
		}
	})
	run("more than there can be is all there is", func(t *testing.T) {
		a, _ := budgets()
		if err := now(a, 1000); err != nil {
			t.Errorf("got %v, want no error", err)
		}
	})
	run("a context of another place has none", func(t *testing.T) {
		r := BudgetOf(context.Background())
		if err := now(r, 1<<40); err != nil {
			t.Errorf("got %v, want no error", err)
		}
		r.Shrink(1)
	})
}

// long answers with a mebibyte, for which it reserves memory.
type long struct{ *echo }

func (long) Answer(ctx context.Context, request, dst []byte) []byte {
	if string(request) == "short" {
		return append(dst, request...)
	}
	if BudgetOf(ctx).Reserve(ctx, mebi) != nil {
		return dst
	}
	return append(dst, strings.Repeat("x", mebi)...)
}

// A client that reads nothing, or next to nothing, loses its connection, and what it had reserved goes to those that wait. Answers that reserve nothing are not held up.
func TestUnreadAnswersLoseTheirReservation(t *testing.T) {
	path, _ := serve(t, long{newEcho("")}, Limits{Answers: 2 * mebi, Write: 2 * time.Second})
	for range 2 {
		c := dial(t, path)
		if err := WriteFrame(c, []byte("long")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // it has its reservation
			t.Fatal(err)
		}
		go func() {
			for range 100 { // with the rest it takes its time
				if _, err := c.Read(make([]byte, 1)); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
	}
	short := dial(t, path)
	began := time.Now()
	if got, err := ask(short, "short"); err != nil || got != "short" {
		t.Errorf("a short answer: %q, %v, want %q", got, err, "short")
	}
	took := time.Since(began)
	for range 4 {
		got, err := ask(dial(t, path), "long")
		if err != nil || len(got) != mebi {
			t.Errorf("a long answer: got %d bytes, %v; want %d", len(got), err, mebi)
		}
	}
	if all := time.Since(began); all < time.Second || took > all {
		t.Errorf("the long ones were answered after %v, the short one after %v", all, took)
	}
}
