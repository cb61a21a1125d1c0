package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/uds"
)

func sum(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

func escape(key string) string { return url.PathEscape(key) }

const echo = `
def execute(context, args):
    print("called with", args)
    return {"context": context, "args": args}
`

// A pack calls a handler of another pack: scan, approval, grant, call; and after each step that is missing, a denial.
func TestCallFromScanToAnswer(t *testing.T) {
	w := newWorld(t).start()
	w.write("owner", handlerPack(map[string]string{"echo": echo}))
	w.write("user", handlerPack(nil))
	w.approve("owner")
	w.approve("user")
	conn := w.dial("user")
	call := map[string]any{"permission_id": "test.echo", "args": map[string]any{"x": 1, "secret": "TOPSECRET"}, "request_id": "r-1",
		"timeout_seconds": 20, "principal_id": "owner", "unknown": true}
	refused := func(kind string) {
		t.Helper()
		if got := conn.ask(call); got["success"] != false || got["error"] != "Permission denied" || got["error_type"] != kind || got["output"] != nil {
			t.Fatalf("want a refusal (%s): %v", kind, got)
		}
	}
	refused("grant_denied")
	w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "user", "permission_id": "test.echo",
		"config": map[string]any{"root": "/data"}})
	refused("handler_not_found")

	scan := w.must("POST", "/api/capability/candidates/scan", nil)
	if scan["scanned_count"] != 1.0 || scan["pending_created"] != 1.0 {
		t.Fatalf("the scan answers %v, want one folder seen and one candidate made pending", scan)
	}
	key := "owner:echo:echo_handler:" + sum([]byte(echo))
	item := w.must("GET", "/api/capability/requests?status=pending", nil)["items"].([]any)[0].(map[string]any)
	if item["candidate_key"] != key || item["installed_to"] != nil || item["status"] != "pending" {
		t.Fatalf("the pending candidate is %v, want %s, not yet installed", item, key)
	}
	approved := w.must("POST", "/api/capability/requests/"+strings.ReplaceAll(key, ":", "%3A")+"/approve", map[string]any{"notes": "Reviewed"})
	if approved["success"] != true || approved["status"] != "installed" || approved["handler_id"] != "echo_handler" ||
		approved["installed_to"] != "user_data/capabilities/handlers/owner/echo" || approved["sha256"] != sum([]byte(echo)) {
		t.Fatalf("the approval answers %v, want it installed, with its folder and its sha256", approved)
	}
	got := conn.ask(call)
	if got["success"] != true || got["error"] != nil || got["error_type"] != nil || got["request_id"] != "r-1" {
		t.Fatalf("the call got %v, want success for request r-1", got)
	}
	output := got["output"].(map[string]any)
	context := output["context"].(map[string]any)
	if output["args"].(map[string]any)["x"] != 1.0 || context["principal_id"] != "user" || context["permission_id"] != "test.echo" ||
		context["handler_id"] != "echo_handler" || context["request_id"] != "r-1" || context["ts"] == nil ||
		context["grant_config"].(map[string]any)["root"] != "/data" {
		t.Fatalf("the handler was given %v, want the args and the whole context of the call", output)
	}
	// What a handler prints is in its own log, and its arguments are nowhere else.
	w.eventually("handler's log", func() bool {
		raw, _ := os.ReadFile(filepath.Join(w.UserData(), "capabilities/logs/owner/echo.log"))
		return strings.Contains(string(raw), "called with")
	})
	for name, raw := range readFiles(t, filepath.Join(w.UserData(), "audit")) {
		if strings.Contains(string(raw), "TOPSECRET") {
			t.Errorf("%s has an argument", name)
		}
	}
	// Every denial twice, each call of another's name once.
	if n := len(w.audited("security", "capability_denied")); n != 2 {
		t.Errorf("%d entries capability_denied, want 2", n)
	}
	if n := len(w.audited("permission", "permission_execute")); n != 3 {
		t.Errorf("%d entries permission_execute, want 3", n)
	}
	if n := len(w.audited("security", "principal_id_overridden")); n != 3 {
		t.Errorf("%d entries principal_id_overridden, want 3", n)
	}
	e := w.audited("permission", "permission_execute")[2]
	if e["success"] != true || e["owner_pack"] != "user" || e["request_id"] != "r-1" || e["actor"] != "pack:user" ||
		e["details"].(map[string]any)["permission_type"] != "capability" {
		t.Errorf("the entry of the call is %v, want success of r-1, by pack:user", e)
	}

	w.gate("user", "modified", "sha256:"+sum(nil))
	w.eventually("modified", func() bool { return conn.ask(call)["error_type"] == "grant_denied" })
	w.approve("user")
	w.eventually("approved again", func() bool { return conn.ask(call)["success"] == true })
	w.gate("owner", "blocked", "")
	w.eventually("the handler's pack is blocked", func() bool { return conn.ask(call)["error_type"] == "trust_denied" })
	w.approve("owner")
	w.must("POST", "/api/capability/grants/revoke", map[string]any{"principal_id": "user", "permission_id": "test.echo"})
	refused("grant_denied")
}

