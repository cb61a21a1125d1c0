package container

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

func describing(restart string) string {
	return fmt.Sprintf(`{"pack_id":"p","pack_identity":"x","version":"1","restart":%q}`, restart)
}

// info is p's entry in the list.
func (r *rig) info(t *testing.T) Info {
	t.Helper()
	list, err := r.List(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("the list is %+v, %v; want one container", list, err)
	}
	return list[0]
}

func TestPolicies(t *testing.T) {
	for policy, again := range map[pack.Restart][4]bool{ // after exit 0, exit 1, the end of memory, and that of a child's whose loss was handled
		"": {}, "no": {}, "on-failure": {false, true, true, false}, "always": {true, true, true, true},
	} {
		for i, exit := range []sandbox.Exit{{}, {Code: 1}, {Code: 137, OOMKilled: true}, {OOMKilled: true}} {
			run(t, func(t *testing.T, r *rig) {
				r.describe(t, describing(string(policy)))
				r.started(t, "p", "d1")
				r.docker.exits("p", exit)
				r.want(t, "its end", "p=exited", "container_started p <nil>", "container_stopped p exited")
				time.Sleep(firstPause + requeueInterval)
				if again[i] {
					r.want(t, "again", "p=running", "container_started p <nil>")
				} else {
					r.want(t, "left alone", "p=exited")
				}
			})
		}
	}
}

// crash has p's container end, and checks that it runs again, and is the same one, after a pause of want and not before.
func (r *rig) crash(t *testing.T, want time.Duration) {
	t.Helper()
	before := r.info(t)
	r.docker.exits("p", sandbox.Exit{Code: 7})
	synctest.Wait()
	ended := r.info(t)
	if ended.RestartAt == nil || time.Until(*ended.RestartAt).Round(time.Millisecond) != want || ended.Status != "exited" || *ended.ExitCode != 7 {
		t.Fatalf("pause of %v: %+v; want it exited with 7, to be restarted after the pause", want, ended)
	}
	time.Sleep(want - time.Millisecond)
	if s := r.info(t).Status; s != "exited" {
		t.Fatalf("%s before the pause of %v is over", s, want)
	}
	time.Sleep(requeueInterval + time.Millisecond)
	synctest.Wait()
	after := r.info(t)
	if after.Status != "running" || after.ID != before.ID || after.Restarts != before.Restarts+1 || after.ExitCode != nil ||
		after.LastExit == nil || after.LastExit.Code != 7 || after.RestartAt != nil {
		t.Fatalf("after a pause of %v: %+v; want the same container, running, with one restart more", want, after)
	}
}

// The pause doubles up to a minute, and begins anew after a run that was long. The container, and its log, stay the same.
func TestPausesGrow(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.describe(t, describing("always"))
		r.started(t, "p", "d1")
		for _, pause := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
			r.crash(t, pause*time.Second)
		}
		time.Sleep(steadyAfter + time.Second)
		r.crash(t, time.Second)
		// An operator's start begins anew.
		if _, err := r.Stop(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Start(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		if got := r.info(t); got.Restarts != 0 || got.LastExit != nil {
			t.Errorf("after a start: %+v; want no restarts and no last exit", got)
		}
	})
}

// What an operator or a gate has stopped isn't started again, nor is what waits for it when it happens.
func TestStoppedStaysStopped(t *testing.T) {
	for name, c := range map[string]struct {
		stop   func(r *rig) error
		entry  string
		reason string
	}{
		"stopped": {func(r *rig) error { _, err := r.Stop(r.background, "p"); return err }, "container_stopped p stopped by system", "stopped by system"},
		"modified": {func(r *rig) error { r.GateChanged(r.gates.set("p", "modified", "d1")); return nil },
			"container_stopped p gate closed: the pack is modified", "gate closed: the pack is modified"},
	} {
		for _, waiting := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s waiting=%v", name, waiting), func(t *testing.T) {
				run(t, func(t *testing.T, r *rig) {
					r.describe(t, describing("always"))
					r.started(t, "p", "d1")
					want := []string{"container_started p <nil>"}
					if waiting {
						r.docker.exits("p", sandbox.Exit{Code: 1})
						synctest.Wait()
						want = append(want, "container_stopped p exited")
					} else {
						want = append(want, c.entry)
					}
					if err := c.stop(r); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					time.Sleep(5 * time.Second)
					r.gates.set("p", "approved", "d1")
					time.Sleep(time.Hour)
					r.want(t, "stopped", "p=exited", want...)
					if got := r.info(t); got.RestartAt != nil || !waiting && got.Reason != c.reason {
						t.Errorf("stopped: got restart at %v, reason %q; want no restart, reason %q", got.RestartAt, got.Reason, c.reason)
					}
				})
			})
		}
	}
}

