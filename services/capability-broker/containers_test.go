package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
	"golang.org/x/sys/unix"
)

// packProgram is a pack: it prints its id, writes its data, asks for a capability, and waits.
const packProgram = `
import os, sys, time, rumi_capability
print("uid", os.getuid(), "groups", sorted(os.getgroups()), "cwd", os.getcwd())
print("oops", file=sys.stderr)
os.makedirs("/data/sub", exist_ok=True)
open("/data/sub/note", "w").write("kept")
try:
    open("/pack/x", "w")
except OSError as e:
    print("pack is read-only")
print("secret", rumi_capability.get_secret("KEY"))
print("egress socket", os.path.exists(os.environ["RUMI_EGRESS_SOCKET"]), os.listdir("/run/rumi"))
if os.path.exists("/data/end"): sys.exit(3)
time.sleep(3600)
`

func packFiles() map[string]string {
	return map[string]string{
		"ecosystem.json":  `{"pack_id": "p", "pack_identity": "x", "version": "1", "entrypoint": "backend/main.py"}`,
		"backend/main.py": packProgram,
	}
}

func (w *world) status(packID string) string {
	for _, raw := range w.api("GET", "/api/containers", nil).list {
		if c := raw.(map[string]any); c["pack_id"] == packID {
			return c["status"].(string)
		}
	}
	return ""
}

func (w *world) logs(packID string) string {
	var b strings.Builder
	for _, raw := range w.must("GET", "/api/containers/"+packID+"/logs?tail=50", nil)["lines"].([]any) {
		line := raw.(map[string]any)
		b.WriteString(line["stream"].(string) + ": " + line["text"].(string) + "\n")
	}
	return b.String()
}

func TestPackContainer(t *testing.T) {
	w := newWorld(t).start()
	w.secrets["KEY"] = "v4lue"
	if got := w.must("GET", "/api/docker/status", nil); got["available"] != true || got["required"] != true || got["version"] == "" {
		t.Fatalf("Docker's status is %v, want available, required and with a version", got)
	}
	w.write("p", packFiles())
	w.gate("p", "pending", "")
	w.eventually("403 before approval", func() bool {
		a := w.api("POST", "/api/containers/p/start", nil)
		return a.code == 403 && a.error == "Pack not approved: pending"
	})
	for path, want := range map[string]int{"nobody": 404, "a.b": 400, "a%2fb": 400, "a%0a": 400, strings.Repeat("a", 65): 400, "%2e%2e": 404} {
		if a := w.api("POST", "/api/containers/"+path+"/start", nil); a.code != want {
			t.Errorf("start of %q: got %d %s, want %d", path, a.code, a.error, want)
		}
	}
	digest := w.approve("p")
	w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": "secrets.get",
		"config": map[string]any{"allowed_keys": []string{"KEY"}}})
	began := time.Now()
	started := w.must("POST", "/api/containers/p/start", nil)
	t.Logf("start took %v", time.Since(began))
	if started["status"] != "running" || started["pack_id"] != "p" || started["success"] != true || started["digest"] != digest {
		t.Fatalf("the start answers %v, want p running with the digest %s", started, digest)
	}
	w.eventually("approval knows that it runs", func() bool { return w.gateStatus("p") == "running" })
	if again := w.must("POST", "/api/containers/p/start", nil); again["container_id"] != started["container_id"] {
		t.Errorf("a second start made another container")
	}
	var log string
	w.eventually("output", func() bool { log = w.logs("p"); return strings.Contains(log, "egress socket") })
	for _, want := range []string{fmt.Sprintf("stdout: uid 65534 groups [%d, 65534] cwd /pack", socketGID()), "stderr: oops", "pack is read-only",
		"secret v4lue", "egress socket True"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
	// The pack's files are readable by the operator's group, and ours to remove.
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(w.UserData(), "packs/p"), &st); err != nil || st.Mode&0o777 != 0o770 || st.Uid != uint32(os.Getuid()) {
		t.Errorf("the data folder: %o of %d, %v; want 0770 of the broker", st.Mode, st.Uid, err)
	}
	if err := unix.Stat(filepath.Join(w.UserData(), "packs/p/sub/note"), &st); err != nil || st.Uid != 65534 || st.Mode&0o040 == 0 || st.Mode&7 != 0 {
		t.Errorf("the data file: %o of %d, %v; want it the pack's, for its group to read", st.Mode, st.Uid, err)
	}

	// Modified: stopped within a second of the push.
	pushed := time.Now()
	w.gate("p", "modified", digest)
	w.eventually("stop of a modified pack", func() bool { return w.status("p") == "exited" })
	if took := time.Since(pushed); took > time.Second {
		t.Errorf("stopping a modified pack took %v", took)
	}
	if a := w.api("POST", "/api/containers/p/start", nil); a.code != 403 || a.error != "Pack not approved: modified" {
		t.Errorf("start of a modified pack: %d %s; want 403", a.code, a.error)
	}
	w.write("p", map[string]string{"new": "file"})
	w.approve("p")
	var second map[string]any
	w.eventually("start of the new version", func() bool { // its socket is there already, so that approve doesn't wait for the gate
		a := w.api("POST", "/api/containers/p/start", nil)
		second = a.data
		return a.code == 200
	})
	if second["container_id"] == started["container_id"] || second["digest"] == digest {
		t.Errorf("the new version does not run: %v", second)
	}
	if got := w.must("POST", "/api/containers/p/stop", nil); got["success"] != true || got["stopped"] != true {
		t.Errorf("the stop answers %v, want that it stopped p", got)
	}
	if got := w.must("POST", "/api/containers/p/stop", nil); got["success"] != true || got["stopped"] != false {
		t.Errorf("the second stop answers %v, want stopped false", got)
	}
	if s := w.status("p"); s != "exited" {
		t.Errorf("after the stop: %q, want exited", s)
	}
	if got := w.must("DELETE", "/api/containers/p", nil); got["success"] != true || got["pack_id"] != "p" || got["removed"] != true {
		t.Errorf("the removal answers %v, want that it removed p's container", got)
	}
	if s := w.status("p"); s != "" {
		t.Errorf("after the delete: %q, want no container", s)
	}
	if a := w.api("GET", "/api/containers/p/logs", nil); a.code != 404 || a.error != "Container not found" {
		t.Errorf("logs of no container: got %d %s, want 404", a.code, a.error)
	}
	for action, want := range map[string]int{"container_started": 2, "container_stopped": 2, "container_deleted": 1} {
		if n := len(w.audited("system", action)); n != want {
			t.Errorf("%d entries %s, want %d", n, action, want)
		}
	}
	if n := len(w.audited("security", "container_start_denied")); n < 2 {
		t.Errorf("%d entries container_start_denied", n)
	}
}