// A call whose client has closed the connection is cancelled: its handler stops, its worker is replaced, and the log says why. A
// client that only ends what it sends gets its answer.
func TestCallsOfClientsThatLeave(t *testing.T) {
	w := newWorld(t)
	w.env["RUMI_CAPABILITY_WORKERS_PER_HANDLER"] = "1"
	w.start()
	w.write("p", handlerPack(map[string]string{"slow": `
import time
def execute(c, a):
    print("began", c["request_id"])
    time.sleep(a.get("seconds", 0))
    return "done"
`}))
	w.approve("p")
	w.install("p")
	call := func(id string, seconds float64) map[string]any {
		return map[string]any{"permission_id": "test.slow", "request_id": id, "timeout_seconds": 100, "args": map[string]any{"seconds": seconds}}
	}
	if got := w.dial("p").ask(call("first", 0)); got["output"] != "done" {
		t.Fatalf("the first call got %v, want the output done", got)
	}
	log := func() string {
		raw, _ := os.ReadFile(filepath.Join(w.UserData(), "capabilities/logs/p/slow.log"))
		return string(raw)
	}
	leaver := w.dial("p")
	raw, err := json.Marshal(call("leaver", 90))
	if err != nil {
		t.Fatal(err)
	}
	if err := uds.WriteFrame(leaver, raw); err != nil {
		t.Fatal(err)
	}
	w.eventually("the handler at work", func() bool { return strings.Contains(log(), "began leaver") })
	leaver.Close()
	w.eventually("entry of the call whose client has gone", func() bool {
		for _, e := range w.audited("permission", "permission_execute") {
			if e["request_id"] == "leaver" {
				if e["success"] != false || e["error"] != "The client closed the connection before the call had ended" {
					t.Fatalf("the entry is %v, want a failure that says that the client has gone", e)
				}
				return true
			}
		}
		return false
	})
	began := time.Now()
	half := w.dial("p")
	if raw, err = json.Marshal(call("half", 1)); err != nil {
		t.Fatal(err)
	}
	if err := uds.WriteFrame(half, raw); err != nil {
		t.Fatal(err)
	}
	if err := half.Conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	frame, err := uds.ReadFrame(half, 1<<20)
	if err != nil || !strings.Contains(string(frame), `"done"`) {
		t.Errorf("a client that ended what it sends: %s, %v; want the answer done", frame, err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the next call took %v, want no wait for one whose client has gone", took)
	}
}

// The author of a handler finds why a call failed by the request id of its answer.
func TestHandlerLogs(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(map[string]string{
		"h": "import os, sys\ndef execute(c, a):\n    print('doing', a['n'])\n    if a['n'] == 1:\n        raise KeyError('why')\n    if a['n'] == 2:\n        os._exit(1)\n    return a['n']",
		"a": "async def execute(c, a):\n    return 1", "quiet": one,
	}))
	w.approve("p")
	w.install("p")
	p := w.dial("p")
	for n := range 3 {
		p.ask(map[string]any{"permission_id": "test.h", "request_id": fmt.Sprint("r", n), "timeout_seconds": 30, "args": map[string]any{"n": n}})
	}
	if got := p.ask(map[string]any{"permission_id": "test.a", "timeout_seconds": 30}); got["error_type"] != "execution_error" {
		t.Errorf("a handler whose execute is async: got %v, want execution_error", got)
	}
	if all := w.audited("permission", "permission_execute"); all[len(all)-1]["error"] != "The handler failed (coroutine: the function is async; it must be a def)" {
		t.Errorf("async: the entry is %v, want it to say that the function must be a def", all[len(all)-1])
	}
	list := w.must("GET", "/api/capability/handlers?pack_id=p", nil)
	first := list["handlers"].([]any)[0].(map[string]any)
	if list["count"] != 3.0 || first["slug"] != "a" || first["permission_id"] != "test.a" || first["installed_to"] != "user_data/capabilities/handlers/p/a" || first["installed_at"] == nil {
		t.Errorf("the handlers of p are %v, want three, and a first that is in p/a", list)
	}
	if got := w.must("GET", "/api/capability/handlers?pack_id=q", nil); got["count"] != 0.0 {
		t.Errorf("another pack's handlers are %v, want none", got)
	}
	read := func(path string) (lines []string) {
		for _, raw := range w.must("GET", path, nil)["lines"].([]any) {
			line := raw.(map[string]any)
			if ts, err := time.Parse(time.RFC3339Nano, line["ts"].(string)); err != nil || time.Since(ts).Abs() > time.Minute {
				t.Errorf("line %v has a time that can't be read (%v) or isn't now", line, err)
			}
			lines = append(lines, fmt.Sprint(line["request_id"], "/", line["stream"], "/", line["text"]))
		}
		return lines
	}
	const path = "/api/capability/handlers/p/h/logs"
	want := []string{"r0/stdout/doing 0", "r1/stdout/doing 1", "r1/stderr/KeyError: 'why'", "r2/stdout/doing 2",
		"r2/stderr/rumi: the worker ended (os._exit, a crash or out of memory)"}
	w.eventually("all lines", func() bool {
		lines := read(path)
		for _, line := range want {
			if !slices.Contains(lines, line) {
				return false
			}
		}
		return true
	})
	if lines := read(path + "?tail=1"); len(lines) != 1 {
		t.Errorf("the last line: got %q, want one line", lines)
	}
	if lines := read("/api/capability/handlers/p/quiet/logs"); len(lines) != 0 {
		t.Errorf("a handler that printed nothing: %q; want no lines", lines)
	}
	for path, code := range map[string]int{
		"/api/capability/handlers/p/none/logs": 404, "/api/capability/handlers/q/h/logs": 404, "/api/capability/handlers/p/a.b/logs": 400,
		"/api/capability/handlers/p/h/logs?tail=0": 400, "/api/capability/handlers/p/h/logs?tail=x": 400, "/api/capability/handlers/p/h/logs?since=1": 400,
		"/api/capability/handlers?pack_id=a.b": 400,
	} {
		if got := w.api("GET", path, nil); got.code != code {
			t.Errorf("%s: %d %s, want %d", path, got.code, got.error, code)
		}
	}
}

