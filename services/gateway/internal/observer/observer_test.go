package observer

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/audit/audittest"
)

// bubble runs a test under virtual time. down says which service doesn't answer; actions are the entries so far.
func bubble(t *testing.T, test func(t *testing.T, start func() (stop func()), down *atomic.Value, actions func() string)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		log, err := audit.Open(filepath.Join(dir, "audit"), "gateway", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		var down atomic.Value
		down.Store("")
		start := func() func() {
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			o := New(Config{Dir: dir, Services: []string{"approval", "secrets"}, Audit: log, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
				Answers: func(_ context.Context, service string) bool { return service != down.Load() }})
			running.Go(func() { _ = o.Run(ctx) })
			return func() { cancel(); running.Wait() }
		}
		actions := func() string {
			var all []string
			for line := range strings.Lines(audittest.Text(t, filepath.Join(dir, "audit"), "system")) {
				for _, word := range []string{"service_unreachable", "service_reachable"} {
					if strings.Contains(line, `"`+word+`"`) && strings.Contains(line, `"service":"secrets"`) {
						all = append(all, word)
					}
				}
			}
			return strings.Join(all, " ")
		}
		test(t, start, &down, actions)
	})
}

func TestOutagesAreWrittenOnce(t *testing.T) {
	bubble(t, func(t *testing.T, start func() func(), down *atomic.Value, actions func() string) {
		stops := []func(){start(), start(), start()} // gateways
		time.Sleep(20 * time.Second)
		down.Store("secrets")
		time.Sleep(8 * time.Second)
		if got := actions(); got != "" {
			t.Errorf("after 8 s there are the entries %q, want none: it may be a restart", got)
		}
		down.Store("")
		time.Sleep(3 * time.Second)
		down.Store("secrets")
		time.Sleep(5 * time.Minute)
		if got := actions(); got != "service_unreachable" {
			t.Errorf("during an outage there are the entries %q, want one", got)
		}
		stops[0]() // the one with the lock: another one goes on
		time.Sleep(time.Minute)
		if got := actions(); got != "service_unreachable" {
			t.Errorf("after another gateway took over there are the entries %q, want one", got)
		}
		down.Store("")
		time.Sleep(10 * time.Second)
		if got := actions(); got != "service_unreachable service_reachable" {
			t.Errorf("after the outage there are the entries %q, want one of each", got)
		}
		stops[1]()
		stops[2]()
	})
}

func TestOutageEndsWhileNoGatewayRuns(t *testing.T) {
	bubble(t, func(t *testing.T, start func() func(), down *atomic.Value, actions func() string) {
		stop := start()
		down.Store("secrets")
		time.Sleep(time.Minute)
		stop()
		down.Store("")
		stop = start()
		time.Sleep(10 * time.Second)
		stop()
		if got := actions(); got != "service_unreachable service_reachable" {
			t.Errorf("there are the entries %q, want one of each", got)
		}
	})
}
