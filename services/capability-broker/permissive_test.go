package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/services/capability-broker/internal/unconfined"
)

// newPermissiveWorld is a broker that has no Docker and confines nothing.
func newPermissiveWorld(t testing.TB) *world {
	w := newWorld(t)
	runtime, err := filepath.Abs("../../runtime/python")
	if err != nil {
		t.Fatal(err)
	}
	w.env["RUMI_SECURITY_MODE"] = permissive
	w.env["RUMI_RUNTIME_DIR"] = runtime
	w.env["RUMI_DOCKER_SOCKET"] = filepath.Join(w.run, "no-docker.sock")
	return w.start()
}

// unconfinedProgram does what a pack does, where its folders have names of their own; and starts something that would stay.
const unconfinedProgram = `
import os, subprocess, sys, time, rumi_capability
child = subprocess.Popen(["sleep", "3600"])
daemon = subprocess.Popen(["sleep", "3600"], start_new_session=True)
print("pids", os.getpid(), child.pid, daemon.pid)
print("oops", file=sys.stderr)
open(os.path.join(os.environ["RUMI_DATA_DIR"], "note"), "w").write("kept")
print("at home", os.path.samefile(os.getcwd(), os.environ["RUMI_PACK_DIR"]), os.path.exists("backend/main.py"))
print("secret", rumi_capability.get_secret("KEY"))
print("egress socket", os.path.exists(os.environ["RUMI_EGRESS_SOCKET"]))
print("broker's variables", [name for name in os.environ if name in ("RUMI_INSTANCE", "RUMI_USER_DATA", "RUMI_DOCKER_SOCKET")])
print("ready")
time.sleep(3600)
`

func TestPermissivePack(t *testing.T) {
	w := newPermissiveWorld(t)
	w.secrets["KEY"] = "v4lue"
	status := w.must("GET", "/api/docker/status", nil)
	if status["available"] != false || status["required"] != false || !strings.Contains(fmt.Sprint(status["warnings"]), "permissive") {
		t.Errorf("Docker's status is %v, want it neither available nor required, with a warning", status)
	}
	if entries := w.audited("security", "permissive_mode"); len(entries) != 1 {
		t.Errorf("%d entries of the mode, want 1", len(entries))
	}
	files := packFiles()
	files["backend/main.py"] = unconfinedProgram
	w.write("p", files)
	w.gate("p", "pending", "")
	w.eventually("403 before approval", func() bool { return w.api("POST", "/api/containers/p/start", nil).code == http.StatusForbidden })
	digest := w.approve("p")
	w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": "secrets.get",
		"config": map[string]any{"allowed_keys": []string{"KEY"}}})
	started := w.must("POST", "/api/containers/p/start", nil)
	if started["status"] != "running" || started["digest"] != digest {
		t.Fatalf("the start answers %v, want p running with the digest %s", started, digest)
	}
	if entries := w.audited("security", "unconfined_start"); len(entries) != 1 || entries[0]["owner_pack"] != "p" {
		t.Errorf("entries of the start: %v; want one, of p", entries)
	}
	var log string
	w.eventually("output", func() bool { log = w.logs("p"); return strings.Contains(log, "ready") })
	for _, want := range []string{"stderr: oops", "at home True True", "secret v4lue", "egress socket True", "broker's variables []"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
	for tail, code := range map[string]int{"1": 200, "10000": 200, "": 200, "0": 400, "-1": 400, "10001": 400, "x": 400} {
		if a := w.api("GET", "/api/containers/p/logs?tail="+tail, nil); a.code != code || code == 400 && !strings.Contains(a.error, "'tail'") {
			t.Errorf("tail=%s: %d %s, want %d", tail, a.code, a.error, code)
		}
	}
	if note, err := os.ReadFile(filepath.Join(w.UserData(), "packs/p/note")); err != nil || string(note) != "kept" {
		t.Errorf("p's data is %q, %v; want the note kept", note, err)
	}
	if got := w.must("GET", "/api/containers/p/stats", nil); got["memory"].(map[string]any)["usage_bytes"].(float64) < 1<<20 {
		t.Errorf("the stats are %v, want at least 1 MiB of memory used", got)
	}

	// Modified: all of it is ended, what it started, too.
	var pids [3]int
	for line := range strings.Lines(log) {
		if _, err := fmt.Sscanf(line, "stdout: pids %d %d %d", &pids[0], &pids[1], &pids[2]); err == nil {
			break
		}
	}
	w.gate("p", "modified", digest)
	w.eventually("the end of its processes", func() bool { return w.status("p") == "exited" && !alive(pids[0]) && !alive(pids[1]) && !alive(pids[2]) })
	if a := w.api("POST", "/api/containers/p/start", nil); a.code != http.StatusForbidden {
		t.Errorf("start of a modified pack: %d %s; want 403", a.code, a.error)
	}
	if got := w.must("DELETE", "/api/containers/p", nil); got["success"] != true || w.status("p") != "" {
		t.Errorf("the removal answers %v, want success and no container", got)
	}
}

