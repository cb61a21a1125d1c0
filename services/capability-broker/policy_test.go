package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/policy"
)

// underPolicy waits until the broker goes by the policy.
func (w *world) underPolicy(text string) {
	w.t.Helper()
	w.SetPolicy(text)
	p, err := policy.Parse([]byte(text))
	if err != nil {
		w.t.Fatal(err)
	}
	w.eventually("the policy is in force", func() bool {
		for _, e := range w.audited("security", "policy_changed") {
			if e["details"].(map[string]any)["digest"] == p.Digest() {
				return true
			}
		}
		return false
	})
	time.Sleep(50 * time.Millisecond) // the entry comes before the policy
}

func (w *world) listedGrant(principal, permission string) map[string]any {
	w.t.Helper()
	grants := w.must("GET", "/api/capability/grants", nil)["grants"].(map[string]any)
	return grants[principal].(map[string]any)["permissions"].(map[string]any)[permission].(map[string]any)
}

// Lowered: a call under way ends within a second, the next is denied as any other, and the record stays. Raised: it is in force again.
func TestSuspendedCapabilityGrants(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(map[string]string{"h": `
import time
def execute(c, a):
    time.sleep(a.get("wait", 0))
    return "done"
`}))
	w.approve("p")
	w.install("p")
	call := func(wait int) map[string]any {
		return w.dial("p").ask(map[string]any{"permission_id": "test.h", "timeout_seconds": 60, "args": map[string]any{"wait": wait}})
	}
	if got := call(0); got["output"] != "done" {
		t.Fatalf("before: got %v, want done", got)
	}
	before := w.listedGrant("p", "test.h")
	running := make(chan map[string]any, 1)
	go func() { running <- call(50) }()
	time.Sleep(time.Second)
	lowered := time.Now()
	w.SetPolicy(`{"version": 1, "capability": {"permissions": {"deny": ["test.*"]}}}`)
	if got := <-running; got["success"] != false {
		t.Errorf("the call of a suspended grant: got %v, want a failure", got)
	}
	if took := time.Since(lowered); took > time.Second {
		t.Errorf("the call of a suspended grant ended after %v, want at most 1 s", took)
	}
	if got := call(0); got["error"] != "Permission denied" || got["error_type"] != "grant_denied" {
		t.Errorf("a call under a suspended grant: got %v, want what any denied one gets", got)
	}
	held := w.listedGrant("p", "test.h")
	suspended, _ := held["suspended"].(map[string]any)
	if held["enabled"] != false || suspended["rule"] != policy.Permissions || held["updated_at"] != before["updated_at"] || held["granted_at"] != before["granted_at"] {
		t.Errorf("the list: got %v, want it suspended by %s, its record as before: %v", held, policy.Permissions, before)
	}
	denials := w.audited("security", "capability_denied")
	if len(denials) == 0 || !strings.Contains(fmt.Sprint(denials[len(denials)-1]["rejection_reason"]), "suspended by the policy: capability.permissions") {
		t.Errorf("the audit log: got %v, want a denial with the rule", denials)
	}
	refused := w.api("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": "test.h"})
	if refused.code != http.StatusForbidden || !strings.Contains(refused.error, `capability.permissions: "test.h" is denied (denied: test.*)`) {
		t.Errorf("a new grant: got %d %s, want 403 with the rule", refused.code, refused.error)
	}
	if entries := w.audited("security", "policy_refused"); len(entries) != 1 || entries[0]["owner_pack"] != "p" {
		t.Errorf("the audit log: got %v, want one policy_refused of p", entries)
	}
	w.SetPolicy(`{"version": 1}`)
	w.eventually("the grant is back", func() bool { return call(0)["output"] == "done" })
	if held := w.listedGrant("p", "test.h"); held["enabled"] != true || held["suspended"] != nil || held["updated_at"] != before["updated_at"] {
		t.Errorf("the list: got %v, want the grant as it was before: %v", held, before)
	}
}