// hostile are handlers that break every rule, with the error_type that their callers read, "" for success. Each is
// called twice, the second time in what the first has left behind.
var hostile = map[string]struct{ code, kind string }{
	"never_answers":     {"import time\ndef execute(c, a):\n    time.sleep(3600)", "timeout"},
	"two_mib":           {"def execute(c, a):\n    return 'x' * (2 << 20)", "response_too_large"},
	"just_fits":         {"def execute(c, a):\n    return 'x' * ((1 << 20) - 1000)", ""},
	"just_too_much":     {"def execute(c, a):\n    return 'x' * ((1 << 20) - 2)", "response_too_large"},
	"prints":            {"import os, sys\ndef execute(c, a):\n    print('{\"id\": 1}' * 99)\n    os.write(1, b'noise' * 99)\n    sys.stdout.flush()\n    return 'fine'", ""},
	"prints_forever":    {"def execute(c, a):\n    while True: print('x' * 4096)", "timeout"},
	"forks_exits":       {"import os\ndef execute(c, a):\n    if os.fork() == 0:\n        os._exit(0)\n    os._exit(0)", "execution_error"},
	"fork_lingers":      {"import os, time\ndef execute(c, a):\n    if os.fork() == 0:\n        time.sleep(3600)\n    return 'parent'", ""},
	"fork_bomb":         {"import os\ndef execute(c, a):\n    while True: os.fork()", "execution_error"},
	"closes_pipes":      {"import os\ndef execute(c, a):\n    os.closerange(0, 3)\n    return 1", ""},
	"closes_everything": {"import os\ndef execute(c, a):\n    os.closerange(0, 4096)\n    return 1", "execution_error"},
	"sys_exit":          {"import sys\ndef execute(c, a):\n    sys.exit(0)", "execution_error"},
	"raises":            {"def execute(c, a):\n    raise ValueError('TOPSECRET')", "execution_error"},
	"names_its_error":   {"def execute(c, a):\n    raise type(a['k'], (Exception,), {})()", "execution_error"},
	"not_json":          {"def execute(c, a):\n    return {1, 2}", "execution_error"},
	"nan":               {"def execute(c, a):\n    return float('nan')", "execution_error"},
	"no_function":       {"x = 1", "execution_error"},
	"syntax_error":      {"def execute(:", "execution_error"},
	"memory_bomb":       {"def execute(c, a):\n    x = []\n    while True: x.append(bytearray(1 << 24))", "execution_error"},
	"forges": {"import os, struct, threading, time\n" +
		"def noise():\n    time.sleep(0.3)\n    for fd in range(3, 1024):\n        try: os.write(fd, struct.pack('>I', 11) + b'{\"id\": \"1\"}')\n        except OSError: pass\n" +
		"def execute(c, a):\n    threading.Thread(target=noise).start()\n    return 'first'", ""},
}