func TestNewVersionIsNotStartedForAnOldOne(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.describe(t, describing("always"))
		r.started(t, "p", "d1")
		r.docker.exits("p", sandbox.Exit{Code: 1})
		r.GateChanged(r.gates.set("p", "approved", "d2"))
		time.Sleep(time.Minute)
		r.want(t, "waits for an operator", "p=exited", "container_started p <nil>", "container_stopped p exited")
		if got := r.info(t); got.Reason != "another version was approved" {
			t.Errorf("got reason %q, want that another version was approved", got.Reason)
		}
	})
}

// An approval that was away for so long that containers had to go brings them back.
func TestApprovalComesBack(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		r.gates.silence(true)
		time.Sleep(leaseGrace + time.Second)
		r.want(t, "gone", "p=exited", "container_started p <nil>", "container_stopped p gate closed: approval does not answer")
		r.gates.silence(false)
		time.Sleep(2 * requeueInterval)
		r.want(t, "back", "p=running", "container_started p <nil>")
	})
}

// Containers that ended with the engine are started again when it is back, whatever their policy; those that ended before by
// themselves aren't.
func TestEngineRestarts(t *testing.T) {
	for name, exit := range map[string]sandbox.Exit{"killed": {Code: 137}, "went politely": {}} {
		for _, reported := range []bool{false, true} { // their ends, before that of the engine
			t.Run(fmt.Sprintf("%s reported=%v", name, reported), func(t *testing.T) {
				run(t, func(t *testing.T, r *rig) {
					r.started(t, "q", "d1")
					r.docker.exits("q", sandbox.Exit{Code: 2})
					r.want(t, "before", "q=exited", "container_started q <nil>", "container_stopped q exited")
					time.Sleep(time.Minute)
					r.started(t, "p", "d1")
					if reported {
						r.docker.exits("p", exit)
						synctest.Wait()
						time.Sleep(time.Second)
						r.docker.goes(nil)
					} else {
						r.docker.goes(&exit)
					}
					time.Sleep(10 * time.Second)
					if _, err := r.Start(t.Context(), "p"); !fault.Is(err, fault.KindUnavailable) {
						t.Errorf("the start meanwhile got %v, want unavailable", err)
					}
					r.docker.comes()
					synctest.Wait()
					stopped := "container_stopped p " + reasonWithEngine
					if reported {
						stopped = "container_stopped p exited"
					}
					r.want(t, "afterwards", "p=running q=exited", "container_started p <nil>", stopped, "container_started p <nil>")
					time.Sleep(time.Hour)
					r.want(t, "and no more", "p=running q=exited")
				})
			})
		}
	}
}

