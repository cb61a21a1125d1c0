package service

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
)

func TestTransitionsAreWrittenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failing, full bool
		var entries []audit.Entry
		l := &readyLog{
			ready: func(context.Context) Readiness {
				return Readiness{Ready: !failing, Checks: []Check{{Name: "fine", OK: true}, {Name: "store", OK: !failing, Detail: "no answer"}}}
			},
			write: func(_ context.Context, e audit.Entry) error {
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
		want := func(what string, actions ...string) {
			t.Helper()
			var got []string
			for _, e := range entries {
				got = append(got, e.Action)
			}
			if !reflect.DeepEqual(got, actions) {
				t.Errorf("%s: the entries are %v, want %v", what, got, actions)
			}
		}
		time.Sleep(time.Minute + time.Second)
		want("ready from the start")
		failing = true
		time.Sleep(8 * time.Second)
		failing = false
		time.Sleep(20 * time.Second)
		want("a condition that failed for a moment")
		failing, full = true, true
		time.Sleep(time.Minute)
		full = false
		time.Sleep(time.Minute)
		want("not ready, and the log could be written only later", "service_not_ready")
		if got := entries[0].Details["conditions"]; !reflect.DeepEqual(got, []any{map[string]any{"name": "store", "detail": "no answer"}}) {
			t.Errorf("the conditions are %v, want the one that fails", got)
		}
		failing = false
		time.Sleep(time.Minute)
		want("ready again", "service_not_ready", "service_ready")
		before := len(entries)
		for range 120 { // it comes and goes each second
			failing = !failing
			time.Sleep(time.Second)
		}
		if n := len(entries) - before; n > 12 {
			t.Errorf("a condition that comes and goes left %d entries in two minutes, want at most 12", n)
		}
	})
}