// alive says whether a process runs; one that nobody waited for does not.
func alive(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(text), ") Z ")
}

// A handler answers over the same socket, under the same checks; one that hangs is ended.
func TestPermissiveHandler(t *testing.T) {
	w := newPermissiveWorld(t)
	w.write("p", handlerPack(map[string]string{
		"echo": "import sys\ndef execute(context, args):\n  print('noise')\n  return {'args': args, 'permission': context['permission_id']}\n",
		"hang": "import time\ndef execute(context, args):\n  time.sleep(3600)\n",
	}))
	w.approve("p")
	w.install("p")
	p := w.dial("p")
	got := p.ask(map[string]any{"permission_id": "test.echo", "args": map[string]any{"n": 1}})
	if fmt.Sprint(got["output"]) != "map[args:map[n:1] permission:test.echo]" {
		t.Fatalf("the echo got %v, want the args and the permission", got)
	}
	began := time.Now()
	got = p.ask(map[string]any{"permission_id": "test.hang", "args": map[string]any{}, "timeout_seconds": 0.5})
	if got["error_type"] != "timeout" || time.Since(began) > 10*time.Second {
		t.Errorf("hang: got %v after %v, want timeout within 10s", got, time.Since(began))
	}
	if got = p.ask(map[string]any{"permission_id": "test.none", "args": map[string]any{}}); got["error"] != "Permission denied" {
		t.Errorf("without a grant: got %v, want Permission denied", got)
	}
}

// What runs doesn't outlive the broker.
func TestPermissiveEndsWithTheBroker(t *testing.T) {
	w := newPermissiveWorld(t)
	files := packFiles()
	files["backend/main.py"] = "import os, time\nprint('pid', os.getpid())\ntime.sleep(3600)\n"
	w.write("p", files)
	w.approve("p")
	w.must("POST", "/api/containers/p/start", nil)
	var pid int
	w.eventually("output", func() bool { n, _ := fmt.Sscanf(w.logs("p"), "stdout: pid %d", &pid); return n == 1 })
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatal(err)
	}
	if err := w.broker.Stop(); err != nil {
		t.Fatal(err)
	}
	w.eventually("its end", func() bool { return !alive(pid) })
}

func TestPermissiveNeedsItsRuntime(t *testing.T) {
	_, err := unconfined.Open(t.Context(), unconfined.Config{RuntimeDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "RUMI_RUNTIME_DIR") {
		t.Errorf("opened without a runtime: %v, want an error that names RUMI_RUNTIME_DIR", err)
	}
}

// A pack that ends is started again as its policy says, by the same rules as a container.
func TestPermissivePackIsRestarted(t *testing.T) {
	w := newPermissiveWorld(t)
	files := packFiles()
	files["ecosystem.json"] = `{"pack_id": "p", "pack_identity": "github:test/p", "entrypoint": "backend/main.py", "restart": "on-failure"}`
	files["backend/main.py"] = `
import os, sys, time
path = os.path.join(os.environ["RUMI_DATA_DIR"], "runs")
runs = len(open(path).read()) if os.path.exists(path) else 0
open(path, "a").write("x")
print("run", runs)
if runs < 2:
    sys.exit(3)
time.sleep(3600)
`
	w.write("p", files)
	w.approve("p")
	first := w.must("POST", "/api/containers/p/start", nil)
	w.eventually("the third run", func() bool { return strings.Contains(w.logs("p"), "run 2") })
	w.eventually("its restarts", func() bool {
		shown := w.info("p")
		return shown["status"] == "running" && shown["restarts"] == 2.0 && shown["last_exit"].(map[string]any)["code"] == 3.0
	})
	if log := w.logs("p"); !strings.Contains(log, "run 0") || w.info("p")["container_id"] != first["container_id"] {
		t.Errorf("it is another container by now, whose log has\n%s", log)
	}
}
