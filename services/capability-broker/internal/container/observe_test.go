package container

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// A container is a pack's own by its id. What bears its labels and was made by somebody else never serves as one.
func TestStraysAreRemoved(t *testing.T) {
	for name, stray := range map[string]sandbox.Container{
		"a second one":     {ID: "x", PackID: "p", Digest: "d1", Status: "running"},
		"a paused one":     {ID: "x", PackID: "p", Digest: "d1", Status: "paused"},
		"one that ended":   {ID: "x", PackID: "p", Digest: "d1", Status: "exited"},
		"an outdated one":  {ID: "x", PackID: "p", Digest: "d1", Status: "running", Outdated: true},
		"of no pack":       {ID: "x", PackID: "../../p", Digest: "d1", Status: "running"},
		"without a pack":   {ID: "x", Name: "p", Digest: "d1", Status: "running"},
		"of another name":  {ID: "x", Name: "q", PackID: "p", Digest: "d1", Status: "running"},
		"of a pack unseen": {ID: "x", PackID: "q", Digest: "d1", Status: "running"},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				r.gates.set("q", "approved", "d1")
				r.started(t, "p", "d1")
				r.want(t, "before", "p=running", "container_started p <nil>")
				r.docker.stranger(stray)
				reason := reasonNotOurs
				if stray.Outdated {
					reason = reasonOutdated
				}
				owner := " " + stray.PackID + " "
				if stray.PackID == "" {
					owner = "  "
				}
				r.want(t, "at once", "p=running", "stray_container_removed"+owner+reason)
				time.Sleep(time.Hour)
				r.want(t, "and no more", "p=running")
			})
		})
	}
}

// A stop, a removal and an uninstall reach whatever bears the pack's labels, and say that they ended something.
func TestStopReachesStrays(t *testing.T) {
	for name, end := range map[string]func(r *rig) (ended bool, err error){
		"stop": func(r *rig) (bool, error) { return r.Stop(r.background, "p") },
		"delete": func(r *rig) (bool, error) {
			removed, running, err := r.Delete(r.background, "p")
			return removed && running, err
		},
		"uninstall": func(r *rig) (bool, error) {
			removed, err := r.Remove(r.background, "p")
			return removed.Container && removed.Running, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				r.gates.set("p", "approved", "d1")
				r.docker.mu.Lock()
				r.docker.containers["x"] = &sandbox.Container{ID: "x", Kind: sandbox.Pack, Name: "p", PackID: "p", Digest: "d1", Status: "paused"}
				r.docker.mu.Unlock()
				if ended, err := end(r); err != nil || !ended {
					t.Errorf("ended: %v, %v, want true", ended, err)
				}
				r.want(t, "afterwards", "", "stray_container_removed p "+reasonNotOurs)
			})
		})
	}
}

// A paused container is stopped like one that runs, by whomever, and is wanted no more.
func TestPausedContainers(t *testing.T) {
	for name, c := range map[string]struct {
		end    func(t *testing.T, r *rig)
		reason string
	}{
		"stop": {func(t *testing.T, r *rig) {
			if stopped, err := r.Stop(r.background, "p"); err != nil || !stopped {
				t.Errorf("stopped: %v, %v, want true", stopped, err)
			}
		}, "stopped by system"},
		"gate": {func(_ *testing.T, r *rig) { r.GateChanged(r.gates.set("p", "blocked", "d1")) }, "gate closed: the pack is blocked"},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				r.started(t, "p", "d1")
				r.docker.turns("c1", "paused", "pause")
				r.want(t, "paused", "p=paused", "container_started p <nil>")
				if got := r.info(t); got.Status != "paused" || got.Reason != "" || got.RestartAt != nil {
					t.Errorf("it is shown as %+v, want it paused, without a reason or a restart", got)
				}
				c.end(t, r)
				r.want(t, "at once", "p=exited", "container_stopped p "+c.reason)
				time.Sleep(time.Hour)
				r.want(t, "and no more", "p=exited")
			})
		})
	}
}

// A gate that closes while nobody looks at a paused container ends it when it runs on.
func TestUnpauseBehindAClosedGate(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		r.docker.turns("c1", "exited", "")
		r.gates.set("p", "blocked", "d1")
		r.docker.turns("c1", "running", "unpause")
		r.want(t, "at once", "p=exited", "container_started p <nil>", "container_stopped p gate closed: the pack is blocked")
	})
}

// What an earlier version made ends, and what was wanted of it is done by a container that is as it should be.
func TestOutdatedContainersAreReplaced(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		next := r.restarted(t, func() { r.docker.containers["c1"].Outdated = true })
		time.Sleep(time.Second)
		next.want(t, "replaced", "p=running", "container_started p <nil>", "stray_container_removed p "+reasonOutdated, "container_started p <nil>")
		if got := next.info(t); got.ID != "c2" {
			t.Errorf("runs in %s, want c2", got.ID)
		}
		next.stop()
	})
}

// A home that was brought to another machine runs there what it ran.
func TestWhatRanOnAnotherEngineIsWantedHere(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		r.want(t, "before", "p=running", "container_started p <nil>")
		next := r.restarted(t, func() { clear(r.docker.containers); r.docker.id = "engine-2" })
		time.Sleep(time.Second)
		next.want(t, "there", "p=running", "container_stopped p "+reasonMoved, "container_started p <nil>")
		next.stop()
	})
}

// The engine says whether a container was started. Two clocks that differ say nothing.
func TestClockThatIsSetBack(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		r.docker.mu.Lock()
		c := r.docker.containers["c1"]
		c.Started = c.Started.Add(-time.Hour)
		c.Status, c.Finished, c.Exit = "exited", c.Started.Add(time.Second), sandbox.Exit{Code: 137}
		r.docker.publish(sandbox.Event{Action: "die", Container: *c, ExitCode: 137})
		r.docker.mu.Unlock()
		r.want(t, "its end", "p=exited", "container_started p <nil>", "container_stopped p exited")
		time.Sleep(time.Hour)
		r.want(t, "left alone", "p=exited")
	})
}