// To what the clock is set while packs run says nothing about why they end.
func TestEngineRestartsWhileTheClockIsSet(t *testing.T) {
	for _, ahead := range []time.Duration{-365 * 24 * time.Hour, -time.Hour, time.Hour, 365 * 24 * time.Hour} {
		for _, reported := range []bool{false, true} { // of the ends, before that of the engine
			t.Run(fmt.Sprintf("with the engine, clock=%v reported=%v", ahead, reported), func(t *testing.T) {
				run(t, func(t *testing.T, r *rig) {
					r.started(t, "p", "d1")
					time.Sleep(time.Minute)
					r.docker.setClock(ahead)
					stopped := "container_stopped p " + reasonWithEngine
					if reported {
						r.docker.exits("p", sandbox.Exit{Code: 143})
						synctest.Wait()
						time.Sleep(time.Second)
						r.docker.goes(nil)
						stopped = "container_stopped p exited"
					} else {
						r.docker.goes(&sandbox.Exit{Code: 143})
					}
					time.Sleep(10 * time.Second)
					r.docker.comes()
					r.want(t, "afterwards", "p=running", "container_started p <nil>", stopped, "container_started p <nil>")
				})
			})
		}
	}
	// Where the clock was set back or ahead between an end and the outage, the engine wrote a time of the outage beside the end.
	for _, ahead := range []time.Duration{-time.Hour, time.Hour} {
		t.Run(fmt.Sprintf("by itself, clock=%v", ahead), func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				r.started(t, "p", "d1")
				ends := func() { r.docker.exits("p", sandbox.Exit{}); synctest.Wait() }
				if ahead > 0 {
					r.docker.setClock(ahead + 5*time.Second)
					ends()
					time.Sleep(ahead)
				}
				r.docker.goes(nil)
				time.Sleep(10 * time.Second)
				r.docker.comes()
				synctest.Wait()
				if ahead < 0 {
					time.Sleep(-ahead)
					r.docker.setClock(ahead - 5*time.Second)
					ends()
				}
				r.want(t, "ended", "p=exited", "container_started p <nil>", "container_stopped p exited")
				time.Sleep(time.Hour)
				r.want(t, "left alone", "p=exited")
			})
		})
	}
}

// An engine with live restore goes and comes, and nothing else happens.
func TestEngineRestartsWithLiveRestore(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		r.docker.goes(nil)
		time.Sleep(10 * time.Second)
		r.docker.comes()
		time.Sleep(time.Minute)
		r.want(t, "afterwards", "p=running", "container_started p <nil>")
	})
}

// restarted makes a Manager on what the rig's leaves behind, as after kill -9 of a broker.
func (r *rig) restarted(t *testing.T, meanwhile func()) *rig {
	t.Helper()
	r.stop()
	meanwhile()
	next := *r
	next.docker = &docker{containers: r.docker.containers, made: r.docker.made, id: r.docker.id, events: make(chan sandbox.Event, 100)}
	next.config.Engine = next.docker
	next.records.changed = true
	next.config.Metrics = prometheus.NewRegistry()
	next.Manager = New(next.config)
	next.watch(t)
	return &next
}

func TestBrokerRestarts(t *testing.T) {
	for name, c := range map[string]struct {
		restart   string
		meanwhile func(t *testing.T, r *rig)
		statuses  string
		entries   []string
	}{
		"nothing happened": {"no", func(*testing.T, *rig) {}, "p=running", nil},
		"the host was off": {"no", func(t *testing.T, r *rig) { r.docker.exits("p", sandbox.Exit{Code: 137}) }, "p=running", []string{"container_stopped p " + reasonWithEngine, "container_started p <nil>"}},
		"it ran out of memory": {"no", func(t *testing.T, r *rig) { r.docker.exits("p", sandbox.Exit{Code: 137, OOMKilled: true}) }, "p=exited",
			[]string{"container_stopped p exited"}},
		"it did its work":     {"no", func(t *testing.T, r *rig) { r.docker.exits("p", sandbox.Exit{}) }, "p=exited", []string{"container_stopped p exited"}},
		"it crashed":          {"on-failure", func(t *testing.T, r *rig) { r.docker.exits("p", sandbox.Exit{Code: 1}) }, "p=running", []string{"container_stopped p exited", "container_started p <nil>"}},
		"somebody removed it": {"always", func(t *testing.T, r *rig) { _ = r.docker.Remove(t.Context(), "c1") }, "", []string{"container_stopped p removed from outside"}},
		"it was modified": {"always", func(t *testing.T, r *rig) { r.gates.set("p", "modified", "d1") }, "p=exited",
			[]string{"container_stopped p gate closed: the pack is modified"}},
		"the broker was killed while it started it": {"no", func(t *testing.T, r *rig) {
			r.docker.containers["c1"].Status, r.docker.containers["c1"].Started = "created", time.Time{}
		}, "p=running", []string{"container_started p <nil>"}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				r.describe(t, describing(c.restart))
				r.started(t, "p", "d1")
				time.Sleep(time.Second)
				r.want(t, "before", "p=running", "container_started p <nil>")
				next := r.restarted(t, func() { time.Sleep(time.Second); c.meanwhile(t, r); time.Sleep(time.Second) })
				time.Sleep(5 * time.Second)
				next.want(t, "afterwards", c.statuses, c.entries...)
				next.stop()
			})
		})
	}
}