func TestHostileHandlers(t *testing.T) {
	w := newWorld(t).start()
	code := map[string]string{"good": "import socket\ndef execute(c, a):\n    return socket.gethostname() and open('/proc/self/mountinfo').read().count('/pack')"}
	for slug, h := range hostile {
		code[slug] = h.code
	}
	w.write("p", handlerPack(code))
	w.approve("p")
	w.install("p")
	var calls sync.WaitGroup
	gate := make(chan struct{}, 3)
	for slug, h := range hostile {
		calls.Go(func() {
			gate <- struct{}{}
			defer func() { <-gate }()
			conn := w.dial("p")
			request := map[string]any{"permission_id": "test." + slug, "args": map[string]any{"k": "TOPSECRET"}, "timeout_seconds": 12}
			if h.kind == "timeout" {
				request["timeout_seconds"] = 4
			}
			for range 2 {
				began := time.Now()
				got := conn.ask(request)
				if kind, _ := got["error_type"].(string); kind != h.kind || (got["success"] == true) != (h.kind == "") {
					got["output"] = nil
					t.Errorf("%s: want %q: %v", slug, h.kind, got)
				}
				if h.kind == "timeout" && time.Since(began) > 5*time.Second {
					t.Errorf("%s: the timeout came after %v, want at most 5s", slug, time.Since(began))
				}
				if slug == "forges" {
					time.Sleep(time.Second) // for its thread
				}
			}
		})
	}
	calls.Wait()
	if got := w.dial("p").ask(map[string]any{"permission_id": "test.good", "timeout_seconds": 20}); got["success"] != true {
		t.Errorf("the call after the hostile ones got %v, want success", got)
	}
	for _, dir := range []string{"audit"} {
		for name, raw := range readFiles(t, filepath.Join(w.UserData(), dir)) {
			if strings.Contains(string(raw), "TOPSECRET") {
				t.Errorf("%s has an argument or an exception's text", name)
			}
		}
	}
}

