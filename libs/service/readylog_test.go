package service

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
)

func TestTransitionsAreWrittenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // of failing, full and entries
		var failing, full bool
		var entries []audit.Entry
		l := &readyLog{
			ready: func(context.Context) Readiness {
				mu.Lock()
				defer mu.Unlock()
				return Readiness{Ready: !failing, Checks: []Check{{Name: "fine", OK: true}, {Name: "store", OK: !failing, Detail: "no answer"}}}
			},
			write: func(_ context.Context, e audit.Entry) error {
				mu.Lock()
				defer mu.Unlock()
				if full {
					return errors.New("the disk is full")
				}
				entries = append(entries, e)
				return nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = l.run(ctx) }()
		defer cancel()
		written := func() []audit.Entry {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(entries)
		}
		set := func(fails, isFull bool) {
			mu.Lock()
			defer mu.Unlock()
			failing, full = fails, isFull
		}
		want := func(what string, actions ...string) {
			t.Helper()
			var got []string
			for _, e := range written() {
				got = append(got, e.Action)
			}
			if !reflect.DeepEqual(got, actions) {
				t.Errorf("%s: the entries are %v, want %v", what, got, actions)
			}
		}
		time.Sleep(time.Minute + time.Second)
		want("ready from the start")
		set(true, false)
		time.Sleep(8 * time.Second)
		set(false, false)
		time.Sleep(20 * time.Second)
		want("a condition that failed for a moment")
		set(true, true)
		time.Sleep(time.Minute)
		set(true, false)
		time.Sleep(time.Minute)
		want("not ready, and the log could be written only later", "service_not_ready")
		if got := written()[0].Details["conditions"]; !reflect.DeepEqual(got, []any{map[string]any{"name": "store", "detail": "no answer"}}) {
			t.Errorf("the conditions are %v, want the one that fails", got)
		}
		set(false, false)
		time.Sleep(time.Minute)
		want("ready again", "service_not_ready", "service_ready")
		before := len(written())
		for i := range 120 { // it comes and goes each second
			set(i%2 == 0, false)
			time.Sleep(time.Second)
		}
		if n := len(written()) - before; n > 12 {
			t.Errorf("a condition that comes and goes left %d entries in two minutes, want at most 12", n)
		}
	})
}
