package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

// files installs the example pack and returns a function that calls its handlers for the principal p.
func (w *world) files() (p pipe, shared func(elem ...string) string) {
	w.t.Helper()
	pack := make(map[string]string)
	for name, content := range readFiles(w.t, "../../examples/packs/files") {
		if !strings.Contains(name, "__pycache__") {
			pack[name] = string(content)
		}
	}
	w.write("files", pack)
	w.write("p", handlerPack(nil))
	w.approve("files")
	w.approve("p")
	w.scan()
	for _, raw := range w.must("GET", "/api/capability/requests?status=pending", nil)["items"].([]any) {
		w.must("POST", "/api/capability/requests/"+escape(raw.(map[string]any)["candidate_key"].(string))+"/approve", nil)
	}
	return w.dial("p"), func(elem ...string) string {
		return filepath.Join(append([]string{w.UserData(), "shared"}, elem...)...)
	}
}

func (w *world) grant(permission string, fields map[string]any) answer {
	w.t.Helper()
	body := map[string]any{"principal_id": "p", "permission_id": permission}
	for name, value := range fields {
		body[name] = value
	}
	return w.api("POST", "/api/capability/grants/grant", body)
}

func mounts(list ...map[string]any) map[string]any { return map[string]any{"mounts": list} }

func at(source string, more ...any) map[string]any {
	m := map[string]any{"source": source}
	for i := 0; i < len(more); i += 2 {
		m[more[i].(string)] = more[i+1]
	}
	return m
}

// output is what a call of fs.* answers.
func (p pipe) output(permission string, args any) map[string]any {
	p.t.Helper()
	got := p.ask(map[string]any{"permission_id": permission, "args": args, "timeout_seconds": 20})
	output, _ := got["output"].(map[string]any)
	if got["success"] != true {
		p.t.Errorf("%s %v: %v", permission, args, got)
	}
	return output
}