// The disk and the service secrets work at the same time for a key that had a value before, and what a key holds is asked
// each time.
func TestASecretIsFetchedWhileItsEntryIsSynced(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.write("p", handlerPack(nil))
	w.approve("p")
	w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": "secrets.get",
		"config": map[string]any{"allowed_keys": []string{"API_KEY"}}})
	conn := w.dial("p")
	get := func() any {
		output, _ := conn.ask(map[string]any{"permission_id": "secrets.get", "args": map[string]any{"key": "API_KEY"}})["output"].(map[string]any)
		return output["value"]
	}
	entries := func() int {
		return strings.Count(audittest.Text(t, filepath.Join(w.UserData(), "audit"), "permission"), `"permission_secrets_get"`)
	}
	during := func(value string, fetching func()) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.fetching = fetching; value == "" {
			delete(w.secrets, "API_KEY")
		} else {
			w.secrets["API_KEY"] = value
		}
	}
	during("first", func() {
		if n := entries(); n != 0 {
			t.Errorf("%d entries say that a key has a value that never had one", n)
		}
	})
	if got := get(); got != "first" {
		t.Fatalf("got %v, want the value \"first\"", got)
	}
	during("second", func() {
		for end := time.Now().Add(10 * time.Second); entries() != 2; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Error("the entry waits for the value")
				return
			}
		}
	})
	if got := get(); got != "second" {
		t.Errorf("after a change: got %v, want the second value", got)
	}
	during("", nil)
	if got := get(); got != nil {
		t.Errorf("after the deletion: got %v, want nothing", got)
	}
	if n := len(w.audited("security", "capability_denied")); n != 1 {
		t.Errorf("the deletion left %d denials", n)
	}
}

func TestSecretsGet(t *testing.T) {
	w := newWorld(t)
	w.env["RUMI_SECRET_GET_RATE_LIMIT"] = "8"
	w.start()
	w.secrets["API_KEY"] = "sk-TOPSECRET"
	w.secrets["OTHER"] = "hidden"
	w.write("p", handlerPack(nil))
	w.approve("p")
	conn := w.dial("p")
	get := func(key any) map[string]any {
		return conn.ask(map[string]any{"permission_id": "secrets.get", "args": map[string]any{"key": key}})
	}
	if got := get("API_KEY"); got["error_type"] != "grant_denied" || got["error"] != "Permission denied" { // 1
		t.Fatalf("without a grant: got %v, want grant_denied", got)
	}
	grant := map[string]any{"principal_id": "p", "permission_id": "secrets.get"}
	w.must("POST", "/api/capability/grants/grant", grant)
	withheld := func(got map[string]any) {
		t.Helper()
		output, _ := got["output"].(map[string]any)
		if got["success"] != true || output["success"] != false || output["error"] != "Access denied or secret not found" ||
			output["error_type"] != "access_denied" || len(output) != 3 {
			t.Fatalf("got %v, want it withheld: access_denied, and nothing that says why", got)
		}
	}
	withheld(get("API_KEY")) // 2: an empty list names none
	grant["config"] = map[string]any{"allowed_keys": []string{"API_KEY", "MISSING"}}
	w.must("POST", "/api/capability/grants/grant", grant)
	if got := get("API_KEY"); got["success"] != true || got["output"].(map[string]any)["value"] != "sk-TOPSECRET" { // 3
		t.Fatalf("a key that the grant names: got %v, want its value", got)
	}
	withheld(get("OTHER"))     // 4
	withheld(get("MISSING"))   // 5
	withheld(get("../OTHER"))  // 6
	withheld(get("API_KEY\n")) // 7
	get("API_KEY")             // 8
	if got := get("API_KEY"); got["error_type"] != "rate_limited" || got["error"] != "Rate limited" {
		t.Fatalf("over the rate: got %v, want rate_limited", got)
	}
	if n := len(w.audited("permission", "permission_secrets_get")); n != 9 {
		t.Errorf("%d entries permission_secrets_get, want 9", n)
	}
	if n := len(w.audited("security", "capability_denied")); n != 7 {
		t.Errorf("%d entries capability_denied, want 7", n)
	}
	for name, raw := range readFiles(t, filepath.Join(w.UserData(), "audit")) {
		if strings.Contains(string(raw), "TOPSECRET") {
			t.Errorf("%s has a secret", name)
		}
	}
}
