package container

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rumi-ai/rumi/libs/fault"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/uds"
)

type rig struct {
	*Manager
	docker *docker
	gates  *approval
	log    *auditLog
	shelf  *shelf

	packages *packages
	records  *records
	config   Config
	stop     func() // the watching
	pack     string // the folder that every pack's code is
}

func (r *rig) watch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error)
	go func() { watched <- r.Watch(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-watched; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
}

func (r *rig) describe(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(r.pack, "ecosystem.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// run makes a Manager in a bubble and watches for as long as test runs.
func run(t *testing.T, test func(t *testing.T, r *rig), settings ...func(*Config)) {
	code, sockets := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(code, "ecosystem.json"), []byte(`{"pack_id":"p","pack_identity":"x","version":"1"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"p", "q"} {
		dir := filepath.Join(sockets, uds.DirName(id))
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, uds.SocketName), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	data, locks, installed, runs := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{docker: newDocker(), gates: &approval{states: make(map[string]gate.State)}, log: &auditLog{},
			shelf: &shelf{dir: code, kept: map[string]bool{"d1": true, "d2": true, "d3": true}}, pack: code,
			packages: &packages{shelf{dir: installed, kept: map[string]bool{"e1": true, "e2": true}}}, records: &records{kept: make(map[string]Record)}}
		r.config = Config{Policy: policy.Fixed{Policy: policy.None()}, Engine: r.docker, Records: r.records, Gates: r.gates, Trees: r.shelf, Environments: r.packages, Reporter: r.gates, Audit: r.log,
			Log: slog.New(slog.DiscardHandler), Image: "image", DataDir: data, RunsDir: runs, LockDir: locks, EgressDir: sockets, CapabilityDir: sockets,
			SocketsOwned: func() error { return nil }, Metrics: prometheus.NewRegistry()}
		for _, set := range settings {
			set(&r.config)
		}
		r.Manager = New(r.config)
		r.watch(t)
		defer func() { r.stop() }()
		test(t, r)
	})
}

func (r *rig) started(t *testing.T, id, digest string) {
	t.Helper()
	r.GateChanged(r.gates.set(id, "approved", digest))
	if _, err := r.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func (r *rig) want(t *testing.T, what, statuses string, entries ...string) {
	t.Helper()
	synctest.Wait()
	if got := r.docker.statuses(); got != statuses {
		t.Errorf("%s: %s, want %s", what, got, statuses)
	}
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	if !slices.Equal(r.log.entries, entries) {
		t.Errorf("%s: entries %q, want %q", what, r.log.entries, entries)
	}
	r.log.entries = nil
}

func TestClosedGatesStopContainersAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(r *rig) gate.Change
		statuses string
		entry    string
	}{
		"modified":        {func(r *rig) gate.Change { return r.gates.set("p", "modified", "d1") }, "p=exited q=running", "container_stopped p gate closed: the pack is modified"},
		"rejected":        {func(r *rig) gate.Change { return r.gates.set("p", "blocked", "d1") }, "p=exited q=running", "container_stopped p gate closed: the pack is blocked"},
		"another version": {func(r *rig) gate.Change { return r.gates.set("p", "approved", "d2") }, "p=exited q=running", "container_stopped p another version was approved"},
		"uninstalled":     {func(r *rig) gate.Change { return r.gates.remove("p") }, "q=running", "container_deleted p <nil>"},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				r.started(t, "p", "d1")
				r.started(t, "q", "d1")
				r.want(t, "started", "p=running q=running", "container_started p <nil>", "container_started q <nil>")
				r.GateChanged(c.change(r))
				r.want(t, "at once", c.statuses, c.entry)
				for _, grace := range r.docker.stopped {
					if grace != 0 {
						t.Errorf("waited %v for the pack to agree", grace)
					}
				}
			})
		})
	}
}

// A change that nobody told of is found.
func TestBackstop(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		r.gates.set("p", "modified", "d1")
		time.Sleep(requeueInterval + time.Millisecond)
		r.want(t, "found", "p=exited", "container_started p <nil>", "container_stopped p gate closed: the pack is modified")
	})
}

func TestSilentApproval(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		r.gates.silence(true)
		state, _ := r.gates.Get("p")
		r.GateChanged(gate.Change{PackID: "p", State: state}) // as gate.View tells it when the lease runs out
		time.Sleep(leaseGrace - time.Second)
		r.want(t, "for a while", "p=running", "container_started p <nil>")
		if _, err := r.Start(t.Context(), "p"); !fault.Is(err, fault.KindUnavailable) {
			t.Errorf("the start meanwhile got %v, want unavailable", err)
		}
		r.gates.silence(false)
		time.Sleep(time.Minute)
		r.want(t, "came back in time", "p=running")
		r.gates.silence(true)
		time.Sleep(leaseGrace + time.Second)
		r.want(t, "for long", "p=exited", "container_stopped p gate closed: approval does not answer")
	})
}

func TestGateThatClosesDuringTheStart(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.gates.set("p", "approved", "d1")
		r.docker.onStart = func() { r.GateChanged(r.gates.set("p", "blocked", "d1")) }
		if _, err := r.Start(t.Context(), "p"); !fault.Is(err, fault.KindDenied) || fault.Of(err).Message != "Pack not approved: blocked" {
			t.Errorf("got %v, want that the pack is blocked", err)
		}
		r.want(t, "afterwards", "p=exited", "container_started p <nil>", "container_stopped p gate closed")
	})
}

func TestNothingRunsWithoutAnEntry(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.gates.set("p", "approved", "d1")
		r.log.failing = errors.New("disk full")
		if _, err := r.Start(t.Context(), "p"); err == nil {
			t.Error("started without an entry")
		}
		r.log.failing = nil
		r.want(t, "afterwards", "p=exited")
	})
}

func TestDockerThatGoesAway(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		r.docker.mu.Lock()
		r.docker.down = true
		r.docker.mu.Unlock()
		r.GateChanged(r.gates.set("p", "modified", "d1"))
		time.Sleep(3 * time.Second)
		if _, err := r.List(t.Context()); !fault.Is(err, fault.KindUnavailable) {
			t.Errorf("the list without an engine: got %v, want unavailable", err)
		}
		r.docker.mu.Lock()
		r.docker.down = false
		r.docker.mu.Unlock()
		time.Sleep(time.Second)
		r.want(t, "it is stopped as soon as it can be", "p=exited", "container_started p <nil>", "container_stopped p gate closed: the pack is modified")
	})
}

func TestExitIsNoticed(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		r.docker.exits("p", sandbox.Exit{Code: 3, OOMKilled: true})
		r.want(t, "noticed", "p=exited", "container_started p <nil>", "container_stopped p exited")
		list, err := r.List(t.Context())
		if err != nil || len(list) != 1 || *list[0].ExitCode != 3 || !list[0].OOMKilled || list[0].FinishedAt == nil || list[0].RestartAt != nil ||
			list[0].Reason != "out of memory" || list[0].RestartPolicy != "no" {
			t.Errorf("the list is %+v, %v; want that p ran out of memory with the exit code 3", list, err)
		}
		time.Sleep(time.Hour)
		r.want(t, "left alone", "p=exited")
		// Starting anew makes a new container.
		if started, err := r.Start(t.Context(), "p"); err != nil || started.ID != "c2" {
			t.Errorf("the start gave %+v, %v; want the new container c2", started, err)
		}
		r.want(t, "anew", "p=running", "container_started p <nil>")
	})
}

// An engine may tell of memory that ran out after it has told of the end, with which it then doesn't connect it.
func TestLateWordOfMemory(t *testing.T) {
	for code, want := range map[int]bool{137: true, 1: false} {
		run(t, func(t *testing.T, r *rig) {
			r.started(t, "p", "d1")
			r.docker.exits("p", sandbox.Exit{Code: code})
			r.want(t, "its end", "p=exited", "container_started p <nil>", "container_stopped p exited")
			c, err := r.docker.Find(t.Context(), sandbox.Pack, "p")
			if err != nil {
				t.Fatal(err)
			}
			r.docker.events <- sandbox.Event{Action: "oom", Container: c[0]}
			synctest.Wait()
			if got := r.info(t); got.OOMKilled != want || (got.Reason == "out of memory") != want {
				t.Errorf("exit status %d: %+v; want that it ran out of memory: %v", code, got, want)
			}
		})
	}
}

func TestTreesThatNobodyNeedsAreSwept(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		r.gates.set("q", "approved", "d2")
		time.Sleep(sweepInterval)
		synctest.Wait()
		r.shelf.mu.Lock()
		defer r.shelf.mu.Unlock()
		if got := slices.Sorted(maps.Keys(r.shelf.kept)); !slices.Equal(got, []string{"d1", "d2"}) {
			t.Errorf("the versions kept are %v, want d1 and d2", got)
		}
		r.packages.mu.Lock()
		defer r.packages.mu.Unlock()
		if got := slices.Sorted(maps.Keys(r.packages.kept)); !slices.Equal(got, []string{"e1"}) {
			t.Errorf("the dependencies kept are %v, want e1", got)
		}
	})
}

// What approval says of a container becomes what is, whatever went wrong on the way, and is then left alone.
func TestApprovalLearnsWhatRuns(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		status := func(what, want string) {
			t.Helper()
			time.Sleep(2 * requeueInterval)
			synctest.Wait()
			if s, _ := r.gates.Get("p"); string(s.Status) != want || !s.Open {
				t.Errorf("%s: %+v, want %s", what, s, want)
			}
		}
		r.gates.failing = errDown
		r.started(t, "p", "d1")
		status("approval is down", "approved")
		r.gates.mu.Lock()
		r.gates.failing = nil
		r.gates.mu.Unlock()
		status("started", "running")
		time.Sleep(time.Minute)
		if r.gates.reports != 1 {
			t.Errorf("%d reports of one start", r.gates.reports)
		}
		if _, err := r.Stop(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		status("stopped", "approved")
	})
}