// handlerContainers are this instance's handlers.
func (w *world) handlerContainers() []sandbox.Container {
	w.t.Helper()
	e := w.engine()
	defer e.Close()
	list, err := e.List(w.t.Context(), sandbox.Handler)
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// The unit of trust is a handler's own folder, so code that both handlers need is in each of them.
func TestFoldersOfBothHandlersAreOne(t *testing.T) {
	files := readFiles(t, "../../examples/packs/files/share/capability_handlers")
	reads, writes := files["fs_read/folders.py"], files["fs_write/folders.py"]
	if len(reads) == 0 || !bytes.Equal(reads, writes) {
		t.Error("folders.py of fs_read and of fs_write differ")
	}
}

func TestFilesPack(t *testing.T) {
	w := newWorld(t).start()
	p, shared := w.files()
	for permission, fields := range map[string]map[string]any{
		"fs.read":  mounts(at("notes"), at("more", "target", "/data", "read_only", false)),
		"fs.write": mounts(at("notes", "read_only", false), at("more")),
	} {
		if a := w.grant(permission, fields); a.code != 200 {
			t.Fatalf("the grant of %s got %+v, want 200", permission, a)
		}
	}
	for path, content := range map[string]string{"notes/a.txt": "héllo", "notes/raw": "\xff\x00", "more/b": "b", "secret": "TOPSECRET"} {
		if err := os.WriteFile(shared(path), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"notes/out": "../secret", "notes/abs": "/etc/passwd", "notes/in": "a.txt", "notes/up": ".."} {
		if err := os.Symlink(to, shared(link)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("mkfifo", shared("notes/fifo")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	read := func(args map[string]any) map[string]any { t.Helper(); return p.output("fs.read", args) }
	text := func(content string, size, offset, next any) map[string]any {
		return map[string]any{"success": true, "type": "file", "content": content, "encoding": "utf-8", "size": size, "offset": offset, "next_offset": next}
	}
	for _, c := range []struct {
		args map[string]any
		want map[string]any
	}{
		{map[string]any{"path": "a.txt"}, text("héllo", 6.0, 0.0, nil)},
		{map[string]any{"path": "./a.txt", "length": 2}, text("h", 6.0, 0.0, 1.0)},
		{map[string]any{"path": "a.txt", "offset": 3, "length": 2}, text("ll", 6.0, 3.0, 5.0)},
		{map[string]any{"path": "a.txt", "offset": 99}, text("", 6.0, 99.0, nil)},
		{map[string]any{"path": "/mnt/notes/a.txt"}, text("héllo", 6.0, 0.0, nil)},
		{map[string]any{"path": "/data/b"}, text("b", 1.0, 0.0, nil)},
		{map[string]any{"path": "raw"}, map[string]any{"success": true, "type": "file", "content": "/wA=", "encoding": "base64", "size": 2.0, "offset": 0.0, "next_offset": nil}},
		{map[string]any{"path": "/data"}, map[string]any{"success": true, "type": "folder", "truncated": false,
			"entries": []any{map[string]any{"name": "b", "type": "file", "size": 1.0}}}},
	} {
		if got := read(c.args); !reflect.DeepEqual(got, c.want) {
			t.Errorf("read of %v: got %v, want %v", c.args, got, c.want)
		}
	}
	for path, kind := range map[any]string{
		"out": "not_a_file", "abs": "not_a_file", "in": "not_a_file", "up/secret": "not_a_file", "fifo": "not_a_file", "a.txt/x": "not_a_file", "none": "not_found",
		"../secret": "validation_error", "x/../../secret": "validation_error", "/mnt/notes/../secret": "validation_error", "a\x00b": "validation_error",
		"/etc/passwd": "not_mounted", "/mnt": "not_mounted", "/mnt/notesx": "not_mounted", "/proc/self/environ": "not_mounted", "/pack/handler.py": "not_mounted",
		7: "validation_error", nil: "validation_error", strings.Repeat("n", 300): "validation_error", strings.Repeat("n/", 3000): "validation_error",
	} {
		if got := read(map[string]any{"path": path}); got["success"] != false || got["error_type"] != kind {
			t.Errorf("%v: want %s: %v", path, kind, got)
		}
	}

	write := func(args map[string]any, want string) {
		t.Helper()
		got := p.output("fs.write", args)
		if kind, _ := got["error_type"].(string); kind != want || (got["success"] == true) != (want == "") {
			t.Errorf("write %v: want %q: %v", args["path"], want, got)
		}
	}
	write(map[string]any{"path": "sub/new", "content": "1"}, "not_found")
	write(map[string]any{"path": "sub/new", "content": "1", "make_folders": true}, "")
	write(map[string]any{"path": "sub/new", "content": "2", "mode": "create"}, "exists")
	write(map[string]any{"path": "sub/new", "content": "2", "mode": "append"}, "")
	write(map[string]any{"path": "a.txt", "content": base64.StdEncoding.EncodeToString([]byte("\x00\xff")), "encoding": "base64"}, "")
	write(map[string]any{"path": "in", "content": "replaces the link"}, "")
	write(map[string]any{"path": "out", "content": "x", "mode": "append"}, "not_a_file")
	write(map[string]any{"path": "up/secret", "content": "x"}, "not_a_file")
	write(map[string]any{"path": "../secret", "content": "x"}, "validation_error")
	write(map[string]any{"path": "sub", "content": "x"}, "not_a_file")
	write(map[string]any{"path": "/mnt/more/x", "content": "x"}, "read_only")
	write(map[string]any{"path": "big", "content": strings.Repeat("x", 2<<20+1)}, "payload_too_large")
	for path, want := range map[string]string{"notes/sub/new": "12", "notes/a.txt": "\x00\xff", "notes/in": "replaces the link", "secret": "TOPSECRET"} {
		if got, err := os.ReadFile(shared(path)); err != nil || string(got) != want {
			t.Errorf("%s holds %q (%v), want %q", path, got, err, want)
		}
	}
	if left, _ := filepath.Glob(shared("notes", ".rumi-*")); len(left) > 0 {
		t.Errorf("temporary files are left: %v, want none", left)
	}
	if _, err := os.Lstat(shared("more/x")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a read-only folder was written in")
	}
}

func TestLargeFilesFit(t *testing.T) {
	w := newWorld(t).start()
	p, shared := w.files()
	w.grant("fs.read", mounts(at("notes")))
	for name, content := range map[string]string{"text": strings.Repeat("é", 1<<19), "controls": strings.Repeat("\x01", 1<<20), "raw": strings.Repeat("\xff", 1<<20)} {
		if err := os.WriteFile(shared("notes", name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		var whole strings.Builder
		for offset, calls := any(0.0), 0; offset != nil && calls < 10; calls++ {
			got := p.output("fs.read", map[string]any{"path": name, "offset": offset})
			part, _ := got["content"].(string)
			if got["encoding"] == "base64" {
				raw, err := base64.StdEncoding.DecodeString(part)
				if err != nil {
					t.Fatal(err)
				}
				part = string(raw)
			}
			whole.WriteString(part)
			offset = got["next_offset"]
		}
		if whole.String() != content {
			t.Errorf("%s: %d bytes in all, want %d", name, whole.Len(), len(content))
		}
	}
}

// fs.read sees its folders read-only, whatever handler serves it and whatever the grant says.
func TestReadingHandlersCannotWrite(t *testing.T) {
	w := newWorld(t).start()
	pack := handlerPack(nil)
	for permission, slug := range map[string]string{"fs.read": "r", "fs.edit": "e"} {
		dir := "share/capability_handlers/" + slug + "/"
		pack[dir+"handler.py"] = "import os\ndef execute(c, a):\n    try: open('/mnt/notes/' + c['permission_id'], 'w')\n    except OSError as e: return e.strerror\n"
		pack[dir+"handler.json"] = fmt.Sprintf(`{"handler_id": %q, "permission_id": %q, "entrypoint": "handler.py:execute"}`, slug, permission)
	}
	w.write("p", pack)
	w.approve("p")
	w.install("p")
	for permission, want := range map[string]any{"fs.read": "Read-only file system", "fs.edit": nil} {
		if a := w.grant(permission, mounts(at("notes", "read_only", false))); a.code != 200 {
			t.Fatalf("the grant of %s got %+v, want 200", permission, a)
		}
		if got := w.dial("p").ask(map[string]any{"permission_id": permission, "timeout_seconds": 20}); got["success"] != true || got["output"] != want {
			t.Errorf("%s: got %v, want the output %v", permission, got, want)
		}
	}
}

func TestMountsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	roots := t.TempDir()
	w.env["RUMI_CAPABILITY_MOUNT_ROOTS"] = roots + "/a," + roots + "/b"
	w.start()
	w.write("p", handlerPack(nil))
	w.approve("p")
	if err := errors.Join(os.MkdirAll(roots+"/a/docs", 0o755), os.MkdirAll(roots+"/c", 0o755), os.Symlink(roots+"/c", roots+"/a/link")); err != nil {
		t.Fatal(err)
	}
	for _, m := range []map[string]any{at("notes"), at(roots + "/a/docs"), at(roots + "/a"), at("notes", "target", "/data", "read_only", false)} {
		if a := w.grant("fs.read", mounts(m)); a.code != 200 {
			t.Errorf("the grant of the mount %v got %d %s, want 200", m, a.code, a.error)
		}
	}
	for _, list := range [][]map[string]any{
		{at("")}, {at("..")}, {at("../settings")}, {at("a/../..")}, {at(".")}, {at("/")}, {at("/etc")}, {at("a//b")}, {at("a/")}, {at("a\n")}, {at(`..\x`), at("..")},
		{at(roots)}, {at(roots + "/c")}, {at(roots + "/a/link")}, {at(roots + "/a/none")}, {at(roots + "/a/../c")}, {at(roots + "/b")},
		{at(w.UserData())}, {at(w.UserData() + "/settings")}, {at(w.UserData() + "/shared/notes")}, {at("/var/run/docker.sock")}, {at("/run")},
		{at("notes", "target", "/pack")}, {at("notes", "target", "/")}, {at("notes", "target", "data")}, {at("notes", "target", "/run/rumi")}, {at("notes", "target", "/etc/x")},
		{at("notes", "target", "/mnt/../etc")}, {at("notes"), at("notes")}, {at("notes"), at("other", "target", "/mnt/notes/x")}, {at("a", "target", "/mnt"), at("b")},
		{at("none/sub")},
	} {
		if a := w.grant("fs.read", mounts(list...)); a.code != 400 || !strings.HasPrefix(a.error, "Invalid mounts: ") {
			t.Errorf("the grant of the mounts %v got %d %s, want 400 Invalid mounts", list, a.code, a.error)
		}
	}
	if a := w.grant("secrets.get", mounts(at("notes"))); a.code != 400 {
		t.Errorf("mounts of the broker's own: %v; want 400", a)
	}
	if a := w.grant("fs.read", mounts(map[string]any{"source": "notes", "readonly": true})); a.code != 400 {
		t.Errorf("a mount with an unknown field: got %v, want 400", a)
	}
}

// What a grant no longer shows is gone at once, also from a call under way.
func TestChangedGrantsEndTheirWorkers(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.write("p", handlerPack(map[string]string{
		"ls":   "import os\ndef execute(c, a):\n    return sorted(os.listdir('/mnt')) if os.path.isdir('/mnt') else []",
		"wait": "import time\ndef execute(c, a):\n    time.sleep(3600)",
	}))
	w.approve("p")
	w.install("p")
	p := w.dial("p")
	ls := func() any {
		got := p.ask(map[string]any{"permission_id": "test.ls", "timeout_seconds": 20})
		if got["success"] != true {
			return got["error_type"]
		}
		return got["output"]
	}
	w.grant("test.ls", mounts(at("a")))
	if got := ls(); !reflect.DeepEqual(got, []any{"a"}) {
		t.Errorf("the first grant's mounts: got %v, want a", got)
	}
	w.grant("test.ls", mounts(at("b"), at("c")))
	if got := ls(); !reflect.DeepEqual(got, []any{"b", "c"}) {
		t.Errorf("the changed grant's mounts: got %v, want b and c", got)
	}
	only := func(what string, want int) {
		t.Helper()
		w.eventually(what, func() bool {
			n := 0
			for _, c := range w.handlerContainers() {
				if c.Running() {
					n++
				}
			}
			return n == want
		})
	}
	w.must("POST", "/api/capability/grants/revoke", map[string]any{"principal_id": "p", "permission_id": "test.wait"})
	only("one worker", 1)
	w.must("POST", "/api/capability/grants/revoke", map[string]any{"principal_id": "p", "permission_id": "test.ls"})
	if got := ls(); got != "grant_denied" {
		t.Errorf("after the revocation: got %v, want grant_denied", got)
	}
	only("none after the revocation", 0)

	w.grant("test.wait", map[string]any{"mounts": []any{at("a")}, "max_uses": 1, "expires_at": time.Now().Add(6 * time.Second).UTC().Format(time.RFC3339)})
	began := time.Now()
	got := w.dial("p").ask(map[string]any{"permission_id": "test.wait", "timeout_seconds": 30})
	if took := time.Since(began); got["error_type"] != "execution_error" || took > 20*time.Second || took < time.Second {
		t.Errorf("a call whose grant expires: %v after %v; want execution_error within 1 to 20s", got, took)
	}
	only("none after the expiry", 0)
}

// inspect is what docker inspect says.
func inspect(t *testing.T, id string) (host struct {
	Memory, MemorySwap, NanoCpus, PidsLimit int64
}) {
	t.Helper()
	raw, err := exec.CommandContext(t.Context(), "docker", "inspect", "--format", "{{json .HostConfig}}", id).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &host); err != nil {
		t.Fatal(err)
	}
	return host
}

func TestLimitsOfGrants(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(map[string]string{
		"bomb":  "def execute(c, a):\n    x = bytearray(a['mib'] << 20)\n    return len(x) >> 20",
		"fork":  "import os, signal\ndef execute(c, a):\n    n = 0\n    try:\n        while n < 60:\n            if os.fork() == 0: signal.pause()\n            n += 1\n    except OSError: pass\n    return n",
		"sleep": "import time\ndef execute(c, a):\n    time.sleep(a['s'])\n    return 'slept'",
	}))
	w.approve("p")
	w.install("p")
	limited := func(slug string, limits map[string]any) answer {
		return w.grant("test."+slug, map[string]any{"limits": limits})
	}
	ask := func(slug string, args map[string]any) map[string]any {
		return w.dial("p").ask(map[string]any{"permission_id": "test." + slug, "args": args, "timeout_seconds": 20})
	}
	for _, limits := range []map[string]any{
		{"memory_mb": 513}, {"cpus": 1.5}, {"pids": 129}, {"timeout_seconds": 121}, {"memory_mb": 1 << 60}, {"memory_mb": 1}, {"cpus": 0.001}, {"pids": 1},
		{"memory_mb": 0}, {"pids": -1}, {"timeout_seconds": 0}, {"memory_mb": 1.5}, {"memory": 64},
	} {
		if a := limited("bomb", limits); a.code != 400 {
			t.Errorf("the grant of the limits %v got %d %s, want 400", limits, a.code, a.error)
		}
	}
	if got := ask("bomb", map[string]any{"mib": 100}); got["output"] != 100.0 {
		t.Errorf("without limits: got %v, want 100", got)
	}
	if a := limited("bomb", map[string]any{"memory_mb": 64, "cpus": 0.5, "pids": 32}); a.code != 200 {
		t.Fatalf("the grant of limits got %+v, want 200", a)
	}
	if got := ask("bomb", map[string]any{"mib": 10}); got["output"] != 10.0 {
		t.Errorf("within its memory: got %v, want 10", got)
	}
	var found bool
	for _, c := range w.handlerContainers() {
		if host := inspect(t, c.ID); host.Memory == 64<<20 {
			if found = true; host.MemorySwap != 64<<20 || host.NanoCpus != 5e8 || host.PidsLimit != 32 {
				t.Errorf("the container has %+v, want 64 MiB without swap, half a CPU and 32 processes", host)
			}
		}
	}
	if !found {
		t.Error("no container has the memory that was granted")
	}
	if got := ask("bomb", map[string]any{"mib": 100}); got["error_type"] != "execution_error" {
		t.Errorf("over its memory: got %v, want execution_error", got)
	}
	if got := ask("bomb", map[string]any{"mib": 10}); got["output"] != 10.0 {
		t.Errorf("after that: got %v, want 10", got)
	}
	limited("fork", map[string]any{"pids": 24})
	if got := ask("fork", nil); got["success"] != true || got["output"].(float64) > 23 || got["output"].(float64) < 4 {
		t.Errorf("forks: got %v, want 4 to 23 of the 24 processes", got)
	}
	limited("sleep", map[string]any{"timeout_seconds": 4})
	if got := ask("sleep", map[string]any{"s": 0}); got["output"] != "slept" {
		t.Errorf("within its time: got %v, want slept", got)
	}
	if got := ask("sleep", map[string]any{"s": 30}); got["error_type"] != "timeout" || got["latency_ms"].(float64) > 18_000 {
		t.Errorf("over its time: got %v, want timeout within 18s", got)
	}
}

// A ceiling that is lowered later wins.
func TestLoweredCeiling(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.write("p", handlerPack(map[string]string{"h": one}))
	w.approve("p")
	w.install("p")
	if a := w.grant("test.h", map[string]any{"limits": map[string]any{"memory_mb": 512, "pids": 100}}); a.code != 200 {
		t.Fatalf("the grant of limits got %+v, want 200", a)
	}
	if err := w.broker.Stop(); err != nil {
		t.Fatal(err)
	}
	w.env["RUMI_CONTAINER_MAX_MEMORY_MB"], w.env["RUMI_CONTAINER_MAX_PIDS"] = "128", "64"
	w.start()
	w.eventually("socket", func() bool { _, err := os.Lstat(w.socket("p")); return err == nil })
	w.eventually("call", func() bool {
		return w.dial("p").ask(map[string]any{"permission_id": "test.h", "timeout_seconds": 20})["output"] == 1.0
	})
	for _, c := range w.handlerContainers() {
		if host := inspect(t, c.ID); host.Memory != 128<<20 || host.PidsLimit != 64 {
			t.Errorf("the container has %+v, want the machine's 128 MiB and 64 processes", host)
		}
	}
}
