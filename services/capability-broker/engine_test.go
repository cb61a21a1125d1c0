package main

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/sandbox/sandboxtest"
	"github.com/rumi-ai/rumi/libs/uds"
)

// between is a socket that leads to the engine's, and can be cut: to the broker the engine is then gone, as when it restarts.
type between struct {
	t    testing.TB
	path string

	mu       sync.Mutex
	listener *net.UnixListener
	conns    map[net.Conn]bool
}

func newBetween(t testing.TB, path string) *between {
	b := &between{t: t, path: path, conns: make(map[net.Conn]bool)}
	b.heal()
	t.Cleanup(b.cut)
	return b
}

func (b *between) heal() {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: b.path, Net: "unix"})
	if err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	b.listener = l
	b.mu.Unlock()
	go func() {
		for {
			from, err := l.AcceptUnix()
			if err != nil {
				return
			}
			to, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: sandboxtest.Socket, Net: "unix"})
			if err != nil {
				from.Close()
				continue
			}
			b.mu.Lock()
			b.conns[from], b.conns[to] = true, true
			b.mu.Unlock()
			var both sync.WaitGroup
			for _, way := range [][2]*net.UnixConn{{from, to}, {to, from}} {
				both.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					_ = way[0].CloseWrite() // the end of stdin is one way only
				})
			}
			go func() {
				both.Wait()
				b.mu.Lock()
				delete(b.conns, from)
				delete(b.conns, to)
				b.mu.Unlock()
				from.Close()
				to.Close()
			}()
		}
	}()
}

func (b *between) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listener.Close()
	for c := range b.conns {
		c.Close()
	}
}

// info is a pack's entry in the list of containers.
func (w *world) info(packID string) map[string]any {
	for _, raw := range w.api("GET", "/api/containers", nil).list {
		if c := raw.(map[string]any); c["pack_id"] == packID {
			return c
		}
	}
	return map[string]any{}
}

// The engine goes away in the middle of it all, and takes the containers along, as Docker's restart does without live
// restore.
func TestEngineRestarts(t *testing.T) {
	w := newWorld(t)
	engine := newBetween(t, filepath.Join(w.run, "docker.sock"))
	w.env["RUMI_DOCKER_SOCKET"] = engine.path
	w.start()
	files := packFiles()
	for name, content := range handlerPack(map[string]string{"echo": echo}) {
		if name != "ecosystem.json" {
			files[name] = content
		}
	}
	w.write("p", files)
	w.write("closes", packFiles())
	w.approve("p")
	w.approve("closes")
	w.install("p")
	ids := map[string]string{}
	for _, id := range []string{"p", "closes"} {
		ids[id] = w.must("POST", "/api/containers/"+id+"/start", nil)["container_id"].(string)
	}
	if got := w.dial("p").ask(map[string]any{"permission_id": "test.echo"}); got["success"] != true {
		t.Fatalf("the call before the engine's failure got %v, want success", got)
	}

	engine.cut()
	direct := w.engine()
	defer direct.Close()
	for _, id := range ids {
		if err := direct.Stop(t.Context(), id, 0); err != nil {
			t.Fatal(err)
		}
	}
	if a := w.api("POST", "/api/containers/p/start", nil); a.code != 503 || a.error != "Docker is required but not available" {
		t.Errorf("the start meanwhile got %d %s, want 503", a.code, a.error)
	}
	if got := w.must("GET", "/api/docker/status", nil); got["available"] != false {
		t.Errorf("Docker's status meanwhile is %v, want it not available", got)
	}
	if got := w.dial("p").ask(map[string]any{"permission_id": "test.echo"}); got["success"] != false || got["error_type"] != "execution_error" {
		t.Errorf("the call meanwhile got %v, want execution_error", got)
	}
	w.gate("closes", "blocked", "")

	engine.heal()
	w.eventually("the pack runs again", func() bool { return w.status("p") == "running" })
	got := w.info("p")
	if got["container_id"] != ids["p"] || got["restarts"] != 1.0 || got["exit_code"] != nil || got["last_exit"].(map[string]any)["code"].(float64) < 128 {
		t.Errorf("p is %v, want a new container, one restart and the exit by a signal as its last", got)
	}
	w.eventually("calls are answered again", func() bool {
		return w.dial("p").ask(map[string]any{"permission_id": "test.echo"})["success"] == true
	})
	if s := w.status("closes"); s != "exited" {
		t.Errorf("the pack whose gate closed meanwhile is %s", s)
	}
	w.eventually("the end is audited", func() bool {
		return slices.ContainsFunc(w.audited("system", "container_stopped"), func(e map[string]any) bool {
			return e["owner_pack"] == "p" && e["details"].(map[string]any)["reason"] == "ended with the container engine"
		})
	})
	// Handlers of before are gone, though nobody could remove them then.
	w.eventually("one handler", func() bool {
		list, err := direct.List(t.Context(), sandbox.Handler)
		return err == nil && len(list) == 1
	})
}

