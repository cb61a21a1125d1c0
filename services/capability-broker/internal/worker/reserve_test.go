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

// Long answers wait in their worker until there is room for them.
func TestLongAnswersAskForRoom(t *testing.T) {
	long := `"` + strings.Repeat("x", 100<<10) + `"`
	m := &machine{behave: func(id string, args []jsontext.Value) ([]string, bool) {
		if string(args[1]) == `{"long":true}` {
			return []string{answers(id, long)}, true
		}
		return []string{answers(id, "1")}, true
	}}
	inPool(t, m, Limits{PerHandler: 1, Total: 1, Queue: 3, Idle: time.Hour}, func(t *testing.T, p *Pool) {
		asked := 0
		room := func(_ context.Context, n int) error {
			if asked = n; n > len(long)+1000 {
				return fmt.Errorf("asked for %d", n)
			}
			return nil
		}
		short, big := job("p", "{}"), job("p", `{"long":true}`)
		short.Reserve, big.Reserve = room, room
		if _, err := within(time.Second, p, short); err != nil || asked != 0 {
			t.Errorf("a short answer: room for %d, %v", asked, err)
		}
		if output, err := within(time.Second, p, big); err != nil || string(output) != long || asked < len(long) {
			t.Errorf("a long answer: room for %d, %v", asked, err)
		}
		if m.launched.Load() != 1 {
			t.Errorf("%d workers", m.launched.Load())
		}

		// No room in time is no answer in time.
		never := func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }
		big.Reserve = never
		if _, err := within(time.Second, p, big); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("no room: %v", err)
		}
		// Whose right is taken away while it waits ends at once.
		began := time.Now()
		go func() {
			time.Sleep(time.Second)
			p.End(func(string, string, string) bool { return true })
		}()
		if _, err := within(time.Hour, p, big); !errors.Is(err, errRevoked) || time.Since(began) > time.Minute {
			t.Errorf("taken away: %v after %v", err, time.Since(began))
		}
		synctest.Wait()
		big.Reserve = room
		if output, err := within(time.Second, p, big); err != nil || string(output) != long {
			t.Errorf("afterwards: %v", err)
		}
	})
}
