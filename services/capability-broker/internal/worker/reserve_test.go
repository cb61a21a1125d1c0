package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Long answers wait in their worker until memory is reserved for them.
func TestLongAnswersReserveMemory(t *testing.T) {
	long := `"` + strings.Repeat("x", 100<<10) + `"`
	m := &machine{behave: func(id string, args []jsontext.Value) ([]string, bool) {
		if string(args[1]) == `{"long":true}` {
			return []string{answers(id, long)}, true
		}
		return []string{answers(id, "1")}, true
	}}
	inPool(t, m, Limits{PerHandler: 1, Total: 1, Queue: 3, Idle: time.Hour}, func(t *testing.T, p *Pool) {
		asked := 0
		reserve := func(_ context.Context, n int) error {
			if asked = n; n > len(long)+1000 {
				return fmt.Errorf("asked for %d", n)
			}
			return nil
		}
		short, big := job("p", "{}"), job("p", `{"long":true}`)
		short.Reserve, big.Reserve = reserve, reserve
		if _, err := within(time.Second, p, short); err != nil || asked != 0 {
			t.Errorf("a short answer: reserved %d, %v; want nothing reserved", asked, err)
		}
		if output, err := within(time.Second, p, big); err != nil || string(output) != long || asked < len(long) {
			t.Errorf("a long answer: reserved %d, %v; want its length at least", asked, err)
		}
		if m.launched.Load() != 1 {
			t.Errorf("%d launches, want one worker for all", m.launched.Load())
		}

		// No memory in time is no answer in time.
		never := func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }
		big.Reserve = never
		if _, err := within(time.Second, p, big); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("no memory: got %v, want a deadline", err)
		}
		// A call whose worker is ended while it waits ends at once.
		began := time.Now()
		go func() {
			time.Sleep(time.Second)
			p.End(func(string, string, string) bool { return true })
		}()
		if _, err := within(time.Hour, p, big); !errors.Is(err, errRevoked) || time.Since(began) > time.Minute {
			t.Errorf("revoked: got %v after %v, want it at once", err, time.Since(began))
		}
		synctest.Wait()
		big.Reserve = reserve
		if output, err := within(time.Second, p, big); err != nil || string(output) != long {
			t.Errorf("the call with room: %v, want the long answer", err)
		}
	})
}