const crashesOnce = `
import os, sys, time
if os.path.exists("/data/came"):
    print("second run")
    time.sleep(3600)
open("/data/came", "w").close()
print("first run")
sys.exit(9)
`

func TestRestartPolicyAndResources(t *testing.T) {
	w := newWorld(t)
	w.env["RUMI_CONTAINER_MAX_MEMORY_MB"] = "96"
	w.start()
	w.write("p", map[string]string{"main.py": crashesOnce, "ecosystem.json": `{"pack_id": "p", "pack_identity": "x", "version": "1",
		"entrypoint": "main.py", "restart": "on-failure", "resources": {"memory_mb": 1000, "pids": 20}}`})
	w.approve("p")
	started := w.must("POST", "/api/containers/p/start", nil)
	if got := fmt.Sprint(started["warnings"]); got != "[memory cut from 1000 to 96 MiB]" {
		t.Errorf("the start warns %s, want of the memory, cut to 96 MiB", got)
	}
	w.eventually("its second run", func() bool { return strings.Contains(w.logs("p"), "second run") })
	got := w.info("p")
	if got["container_id"] != started["container_id"] || got["restarts"] != 1.0 || got["restart_policy"] != "on-failure" || got["status"] != "running" ||
		got["last_exit"].(map[string]any)["code"] != 9.0 || fmt.Sprint(got["limits"]) != "map[cpus:1 memory_mb:96 pids:20]" {
		t.Errorf("p is %v, want the same container in its second run, with 96 MiB, a CPU and 20 processes", got)
	}
	if log := w.logs("p"); !strings.Contains(log, "first run") {
		t.Errorf("the log of the first run is gone:\n%s", log)
	}
	stats := w.must("GET", "/api/containers/p/stats", nil)
	memory, pids, data := stats["memory"].(map[string]any), stats["pids"].(map[string]any), stats["data"].(map[string]any)
	if memory["limit_bytes"] != 96.0*(1<<20) || memory["usage_bytes"].(float64) < 1 || pids["limit"] != 20.0 || pids["current"].(float64) < 1 ||
		stats["cpu"].(map[string]any)["usage_seconds"].(float64) <= 0 || stats["uptime_seconds"].(float64) < 0 || data["files"] != 2.0 || data["limit_bytes"] != nil {
		t.Errorf("the stats are %v, want some usage of each resource and the limits of the manifest", stats)
	}
	w.must("POST", "/api/containers/p/stop", nil)
	for path, want := range map[string]int{"p": 409, "nobody": 404, "a.b": 400} {
		if a := w.api("GET", "/api/containers/"+path+"/stats", nil); a.code != want {
			t.Errorf("stats of %s: got %d %s, want %d", path, a.code, a.error, want)
		}
	}
}

func TestOutOfMemoryIsShown(t *testing.T) {
	w := newWorld(t).start()
	// It waits first: the engine begins to watch for the kernel's notice only after the start, and never hears of one that was earlier.
	w.write("p", map[string]string{"main.py": "import time\ntime.sleep(1)\nx = []\nwhile True: x.append(bytearray(8 << 20))\n", "ecosystem.json": `{"pack_id": "p",
		"pack_identity": "x", "version": "1", "entrypoint": "main.py", "resources": {"memory_mb": 32}}`})
	w.approve("p")
	w.must("POST", "/api/containers/p/start", nil)
	w.eventually("why it ended", func() bool { return w.info("p")["oom_killed"] == true })
	got := w.info("p")
	if got["status"] != "exited" || got["exit_code"] == 0.0 || got["finished_at"] == nil || got["reason"] != "out of memory" ||
		got["restart_at"] != nil {
		t.Errorf("p is %v, want that it ran out of memory and won't be restarted", got)
	}
}