// No pause is longer than a minute: a restart that is due later is due by a clock that was ahead.
func TestRestartThatAClockAheadPutOff(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.describe(t, describing("always"))
		r.started(t, "p", "d1")
		r.docker.exits("p", sandbox.Exit{Code: 1})
		synctest.Wait()
		record, err := r.records.Record(t.Context(), "p")
		if err != nil {
			t.Fatal(err)
		}
		record.RestartAt = time.Now().Add(24 * time.Hour)
		if err := r.records.PutRecord(t.Context(), record); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * requeueInterval)
		r.want(t, "soon", "p=running", "container_started p <nil>", "container_stopped p exited", "container_started p <nil>")
	})
}

// One stray that can't be removed keeps neither the others nor the pack's own from being looked after.
func TestStrayThatCanNotBeRemoved(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		r.docker.stuck = map[string]error{"x": errors.New("device busy")}
		r.docker.stranger(sandbox.Container{ID: "x", PackID: "p", Status: "dead"})
		r.docker.stranger(sandbox.Container{ID: "y", PackID: "p", Status: "running"})
		r.GateChanged(r.gates.set("p", "blocked", "d1"))
		r.want(t, "all but one", "p=dead p=exited", "container_started p <nil>", "stray_container_removed p "+reasonNotOurs,
			"container_stopped p gate closed: the pack is blocked")
	})
}

// What the end of the suite stops is started by the next broker; what an operator had stopped isn't. Meanwhile nothing is.
func TestSuiteStops(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		r.started(t, "q", "d1")
		if _, err := r.Stop(t.Context(), "q"); err != nil {
			t.Fatal(err)
		}
		r.want(t, "before", "p=running q=exited", "container_started p <nil>", "container_started q <nil>", "container_stopped q stopped by system")
		r.DisableRestarts()
		if err := r.StopAll(t.Context(), "the suite stops"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		r.want(t, "stopped", "p=exited q=exited", "container_stopped p the suite stops")
		next := r.restarted(t, func() {})
		time.Sleep(time.Second)
		next.want(t, "with the next suite", "p=running q=exited", "container_started p <nil>")
		next.stop()
	})
}

// What approval says of a child whose parent was stopped becomes what is, though its gate tells its parent's status.
func TestStoppedChildIsReported(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		time.Sleep(2 * requeueInterval)
		before := r.gates.reported()
		r.GateChanged(r.gates.set("p", "modified", "d1")) // as its parent is
		time.Sleep(time.Minute)
		if reports := r.gates.reported(); reports != before+1 {
			t.Errorf("reported %d times that it has stopped, want once", reports-before)
		}
	})
}

// A refusal of a child names the parent that it is for.
func TestRefusalNamesTheParent(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		for status, want := range map[string]string{
			"modified": "Pack not approved: modified (its parent 'fam' is modified)", "": "Pack not approved: modified (its parent 'fam' is not installed)",
		} {
			if r.gates.set("fam__kid", "modified", "d1"); status != "" {
				r.gates.set("fam", status, "d1")
			} else {
				r.gates.remove("fam")
			}
			if _, err := r.Start(t.Context(), "fam__kid"); fault.Of(err).Message != want {
				t.Errorf("got %q, want %q", fault.Of(err).Message, want)
			}
		}
	})
}

// A refusal says why the gate is closed, where approval tells.
func TestRefusalSaysWhy(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		state := gate.State{PackID: "p", Status: "modified", Reason: "2 files changed; GET /api/packs/p/review"}
		want := "Pack not approved: modified (2 files changed; GET /api/packs/p/review)"
		if got := r.gateFault("p", state).Message; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		r.gates.set("fam", "modified", "d1")
		state.PackID = "fam__kid"
		want = "Pack not approved: modified (its parent 'fam' is modified)"
		if got := r.gateFault("fam__kid", state).Message; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// What a pack printed outlives its container, for the last runs, and goes with the pack.
func TestOutputOutlivesAnApproval(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		for i := range RunsKept + 2 {
			r.started(t, "p", fmt.Sprint("d", i+1))
			time.Sleep(time.Second)
		}
		read := func(lines iter.Seq2[sandbox.Line, error], err error) string {
			t.Helper()
			var texts []string
			if err == nil {
				for line, failure := range lines {
					texts, err = append(texts, line.Stream+": "+line.Text), errors.Join(err, failure)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			return strings.Join(texts, ", ")
		}
		if got, want := read(r.RunLogs("p", -1)), "run: started d6, stdout: by c6 \uFFFD"; got != want {
			t.Errorf("the run before: %q, want %q", got, want)
		}
		if got, want := read(r.RunLogs("p", -RunsKept)), "run: started d2, stdout: by c2 \uFFFD"; got != want {
			t.Errorf("the oldest run: %q, want %q", got, want)
		}
		if _, err := r.RunLogs("p", -RunsKept-1); !fault.Is(err, fault.KindNotFound) {
			t.Errorf("one that isn't kept: %v; want not found", err)
		}
		if got, want := read(r.LogsSince(t.Context(), "p", time.Now().Add(-2*time.Second))),
			"run: started d6, stdout: by c6 \uFFFD, run: started d7, stdout: by c7 \xff"; got != want {
			t.Errorf("of two seconds: %q, want %q", got, want)
		}
		if _, err := r.Remove(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.RunLogs("p", -1); !fault.Is(err, fault.KindNotFound) {
			t.Errorf("after the uninstall: got %v, want not found", err)
		}
	})
}