func TestMountsAndMemoryOverThePolicyAreRefused(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(map[string]string{"h": `
import os
def execute(c, a):
    path = "/sys/fs/cgroup/memory.max"
    if not os.path.exists(path): # version 1
        path = "/sys/fs/cgroup/memory/memory.limit_in_bytes"
    return int(open(path).read()) >> 20
`}))
	w.approve("p")
	w.install("p")
	if err := os.MkdirAll(filepath.Join(w.UserData(), "shared", "reports"), 0o777); err != nil {
		t.Fatal(err)
	}
	memory := func() any {
		return w.dial("p").ask(map[string]any{"permission_id": "test.h", "timeout_seconds": 60})["output"]
	}
	if got := memory(); got != 512.0 {
		t.Errorf("memory of a call without a ceiling: got %v MiB, want 512", got)
	}
	w.underPolicy(`{"version": 1, "capability": {"mounts": [{"path": "reports"}]}, "containers": {"memory": "128m"}}`)
	if got := memory(); got != 128.0 {
		t.Errorf("memory of a call whose grant asks for none: got %v MiB, want the ceiling, 128", got)
	}
	for _, c := range []struct{ terms, rule string }{
		{`"mounts": [{"source": "reports"}]`, ""},
		{`"mounts": [{"source": "reports", "read_only": false}]`, "capability.mounts"},
		{`"mounts": [{"source": "other"}]`, "capability.mounts"},
		{`"limits": {"memory_mb": 128}`, ""},
		{`"limits": {"memory_mb": 129}`, "containers.memory"},
		{`"limits": {"memory_mb": 9007199254740991}`, "containers.memory"},
	} {
		a := w.api("POST", "/api/capability/grants/grant", `{"principal_id": "p", "permission_id": "test.h", `+c.terms+`}`)
		if c.rule == "" && a.code != http.StatusOK || c.rule != "" && (a.code != http.StatusForbidden || !strings.Contains(a.error, c.rule+": ")) {
			t.Errorf("%s: got %d %s, want the rule %q", c.terms, a.code, a.error, c.rule)
		}
	}
}

// A pack that asks for more memory than the ceiling isn't started; one that runs already goes on, and is shown.
func TestAPackOverTheMemoryOfThePolicyIsNotStarted(t *testing.T) {
	w := newWorld(t).start()
	files := packFiles()
	files["ecosystem.json"] = `{"pack_id": "p", "pack_identity": "x", "version": "1", "entrypoint": "backend/main.py", "resources": {"memory_mb": 256}}`
	w.write("p", files)
	w.approve("p")
	w.must("POST", "/api/containers/p/start", nil)
	w.underPolicy(`{"version": 1, "containers": {"memory": "128m"}}`)
	var shown map[string]any
	for _, raw := range w.api("GET", "/api/containers", nil).list {
		shown = raw.(map[string]any)
	}
	if over, _ := shown["over_policy"].(map[string]any); shown["status"] != "running" || over["rule"] != policy.Memory {
		text, _ := json.Marshal(shown)
		t.Errorf("a container over a lowered ceiling: got %s, want it running and shown with %s", text, policy.Memory)
	}
	w.must("POST", "/api/containers/p/stop", nil)
	if a := w.api("POST", "/api/containers/p/start", nil); a.code != http.StatusForbidden || !strings.Contains(a.error, "containers.memory: 256m of memory is more than the allowed 128m") {
		t.Errorf("its start: got %d %s, want 403 with the rule", a.code, a.error)
	}
	if entries := w.audited("security", "container_start_denied"); len(entries) != 1 {
		t.Errorf("the audit log: got %v, want one container_start_denied", entries)
	}
	w.underPolicy(`{"version": 1, "containers": {"memory": "256m"}}`)
	w.must("POST", "/api/containers/p/start", nil)
}