func TestDataLimit(t *testing.T) {
	w := newWorld(t)
	w.env["RUMI_PACK_DATA_MAX_MB"] = "1"
	w.start()
	w.write("p", map[string]string{"main.py": "open('/data/x', 'wb').write(bytes(3 << 20))\n", "ecosystem.json": `{"pack_id": "p",
		"pack_identity": "x", "version": "1", "entrypoint": "main.py"}`})
	w.approve("p")
	w.must("POST", "/api/containers/p/start", nil)
	w.eventually("its end", func() bool { return w.info("p")["exit_code"] == 0.0 })
	if a := w.api("POST", "/api/containers/p/start", nil); a.code != 409 || a.error != "Pack can't be started: its data folder holds 3 MiB in 2 files and folders, more than the 1 MiB that it may" {
		t.Errorf("the start got %d %s, want 409 that names the data that is too much", a.code, a.error)
	}
}

// What runs is compared with the profile, field by field, as the engine reports it.
func TestContainersAreAsHardenedAsTheProfile(t *testing.T) {
	w := newWorld(t).start()
	files := packFiles()
	for name, content := range handlerPack(map[string]string{"echo": echo}) {
		if name != "ecosystem.json" {
			files[name] = content
		}
	}
	w.write("p", files)
	digest := w.approve("p")
	w.install("p")
	id := w.must("POST", "/api/containers/p/start", nil)["container_id"].(string)
	if got := w.dial("p").ask(map[string]any{"permission_id": "test.echo"}); got["success"] != true {
		t.Fatalf("p's call got %v, want success", got)
	}
	engine := w.engine()
	defer engine.Close()
	image, err := engine.Image(t.Context(), packImage)
	if err != nil {
		t.Fatal(err)
	}
	bind := func(source, target string, readOnly bool) string {
		text := fmt.Sprintf(`{"Type": "bind", "Source": %q, "Target": %q, "BindOptions": {"Propagation": "rprivate", "NonRecursive": true}`, source, target)
		if readOnly {
			text += `, "ReadOnly": true`
		}
		return text + "}"
	}
	digits := strings.TrimPrefix(digest, "sha256:")
	user := w.UserData()
	pack := sandboxtest.Hardened(t, id, sandbox.Pack, fmt.Sprintf(`{
		"Config": {"Entrypoint": ["rumi-runtime", "run", "--", "backend/main.py"], "WorkingDir": "/pack"},
		"HostConfig": {"GroupAdd": ["%d"], "Mounts": [%s, %s, %s, %s]}}`, socketGID(),
		bind(filepath.Join(user, "capabilities/trees", digits, "tree"), "/pack", true), bind(filepath.Join(user, "packs/p"), "/data", false),
		bind(filepath.Join(w.run, "e", uds.DirName("p")), "/run/rumi/egress", true),
		bind(filepath.Join(w.run, "c", uds.DirName("p")), "/run/rumi/capability", true)))
	handlers, err := engine.List(t.Context(), sandbox.Handler)
	if err != nil || len(handlers) != 1 {
		t.Fatalf("the handlers' containers are %v (%v), want one", handlers, err)
	}
	handler := sandboxtest.Hardened(t, handlers[0].ID, sandbox.Handler, fmt.Sprintf(`{
		"Config": {"Entrypoint": ["rumi-runtime", "serve"], "WorkingDir": "/pack"},
		"HostConfig": {"Mounts": [%s]}}`, bind(filepath.Join(user, "capabilities/handlers/p/echo"), "/pack", true)))
	for kind, found := range map[string]sandboxtest.Report{"pack": pack, "handler": handler} {
		if found.Image != image {
			t.Errorf("%s is made of %s, want %s", kind, found.Image, image)
		}
		for label, want := range map[string]string{"kind": kind, "pack_id": "p", "principal": "p", "instance": w.instance, "image": packImage} {
			if got := found.Labels["io.rumi."+label]; got != want {
				t.Errorf("%s has label %s = %q, want %q", kind, label, got, want)
			}
		}
	}
	for _, entry := range handler.Env {
		if strings.HasPrefix(entry, "RUMI_") && !strings.HasPrefix(entry, "RUMI_RETIRE_") {
			t.Errorf("the handler's environment has %s", entry)
		}
	}
}