func TestContainerEndsByItselfAndIsFollowed(t *testing.T) {
	w := newWorld(t).start()
	files := packFiles()
	files["backend/main.py"] = "import time, sys\nfor i in range(3):\n    print('line', i)\n    time.sleep(0.3)\nsys.exit(7)\n"
	w.write("p", files)
	w.approve("p")
	w.must("POST", "/api/containers/p/start", nil)

	req, err := http.NewRequestWithContext(t.Context(), "GET", "https://capability-broker/api/containers/p/logs?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := w.Client("gateway", "capability-broker").Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("the Content-Type is %q, want text/event-stream", got)
	}
	var seen []string
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var line struct {
				TS           time.Time
				Stream, Text string
			}
			if err := json.Unmarshal([]byte(data), &line); err != nil {
				t.Fatal(err)
			}
			seen = append(seen, line.Text)
		}
	}
	if got := strings.Join(seen, "|"); got != "line 0|line 1|line 2|" {
		t.Errorf("followed the lines %q, want those that p printed, 0 to 2", got)
	}
	w.eventually("approval knows that it runs no more", func() bool { return w.gateStatus("p") == "approved" })
	w.eventually("its end is audited", func() bool { return len(w.audited("system", "container_stopped")) == 1 })
	if d := w.audited("system", "container_stopped")[0]["details"].(map[string]any); d["exit_code"] != 7.0 || d["reason"] != "exited" {
		t.Errorf("the entry says %v, want the exit code 7 and that it exited", d)
	}
	c := w.api("GET", "/api/containers", nil).list[0].(map[string]any)
	if c["status"] != "exited" || c["exit_code"] != 7.0 || c["finished_at"] == nil {
		t.Errorf("the list has %v, want that it exited with 7, and when", c)
	}
}

