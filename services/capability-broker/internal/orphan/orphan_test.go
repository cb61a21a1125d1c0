package orphan

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// host stands for Docker, for the replicas on one host and for what they have.
type host struct {
	containers map[string]sandbox.Container // by name
	alive      map[string]bool              // replicas
	owned      map[string]bool              // names of containers that this replica uses
	sweeps     int
	failing    error
	failed     bool
	dead       int
	events     func(sandbox.Event)

	logs   []string // packs that have some
	known  map[string]bool
	reason func() // called once, after the first sweep; nil for nothing
	stale  bool   // approval can't be reached
}

func (h *host) Events(ctx context.Context, on func(sandbox.Event)) { h.events = on }

func (h *host) Sweep(_ context.Context, _ sandbox.Kind, keep func(sandbox.Container) bool) (removed []sandbox.Container, err error) {
	if h.sweeps++; h.failing != nil {
		return nil, h.failing
	}
	for name, c := range h.containers {
		if !keep(c) {
			removed = append(removed, c)
			delete(h.containers, name)
		}
	}
	return removed, nil
}

func (h *host) Alive(id string) bool             { return h.alive[id] }
func (h *host) RemoveDead() (dead int, _ error)  { dead, h.dead = h.dead, 0; return dead, nil }
func (h *host) InUse(c sandbox.Container) bool   { return h.owned[c.Name] }
func (h *host) TakeRemovalFailed() (failed bool) { failed, h.failed = h.failed, false; return failed }
func (h *host) Fresh() bool {
	if h.reason != nil {
		h.reason()
		h.reason = nil
	}
	return !h.stale
}

func (h *host) Get(id string) (gate.State, bool) { return gate.State{}, h.known[id] }

// logs are a host's.
type logs struct{ *host }

func (l logs) Sweep(keep func(string) bool) error {
	l.host.logs = slices.DeleteFunc(l.host.logs, func(id string) bool { return !keep(id) })
	return nil
}

func newHost() (*host, *Sweeper) {
	h := &host{containers: make(map[string]sandbox.Container), alive: map[string]bool{"me": true, "other": true}, owned: make(map[string]bool), known: make(map[string]bool)}
	return h, &Sweeper{Engine: h, Replica: "me", Replicas: h, Workers: h, Logs: logs{h}, Gates: h, Log: slog.New(slog.DiscardHandler)}
}

func (h *host) names() (names []string) {
	for name := range h.containers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// run runs a sweeper for so many sweeps after the first.
func run(t *testing.T, s *Sweeper, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*sweepInterval+time.Millisecond)
	defer cancel()
	if err := s.Run(ctx); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

func TestWhatNobodyUsesIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHost()
		for name, replica := range map[string]string{"mine": "me", "copied labels": "me", "another's": "other", "a dead one's": "dead", "nobody's": ""} {
			h.containers[name] = sandbox.Container{Name: name, Replica: replica, Kind: sandbox.Handler}
		}
		h.owned["mine"] = true
		run(t, s, 0)
		if want := []string{"another's", "mine"}; !slices.Equal(h.names(), want) {
			t.Errorf("left are %v, want %v", h.names(), want)
		}
	})
}

// Containers are listed at the start, and then only for a reason; again and again until it works.
func TestSweepsHaveAReason(t *testing.T) {
	stranger := sandbox.Event{Action: "start", Container: sandbox.Container{Name: "x", Replica: "me", Kind: sandbox.Handler}}
	for name, c := range map[string]struct {
		reason func(h *host)
		want   int // sweeps beside the first
	}{
		"none":               {func(*host) {}, 0},
		"a replica died":     {func(h *host) { h.dead = 1 }, 1},
		"a removal failed":   {func(h *host) { h.failed = true }, 1},
		"a stranger started": {func(h *host) { h.events(stranger) }, 1},
		"events were missed": {func(h *host) { h.events(sandbox.Event{Action: sandbox.Resync}) }, 1},
		"a worker started":   {func(h *host) { h.owned["x"] = true; h.events(stranger) }, 0},
		"a pack's container": {func(h *host) { e := stranger; e.Container.Kind = sandbox.Pack; h.events(e) }, 0},
		"a sweep that fails": {func(h *host) { h.dead, h.failing = 1, errors.New("down") }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, s := newHost()
				if err := s.Watch(t.Context()); err != nil {
					t.Fatal(err)
				}
				h.reason = func() { c.reason(h) }
				run(t, s, 3)
				if got := h.sweeps - 1; got != c.want {
					t.Errorf("%d sweeps beside the first, want %d", got, c.want)
				}
			})
		})
	}
}

// An approval that can't be reached must not look like one that knows no packs.
func TestLogsOfPacksThatAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHost()
		h.logs, h.known["p"], h.stale = []string{"p", "q"}, true, true
		run(t, s, 2)
		if want := []string{"p", "q"}; !slices.Equal(h.logs, want) {
			t.Errorf("without approval the logs are %v, want %v", h.logs, want)
		}
		h.stale = false
		run(t, s, 0)
		if want := []string{"p"}; !slices.Equal(h.logs, want) {
			t.Errorf("with approval the logs are %v, want %v", h.logs, want)
		}
	})
}
