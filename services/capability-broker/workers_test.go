package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/mount"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

// swapper is the engine, and what happens between our look at a folder and the engine's.
type swapper struct {
	worker.Engine
	swap func()
}

func (s swapper) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Container, error) {
	s.swap()
	return s.Engine.Create(ctx, spec)
}

// Whoever may write around a folder that is granted can lead the engine elsewhere, and the handler is never shown it.
func TestFolderSwappedBetweenCheckAndMount(t *testing.T) {
	w := newWorld(t)
	base := t.TempDir()
	code, shared := filepath.Join(base, "handlers/o/s"), filepath.Join(base, "shared/a/sub")
	if err := errors.Join(os.MkdirAll(code, 0o755), os.MkdirAll(shared, 0o755), os.Mkdir(base+"/shared/a/other", 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(code+"/handler.py", []byte("def execute(c, a):\n    return 1\n"), 0o444), os.Chmod(code, 0o555)); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(code)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	m, err := tree.Scan(t.Context(), root, nil)
	if err != nil {
		t.Fatal(err)
	}
	folders, err := handler.NewFolders(filepath.Join(base, "handlers"))
	if err != nil {
		t.Fatal(err)
	}
	logs, err := worker.NewLogs(filepath.Join(base, "logs"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	seen, err := mount.New(mount.Config{Shared: filepath.Join(base, "shared")})
	if err != nil {
		t.Fatal(err)
	}
	engine := w.engine()
	t.Cleanup(func() { engine.Close() })
	spec := worker.Spec{Trust: &handler.Trust{PackID: "o", Slug: "s", FolderDigest: m.Digest(), PermissionID: "a.b"}, Principal: "p",
		Mounts: []grant.Mount{{Source: "a/sub"}}}
	launch := func(swap func()) error {
		c := &worker.Containers{Engine: swapper{engine, swap}, Folders: folders, Mounts: seen, Logs: logs, Image: packImage,
			Ceiling: worker.Ceiling{Limits: sandbox.DefaultLimits}, Log: slog.New(slog.DiscardHandler)}
		p, err := c.Launch(t.Context(), spec)
		if err == nil {
			p.Kill()
		}
		return err
	}
	if err := os.MkdirAll(base+"/elsewhere/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	around := filepath.Dir(shared)
	for name, c := range map[string]struct {
		moved string
		put   func() error
		found string
	}{
		"a link to the system":      {shared, func() error { return os.Symlink("/etc", shared) }, ""},
		"a link on the way":         {around, func() error { return os.Symlink(base+"/elsewhere", around) }, "another folder"},
		"another folder":            {shared, func() error { return os.Mkdir(shared, 0o755) }, "another folder"},
		"another folder on the way": {around, func() error { return os.Rename(base+"/elsewhere", around) }, "another folder"},
	} {
		err := launch(func() {
			if err := errors.Join(os.Rename(c.moved, c.moved+"-away"), c.put()); err != nil {
				t.Error(err)
			}
		})
		if err == nil || !strings.Contains(err.Error(), c.found) || errors.Is(err, worker.ErrMount) != (c.found != "") {
			t.Errorf("%s: got %v, want an error that says %q", name, err, c.found)
		}
		if err := errors.Join(os.RemoveAll(c.moved), os.Rename(c.moved+"-away", c.moved), os.MkdirAll(base+"/elsewhere/sub", 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if err := launch(func() {}); err != nil {
		t.Errorf("nothing swapped: %v", err)
	}
	left, err := engine.List(t.Context(), sandbox.Handler)
	if err != nil || len(left) != 0 {
		t.Errorf("containers are left: %v, %v; want none", left, err)
	}
}

// A handler that leaks goes on serving: its worker is replaced before it is out of what it leaks.
func TestLeakingHandlersGoOnServing(t *testing.T) {
	w := newWorld(t)
	w.env["RUMI_CAPABILITY_WORKERS_PER_HANDLER"] = "1"
	w.start()
	w.write("p", handlerPack(map[string]string{
		"memory":      "kept = []\ndef execute(c, a):\n    kept.append(bytearray(8 << 20))\n    return len(kept)",
		"descriptors": "kept = []\ndef execute(c, a):\n    kept.extend(open('/dev/null') for _ in range(50))\n    return len(kept)",
	}))
	w.approve("p")
	w.install("p")
	w.grant("test.memory", map[string]any{"limits": map[string]any{"memory_mb": 96}})
	for _, slug := range []string{"memory", "descriptors"} {
		p, most, fresh := w.dial("p"), 0.0, 0
		for i := range 40 {
			got := p.ask(map[string]any{"permission_id": "test." + slug, "timeout_seconds": 20})
			kept, ok := got["output"].(float64)
			if !ok {
				t.Fatalf("%s: call %d: got %v, want a number", slug, i, got)
			}
			if most = max(most, kept); kept <= 50 && (slug == "descriptors" || kept == 1) {
				fresh++
			}
		}
		if fresh < 3 {
			t.Errorf("%s: %d workers in 40 calls, and one kept %v", slug, fresh, most)
		}
	}
}

// Processes that calls leave behind fail no call: each has its worker replaced, and where that isn't due yet there is room for more.
func TestLingeringProcessesAreLeftBehind(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(map[string]string{"h": "import os, signal\ndef execute(c, a):\n    if os.fork() == 0:\n        signal.pause()\n    return 'served'"}))
	w.approve("p")
	w.install("p")
	w.grant("test.h", map[string]any{"limits": map[string]any{"pids": 24}})
	p, failed := w.dial("p"), 0
	for range 60 {
		if got := p.ask(map[string]any{"permission_id": "test.h", "timeout_seconds": 20}); got["output"] != "served" {
			failed++
		}
	}
	if failed != 0 {
		t.Errorf("%d calls of 60 failed, want none", failed)
	}
}

func TestWorkersAreWarmBeforeTheirFirstCall(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(map[string]string{"a": one, "b": one}))
	w.write("q", handlerPack(nil))
	w.approve("p")
	w.approve("q")
	w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "q", "permission_id": "test.a"})
	w.scan()
	running := func() (of []string) {
		for _, c := range w.handlerContainers() {
			if c.Running() {
				of = append(of, c.Principal)
			}
		}
		return of
	}
	for _, raw := range w.must("GET", "/api/capability/requests?status=pending", nil)["items"].([]any) {
		w.must("POST", "/api/capability/requests/"+escape(raw.(map[string]any)["candidate_key"].(string))+"/approve", nil)
	}
	w.eventually("a worker for who is granted it", func() bool { return strings.Join(running(), " ") == "q" })
	w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": "test.b"})
	w.eventually("one more after a grant", func() bool { return len(running()) == 2 })
	began := time.Now()
	if got := w.dial("p").ask(map[string]any{"permission_id": "test.b"}); got["output"] != 1.0 {
		t.Errorf("the call after the grant got %v, want 1", got)
	}
	t.Logf("the first call took %v", time.Since(began))
	if n := len(running()); n != 2 {
		t.Errorf("%d workers after it, want 2", n)
	}
}

// What one grant's calls leave in their worker is not there under the grant that replaces it, be it narrower, the same again, or
// granted in the moment after it was revoked.
func TestNothingIsLeftUnderAnotherGrant(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(map[string]string{"h": `
import os
kept = []
def execute(c, a):
    kept.append(c["grant_config"])
    seen = os.path.exists("/tmp/left")
    open("/tmp/left", "w").close()
    return [len(kept), seen]
`}))
	w.write("p__kid", handlerPack(nil))
	w.approve("p")
	w.approve("p__kid")
	w.install("p")
	config := map[string]any{"config": map[string]any{"scope": "wide"}}
	narrow := map[string]any{"config": map[string]any{"scope": "narrow"}}
	grantKid := func() {
		w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p__kid", "permission_id": "test.h", "config": config["config"]})
	}
	revoke := func() {
		w.must("POST", "/api/capability/grants/revoke", map[string]any{"principal_id": "p", "permission_id": "test.h"})
	}
	call := func(principal string) string {
		got := w.dial(principal).ask(map[string]any{"permission_id": "test.h", "timeout_seconds": 30})
		return fmt.Sprint(got["output"], got["error_type"])
	}
	w.grant("test.h", config)
	grantKid()
	for i, c := range []struct {
		name      string
		decide    func()
		principal string
	}{
		{"narrowed", func() { w.grant("test.h", narrow) }, "p"},
		{"granted again as it is", func() { w.grant("test.h", narrow) }, "p"},
		{"revoked and granted at once", func() { revoke(); w.grant("test.h", narrow) }, "p"},
		{"the parent's revoked and granted at once", func() { w.grant("test.h", config); call("p__kid"); call("p__kid"); revoke(); w.grant("test.h", config) }, "p__kid"},
	} {
		if i == 0 {
			call("p")
		}
		if got := call("p"); i < 3 && got != "[2 true] <nil>" {
			t.Fatalf("before it is %s: %s, want the worker of the call before", c.name, got)
		}
		c.decide()
		if got := call(c.principal); got != "[1 false] <nil>" {
			t.Errorf("%s: %s, want a new worker", c.name, got)
		}
	}
}

// A call that spoils its worker, and one that fails for what earlier ones have left, are the last of that worker's.
func TestSpoiltWorkersServeNobodyElse(t *testing.T) {
	w := newWorld(t)
	w.env["RUMI_CAPABILITY_WORKERS_PER_HANDLER"] = "1"
	w.start()
	spoils := map[string]string{
		"stdout": "import io, sys\ndef execute(c, a):\n    print('x')\n    sys.stdout = io.TextIOWrapper(sys.stdout.buffer)\n    return 'served'",
		"closed": "import sys\ndef execute(c, a):\n    print('x')\n    sys.stdout.close()\n    return 'served'",
		"json":   "import json\ndef execute(c, a):\n    json.loads = json.dumps = None\n    return 'served'",
		"folder": "import os\ndef execute(c, a):\n    assert os.getcwd() == '/pack' and os.umask(0o77) == 0o22\n    os.chdir('/tmp')\n    return 'served'",
		"own":    "import json\nleft = []\ndef execute(c, a):\n    if left: raise ValueError\n    if a.get('spoil'): left.append(1)\n    return 'served'",
	}
	w.write("p", handlerPack(spoils))
	w.approve("p")
	w.install("p")
	for slug := range spoils {
		p, failed := w.dial("p"), 0
		for i := range 12 {
			got := p.ask(map[string]any{"permission_id": "test." + slug, "timeout_seconds": 30, "args": map[string]any{"spoil": i == 2}})
			if got["output"] != "served" {
				failed++
			}
		}
		want := 0
		if slug == "own" {
			want = 5 // then it gets a new worker
		}
		if failed != want {
			t.Errorf("%s: %d calls of 12 failed, want %d", slug, failed, want)
		}
	}
}

// Handlers have what was installed for their own pack, behind everything of Python's and read-only; when it changes they get that.
func TestHandlersHaveThePackagesOfTheirPack(t *testing.T) {
	w := newWorld(t)
	w.env["RUMI_CAPABILITY_WORKERS_PER_HANDLER"] = "1"
	w.start()
	const code = `
import json, sys
def execute(c, a):
    try:
        import greeter
        version = greeter.version
    except ImportError as error:
        version = type(error).__name__
    try:
        open("/site-packages/new", "w")
        version += " written"
    except OSError:
        pass
    return [version, "site-packages" in json.__file__, sys.path[-1]]
`
	w.write("p", handlerPack(map[string]string{"h": code}))
	w.write("q", handlerPack(map[string]string{"other": code}))
	w.approve("p")
	w.approve("q")
	w.install("p")
	call := func(permission string) string {
		got := w.dial("p").ask(map[string]any{"permission_id": permission, "timeout_seconds": 30})
		return fmt.Sprint(got["output"], got["error_type"])
	}
	const none, one, two = "[ModuleNotFoundError false /site-packages] <nil>", "[1 false /site-packages] <nil>", "[2 false /site-packages] <nil>"
	if got := call("test.h"); got != none {
		t.Errorf("with nothing installed: got %s, want %s", got, none)
	}
	for _, c := range []struct {
		files map[string]string
		want  string
	}{
		{map[string]string{"greeter/__init__.py": "version = '1'", "json.py": "raise RuntimeError", "sitecustomize.py": "raise RuntimeError"}, one},
		{map[string]string{"greeter/__init__.py": "version = '2'"}, two},
		{nil, none},
	} {
		w.pipInstall("p", c.files)
		w.eventually("calls that get "+c.want, func() bool { return call("test.h") == c.want })
	}
	w.pipInstall("p", map[string]string{"greeter/__init__.py": "version = '1'"})
	if got := call("test.other"); got != none {
		t.Errorf("another pack's handler: got %s, want %s", got, none)
	}
	for _, c := range w.handlerContainers() {
		if c.PackID == "q" && c.Packages != "" {
			t.Errorf("the container of another pack's handler has the packages %s", c.Packages)
		}
	}
}
