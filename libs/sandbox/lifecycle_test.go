package sandbox

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/testenv"
)

// checkRunning checks what is said of a container that runs; made is what Create said of it.
func checkRunning(t *testing.T, engine *Engine, made Container) {
	t.Helper()
	all, err := engine.Find(t.Context(), Pack, made.Name)
	if err != nil || len(all) != 1 || !all[0].Running() {
		t.Fatalf("got %+v, %v; want one container that runs", all, err)
	}
	found := all[0]
	if found.Started.IsZero() || !found.Finished.IsZero() {
		t.Errorf("started at %v, finished at %v", found.Started, found.Finished)
	}
	found.Status, found.Created, found.Started = made.Status, made.Created, made.Started
	if found != made {
		t.Errorf("found %+v, made %+v; want the same", found, made)
	}
	inspected, err := engine.Inspect(t.Context(), made.ID)
	if err != nil || !inspected.Running() || inspected.Image != probeImage || !strings.HasPrefix(inspected.ImageID, "sha256:") {
		t.Errorf("got %+v, %v; want a container that runs %s", inspected, err, probeImage)
	}
}

// checkStopped checks what is said of a container that was stopped and ended with status 0.
func checkStopped(t *testing.T, engine *Engine, id string) {
	t.Helper()
	if exit, err := engine.Wait(t.Context(), id); err != nil || exit != (Exit{}) {
		t.Errorf("stopped one ended with %+v, %v", exit, err)
	}
	if ended, err := engine.Inspect(t.Context(), id); err != nil || !ended.Finished.After(ended.Started) || ended.Exit != (Exit{}) {
		t.Errorf("the stopped one is %+v, %v; want it ended after its start, with 0", ended, err)
	}
	if _, err := engine.Stats(t.Context(), id); !errors.Is(err, ErrNotRunning) {
		t.Errorf("statistics of a stopped one: %v; want ErrNotRunning", err)
	}
}