// A broker that stops or dies leaves packs running; the next one keeps those that may run and removes the others.
func TestRestartKeepsWhatMayRun(t *testing.T) {
	w := newWorld(t).start()
	for _, id := range []string{"stays", "goes"} {
		w.write(id, packFiles())
		w.approve(id)
		w.must("POST", "/api/containers/"+id+"/start", nil)
	}
	orphan, err := w.engine().Create(t.Context(), sandbox.Spec{Kind: sandbox.Handler, Name: "orphan", Image: packImage,
		Command: []string{"rumi-runtime", "serve"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	before := w.api("GET", "/api/containers", nil).list
	if err := w.broker.Stop(); err != nil {
		t.Fatal(err)
	}
	w.gate("goes", "blocked", "")
	w.start()
	w.eventually("stop of what was blocked meanwhile", func() bool { return w.status("goes") == "exited" })
	after := w.api("GET", "/api/containers", nil).list
	for i := range before {
		if before[i].(map[string]any)["container_id"] != after[i].(map[string]any)["container_id"] {
			t.Errorf("got another container: %v before, %v after; want the same", before[i], after[i])
		}
	}
	if s := w.status("stays"); s != "running" {
		t.Errorf("stays is %s, want it running", s)
	}
	if _, err := w.engine().Inspect(context.Background(), orphan.ID); err == nil {
		t.Error("the orphan is still there")
	}
	// The restarted broker's socket is seen by the pack that went on running.
	w.eventually("socket", func() bool {
		return w.dial("stays").ask(map[string]any{"permission_id": "a.b"})["error_type"] == "grant_denied"
	})
}

func TestUninstall(t *testing.T) {
	w := newWorld(t).start()
	files := packFiles()
	for name, content := range handlerPack(map[string]string{"echo": echo}) {
		if name != "ecosystem.json" {
			files[name] = content
		}
	}
	w.write("p", files)
	w.approve("p")
	w.install("p")
	w.must("POST", "/api/containers/p/start", nil)
	if got := w.dial("p").ask(map[string]any{"permission_id": "test.echo"}); got["success"] != true {
		t.Fatalf("p's call before the uninstall got %v, want success", got)
	}
	w.eventually("data", func() bool {
		_, err := os.Stat(filepath.Join(w.UserData(), "packs/p/sub/note"))
		return err == nil
	})
	if a := w.as("gateway", "DELETE", "/internal/packs/p", nil); a.code != 403 {
		t.Errorf("the gateway may remove: %d, want 403", a.code)
	}
	got := w.as("pack-registry", "DELETE", "/internal/packs/p", nil)
	if got.code != 200 || got.data["container_stopped"] != true || got.data["container_removed"] != true || got.data["grants_removed"] != true {
		t.Fatalf("the removal got %+v, want the container stopped and removed, and the grants gone", got)
	}
	got = w.as("pack-registry", "DELETE", "/internal/packs/p", nil)
	if got.code != 200 || got.data["container_stopped"] != false || got.data["container_removed"] != false || got.data["grants_removed"] != false {
		t.Fatalf("the second removal got %v, want 200 with nothing left to do", got)
	}
	for _, path := range []string{w.socket("p"), filepath.Join(w.UserData(), "capabilities/handlers/p"), filepath.Join(w.UserData(), "packs/p")} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there, want it removed", path)
		}
	}
	kept, err := filepath.Glob(filepath.Join(w.UserData(), "packs/.uninstalled/p/*/sub/note"))
	if err != nil || len(kept) != 1 {
		t.Errorf("the data is kept in %v, %v; want one archive", kept, err)
	}
	if list := w.must("GET", "/api/capability/grants?principal_id=p", nil); list["count"] != 0.0 {
		t.Errorf("p's grants after the removal are %v, want none", list)
	}
	if counts := w.as("approval", "GET", "/internal/candidates/counts", nil); counts.data["installed_count"] != 0.0 {
		t.Errorf("the candidates after the removal are counted %+v, want none installed", counts)
	}
	if all, err := w.engine().List(context.Background(), ""); err != nil || len(all) != 0 {
		t.Errorf("containers are left: %v, %v; want none", all, err)
	}
}

func TestWithoutDocker(t *testing.T) {
	w := newWorld(t)
	w.env["RUMI_DOCKER_SOCKET"] = filepath.Join(w.run, "none.sock")
	w.start()
	w.write("p", packFiles())
	w.approve("p")
	if got := w.must("GET", "/api/docker/status", nil); got["available"] != false || got["required"] != true {
		t.Errorf("Docker's status is %v, want required and not available", got)
	}
	for _, call := range [][2]string{{"GET", "/api/containers"}, {"POST", "/api/containers/p/start"}, {"POST", "/api/containers/p/stop"}} {
		if a := w.api(call[0], call[1], nil); a.code != 503 || a.error != "Docker is required but not available" {
			t.Errorf("%v: got %d %s, want 503 that says that Docker isn't available", call, a.code, a.error)
		}
	}
}
