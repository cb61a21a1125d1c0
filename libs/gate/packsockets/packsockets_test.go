package packsockets_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/gate/packsockets"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/uds"
)

// patience is how long what must happen may take on a machine that does a lot else.
const patience = 30 * time.Second

// rig is Sockets whose making of a socket can be held up, as a file system that hangs would.
type rig struct {
	*packsockets.Sockets
	hang    chan struct{} // closed: sockets are made
	hanging chan string   // packs whose socket is being made while it isn't

	mu      sync.Mutex
	removed []string
}

// nobody answers on a socket.
type nobody struct{ uds.Handler }

func newRig(t *testing.T) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "rumi") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &rig{hang: make(chan struct{}), hanging: make(chan string, 1000)}
	r.Sockets = packsockets.New(uds.SetConfig{Dir: dir, Mode: 0o660, GID: -1, Log: slog.New(slog.DiscardHandler), Handler: func(id string) uds.Handler {
		select {
		case <-r.hang:
		default:
			r.hanging <- id
			<-r.hang
		}
		return nobody{}
	}}, func(id string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.removed = append(r.removed, id)
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		r.release()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// release ends what holds the file system up.
func (r *rig) release() {
	select {
	case <-r.hang:
	default:
		close(r.hang)
	}
}

func change(id string, status pack.Status) gate.Change {
	return gate.Change{PackID: id, State: gate.State{PackID: id, Status: status, Open: status.Executable()}}
}

func (r *rig) served(t *testing.T, id string, want bool) {
	t.Helper()
	for began := time.Now(); r.Serving(id) != want; time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("serving %s: %v, want %v", id, !want, want)
		}
	}
}

// The goroutine of the gates' stream must hear that a gate closes, whatever becomes of sockets.
func TestASlowFileSystemHoldsUpNoGate(t *testing.T) {
	r := newRig(t)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		r.GateChanged(change("slow", "approved"))
		for i := range 100 {
			r.GateChanged(change(fmt.Sprint("p", i), "approved"))
		}
		r.GateChanged(change("slow", "blocked"))
	}()
	select {
	case <-heard:
	case <-time.After(patience):
		t.Error("a change of a gate waits until a socket is made")
	}
	<-r.hanging
	r.release()
	<-heard
	r.served(t, "p0", true)
	r.served(t, "p99", true)
	r.served(t, "slow", false)
}

func TestSocketsFollowGates(t *testing.T) {
	r := newRig(t)
	r.release()
	for _, c := range []struct {
		change gate.Change
		want   bool
	}{
		{change("p", "pending"), false},
		{change("p", "approved"), true},
		{change("p", "running"), true},
		{change("p", "modified"), true}, // there it is told why it is refused
		{change("p", "blocked"), false},
		{change("p", "approved"), true},
		{gate.Change{PackID: "p", Removed: true, State: gate.State{Status: "approved"}}, false},
	} {
		r.GateChanged(c.change)
		r.served(t, "p", c.want)
	}
	if err := r.Ready(); err != nil {
		t.Errorf("ready: %v", err)
	}
	r.GateChanged(change("q", "approved"))
	r.served(t, "q", true)
	r.Remove("q")
	if r.Serving("q") {
		t.Error("q is served after Remove")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := slices.Compact(slices.Clone(r.removed)); !slices.Equal(got, []string{"p", "q"}) { // how often p was depends on what coalesced
		t.Errorf("told of the removal of %v, want p and then q", r.removed)
	}
}

// What Run has noted of a pack before Remove must not bring its socket back afterwards.
func TestRemoveOutlastsWhatWasNoted(t *testing.T) {
	r := newRig(t)
	const packs = 50
	for i := range packs {
		r.GateChanged(change(fmt.Sprint("p", i), "approved"))
	}
	first := <-r.hanging // the others are noted, or in Run's hands
	var removing sync.WaitGroup
	started := make(chan struct{}, packs)
	for i := range packs {
		removing.Go(func() {
			started <- struct{}{}
			r.Remove(fmt.Sprint("p", i))
		})
	}
	for range packs {
		<-started
	}
	time.Sleep(10 * time.Millisecond) // nothing tells that Remove waits
	r.release()
	removing.Wait()
	r.GateChanged(change("last", "approved"))
	r.served(t, "last", true) // Run is through
	for i := range packs {
		if id := fmt.Sprint("p", i); r.Serving(id) {
			t.Errorf("%s is served after Remove (%s was first)", id, first)
		}
	}
}