// A database that is away keeps nobody from being stopped whose gate is closed.
func TestClosedGatesNeedNoDatabase(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.describe(t, describing("always"))
		r.started(t, "p", "d1")
		r.records.fails(fault.Unavailable("Database is not available"))
		r.GateChanged(r.gates.set("p", "blocked", "d1"))
		r.want(t, "at once", "p=exited", "container_started p <nil>", "container_stopped p gate closed: the pack is blocked")
		if _, err := r.Start(t.Context(), "p"); err == nil {
			t.Error("started what can't be recorded")
		}
		r.records.fails(nil)
		time.Sleep(time.Hour)
		if got := r.docker.statuses(); got != "p=exited" {
			t.Errorf("after an hour the containers are %s, want p=exited", got)
		}
	})
}

func TestStartThatCanNotBeRecordedLeavesNothing(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.gates.set("p", "approved", "d1")
		r.records.fails(errors.New("no database"))
		if _, err := r.Start(t.Context(), "p"); err == nil {
			t.Error("started without a record, want an error")
		}
		r.want(t, "nothing", "")
	})
}

// What is as it should be is no failure: neither a container that goes nor one that never was.
func TestNothingToDoIsNoFailure(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		if err := r.reconcile(t.Context(), "p"); err != nil {
			t.Errorf("while it runs: %v", err)
		}
		if _, _, err := r.Delete(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"p", "q"} {
			if err := r.reconcile(t.Context(), id); err != nil {
				t.Errorf("%s, without a container: %v", id, err)
			}
		}
	})
}

func TestMissedEventsAreMadeUpFor(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.started(t, "p", "d1")
		r.docker.mu.Lock()
		c := r.docker.containers["c1"]
		c.Status, c.Finished, c.Exit = "exited", time.Now(), sandbox.Exit{Code: 5}
		r.docker.mu.Unlock()
		time.Sleep(scanInterval + time.Second)
		r.want(t, "found", "p=exited", "container_started p <nil>", "container_stopped p exited")
	})
}

func TestLimitsAreCut(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.describe(t, `{"pack_id":"p","pack_identity":"x","version":"1","resources":{"memory_mb":4096,"cpus":0.5,"pids":1000}}`)
		r.started(t, "p", "d1")
		got := r.info(t)
		if *got.Limits != (pack.Resources{MemoryMB: 1024, CPUs: 0.5, PIDs: 128}) || len(got.Warnings) != 2 {
			t.Errorf("got limits %+v, warnings %q; want 1024 MiB, 0.5 CPUs, 128 processes and two warnings", *got.Limits, got.Warnings)
		}
	}, func(c *Config) { c.Ceiling = sandbox.Limits{Memory: 1 << 30, CPUs: 2} })
}

// A restart that fails may have lost its container. What goes on being tried ends all the same when an operator says so.
func TestWaitingWithoutAContainerEnds(t *testing.T) {
	for name, end := range map[string]func(r *rig) error{
		"stop":   func(r *rig) error { _, err := r.Stop(r.background, "p"); return err },
		"delete": func(r *rig) error { _, _, err := r.Delete(r.background, "p"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				r.describe(t, describing("always"))
				r.started(t, "p", "d1")
				r.docker.exits("p", sandbox.Exit{Code: 1})
				synctest.Wait()
				r.describe(t, `{"pack_id":"p","pack_identity":"x","version":"1","restart":"always","resources":{"pids":64}}`)
				r.docker.refuseCreate(true)
				time.Sleep(firstPause + requeueInterval)
				r.want(t, "no image", "", "container_started p <nil>", "container_stopped p exited")
				if err := end(r); err != nil {
					t.Fatal(err)
				}
				r.docker.refuseCreate(false)
				time.Sleep(2 * longestPause)
				r.want(t, "left alone", "")
			})
		})
	}
}