func TestLife(t *testing.T) {
	engine := testEngine(t)
	spec := probe(t, Pack, "sleep")
	spec.PackID, spec.Principal, spec.Digest = "weather", "weather", "sha256:00"
	c := create(t, engine, spec)
	if _, err := engine.Create(t.Context(), spec); !errors.Is(err, ErrExists) {
		t.Errorf("a second one of that name: %v; want ErrExists", err)
	}
	for range 2 { // twice does no harm
		if err := engine.Start(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
	}
	checkRunning(t, engine, c)
	for range engine.Logs(t.Context(), c.ID, LogOptions{Follow: true}) {
		break // "ready": it handles SIGTERM from here on
	}
	for range 2 {
		if err := engine.Stop(t.Context(), c.ID, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	checkStopped(t, engine, c.ID)
	for range 2 {
		if err := engine.Remove(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := engine.Find(t.Context(), Pack, spec.Name); err != nil || len(all) > 0 {
		t.Errorf("a removed one is found: %v, %v; want none", all, err)
	}
}

func TestWaitTellsTheStatus(t *testing.T) {
	if exit, _ := finish(t, testEngine(t), probe(t, Pack, "exit", "7")); exit != (Exit{Code: 7}) {
		t.Errorf("it ended with %+v, want 7", exit)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	engine := testEngine(t)
	c := create(t, engine, probe(t, Pack, "sleep"))
	if err := engine.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := engine.Wait(ctx, c.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the wait ended with %v, want its deadline's error", err)
	}
}

// Nobody's containers but the instance's own may be seen or touched, not by their ids either.
func TestOthersContainersAreNotThere(t *testing.T) {
	engine := testEngine(t)
	other, err := Connect(t.Context(), Config{Instance: testInstance + "-other"})
	if err != nil {
		t.Fatal(err)
	}
	c := create(t, engine, probe(t, Pack, "sleep"))
	if err := engine.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if all, err := other.List(t.Context(), ""); err != nil || len(all) > 0 {
		t.Errorf("another instance lists %v, %v; want none of these", all, err)
	}
	if removed, err := other.Sweep(t.Context(), "", nil); err != nil || len(removed) > 0 {
		t.Errorf("another instance swept %v, %v; want none of these", removed, err)
	}
	if err := other.Remove(t.Context(), c.ID); err != nil {
		t.Error(err)
	}
	_, attachErr := other.Attach(t.Context(), c.ID, nil)
	_, waitErr := other.Wait(t.Context(), c.ID)
	var logErr error
	for _, logErr = range other.Logs(t.Context(), c.ID, LogOptions{}) {
	}
	for verb, err := range map[string]error{
		"start": other.Start(t.Context(), c.ID), "stop": other.Stop(t.Context(), c.ID, 0),
		"attach": attachErr, "wait": waitErr, "logs": logErr,
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s of another instance's container: got %v, want ErrNotFound", verb, err)
		}
	}
	if c, err := engine.Inspect(t.Context(), c.ID); err != nil || !c.Running() {
		t.Errorf("got %+v, %v; want a container that still runs", c, err)
	}
}

func TestSweepRemovesOrphans(t *testing.T) {
	// An instance of its own: it removes whole kinds.
	testenv.NeedsEngine(t)
	engine, err := Connect(t.Context(), Config{Instance: testInstance + "-sweep"})
	if err != nil {
		t.Fatal(err)
	}
	running := create(t, engine, probe(t, Handler, "sleep"))
	if err := engine.Start(t.Context(), running.ID); err != nil {
		t.Fatal(err)
	}
	never := create(t, engine, probe(t, Handler, "sleep"))
	kept := create(t, engine, probe(t, Handler, "sleep"))
	pack := create(t, engine, probe(t, Pack, "sleep"))
	removed, err := engine.Sweep(t.Context(), Handler, func(c Container) bool { return c.ID == kept.ID })
	if err != nil || len(removed) != 2 {
		t.Fatalf("swept %v, %v; want two", removed, err)
	}
	for _, c := range removed {
		if c.ID != running.ID && c.ID != never.ID {
			t.Errorf("swept %+v, want only the running one and the one that never ran", c)
		}
	}
	left, err := engine.List(t.Context(), "")
	if err != nil || len(left) != 2 {
		t.Errorf("%v are left, %v; want two", left, err)
	}
	if packs, err := engine.List(t.Context(), Pack); err != nil || len(packs) != 1 || packs[0].ID != pack.ID {
		t.Errorf("the packs' are %v, %v; want only %s", packs, err, pack.ID)
	}
}

func TestEvents(t *testing.T) {
	testenv.NeedsEngine(t)
	engine, err := Connect(t.Context(), Config{Instance: testInstance + "-events"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := make(chan Event, 100)
	ended := make(chan struct{})
	go func() {
		engine.Events(ctx, func(e Event) { seen <- e })
		close(ended)
	}()
	next := func(action string) Event {
		t.Helper()
		for {
			select {
			case e := <-seen:
				if e.Action == action {
					return e
				}
			case <-ctx.Done():
				t.Fatalf("no event %q, want one", action)
			}
		}
	}
	next(Resync)
	// Resync says that the engine answered, not that it has begun to tell: start until one is told.
	for {
		c := create(t, engine, probe(t, Pack, "exit", "3"))
		if err := engine.Start(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		select {
		case e := <-seen:
			if e.Action != "start" {
				continue
			}
		case <-time.After(2 * time.Second):
			continue
		}
		break
	}
	if e := next("die"); e.ExitCode != 3 || e.Container.Kind != Pack || !strings.HasPrefix(e.Container.Name, "TestEvents") {
		t.Errorf("got %+v, want exit code 3 of a pack of this test", e)
	}
	cancel()
	<-ended
}

func TestAbsentEngine(t *testing.T) {
	engine, err := Connect(t.Context(), Config{Host: "unix://" + t.TempDir() + "/docker.sock", Instance: "absent"})
	if err != nil {
		t.Fatal(err)
	}
	if s := engine.Status(t.Context()); s.Available || s.Error == "" {
		t.Errorf("the status is %+v, want not available, with an error", s)
	}
	_, createErr := engine.Create(t.Context(), probe(t, Pack, "sleep"))
	_, listErr := engine.List(t.Context(), Pack)
	_, imageErr := engine.Image(t.Context(), "x")
	for verb, err := range map[string]error{
		"create": createErr, "list": listErr, "image": imageErr, "start": engine.Start(t.Context(), "x"), "remove": engine.Remove(t.Context(), "x"),
	} {
		if f := fault.Of(err); f.Kind != fault.KindUnavailable || f.Message != "Docker is required but not available" {
			t.Errorf("%s: got %v, want unavailable", verb, err)
		}
	}
}

func TestStatusAndImage(t *testing.T) {
	engine := testEngine(t)
	if s := engine.Status(t.Context()); !s.Available || s.Version == "" || s.APIVersion == "" || s.OS != "linux" {
		t.Errorf("the status is %+v, want available, with the versions", s)
	}
	if id, err := engine.Image(t.Context(), probeImage); err != nil || !strings.HasPrefix(id, "sha256:") {
		t.Errorf("the image is %q, %v; want a digest", id, err)
	}
	if _, err := engine.Image(t.Context(), "rumi-no-such-image:1"); !fault.Is(err, fault.KindUnavailable) {
		t.Errorf("a missing image: got %v, want unavailable", err)
	}
}
