package main

import (
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
)

func (w *world) scan() map[string]any {
	w.t.Helper()
	return w.must("POST", "/api/capability/candidates/scan", nil)
}

// decide posts to a candidate.
func (w *world) decide(key, verb string, body any) answer {
	w.t.Helper()
	where := "requests"
	if verb == "unblock" {
		where = "blocked"
	}
	return w.api("POST", "/api/capability/"+where+"/"+url.PathEscape(key)+"/"+verb, body)
}

func (w *world) candidate(key string) map[string]any {
	w.t.Helper()
	for _, raw := range w.must("GET", "/api/capability/requests", nil)["items"].([]any) {
		if item := raw.(map[string]any); item["candidate_key"] == key {
			return item
		}
	}
	w.t.Fatalf("no candidate %s", key)
	return nil
}

const one = "def execute(context, args):\n    return 1\n"

func keyOf(code string) string { return "p:h:h_handler:" + sum([]byte(code)) }

const mismatch = "SHA-256 mismatch: handler.py content changed since scan (TOCTOU). Scan again: POST /api/capability/candidates/scan"

func TestApproveIsForWhatWasScannedAndApproved(t *testing.T) {
	two := strings.Replace(one, "1", "2", 1)
	script := "share/capability_handlers/h/handler.py"
	for name, c := range map[string]struct {
		between func(w *world)
		code    int
		text    string
		state   string
	}{
		"the pack is pending":                            {func(w *world) { w.gate("p", "pending", "") }, 409, "Pack 'p' is not approved (status: pending)", "pending"},
		"the pack is modified":                           {func(w *world) { w.gate("p", "modified", "sha256:"+strings.Repeat("0", 64)) }, 409, "Pack 'p' is not approved (status: modified)", "pending"},
		"nobody knows the pack":                          {func(w *world) {}, 409, "Pack 'p' is not approved (status: unknown)", "pending"},
		"changed since the scan":                         {func(w *world) { w.approve("p"); w.write("p", map[string]string{script: two}) }, 409, mismatch, "failed"},
		"changed, then approved":                         {func(w *world) { w.write("p", map[string]string{script: two}); w.approve("p") }, 409, mismatch, "failed"},
		"changed and not approved, the bytes come first": {func(w *world) { w.write("p", map[string]string{script: two}) }, 409, mismatch, "failed"},
		"approved with other bytes, put back on disk": {func(w *world) {
			w.write("p", map[string]string{script: two})
			w.approve("p")
			w.write("p", map[string]string{script: one})
		}, 409, mismatch, "failed"},
		"another permission since the scan": {func(w *world) {
			w.write("p", map[string]string{"share/capability_handlers/h/handler.json": `{"handler_id":"h_handler","permission_id":"fs.write","entrypoint":"handler.py:execute"}`})
			w.approve("p")
		}, 409, mismatch, "failed"},
		"removed since the scan": {func(w *world) {
			w.approve("p")
			os.RemoveAll(filepath.Join(w.Ecosystem(), "p", "share"))
		}, 409, mismatch, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).start()
			w.write("p", handlerPack(map[string]string{"h": one}))
			w.scan()
			w.eventually("gates", func() bool { return w.must("GET", "/api/capability/grants", nil) != nil })
			c.between(w)
			w.eventually("answer", func() bool {
				a := w.decide(keyOf(one), "approve", nil)
				return a.code == c.code && a.error == c.text
			})
			if item := w.candidate(keyOf(one)); item["status"] != c.state || (c.state == "failed") != (item["last_error"] == c.text) || item["installed_to"] != nil {
				t.Errorf("the candidate is %v, want it %s, not installed, with an error only if it failed", item, c.state)
			}
			if c.state == "failed" && len(w.audited("security", "hash_mismatch")) == 0 {
				t.Error("no entry hash_mismatch")
			}
			if entries, _ := os.ReadDir(filepath.Join(w.UserData(), "capabilities/handlers/p")); len(entries) != 0 {
				t.Error("something was installed")
			}
		})
	}
}

// An update of a handler is a new candidate; approving it replaces the old one, and approving the old one again, once
// its bytes are back, replaces the new one.
func TestNewVersionReplacesOld(t *testing.T) {
	two := strings.Replace(one, "1", "2", 1)
	w := newWorld(t).start()
	w.write("p", handlerPack(map[string]string{"h": one}))
	w.approve("p")
	w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": "test.h"})
	conn := w.dial("p")
	use := func(code string, want float64) {
		t.Helper()
		w.write("p", map[string]string{"share/capability_handlers/h/handler.py": code})
		digest := w.approve("p")
		w.scan()
		w.eventually("approval of "+digest, func() bool { return w.decide(keyOf(code), "approve", nil).code == 200 })
		if got := conn.ask(map[string]any{"permission_id": "test.h"}); got["output"] != want {
			t.Fatalf("call: %v, want %v", got, want)
		}
		if a := w.decide(keyOf(code), "approve", nil); a.code != 200 || a.data["status"] != "installed" {
			t.Errorf("the second approval got %v, want 200 and installed", a)
		}
	}
	use(one, 1)
	use(two, 2)
	if w.candidate(keyOf(one))["installed_to"] != nil || w.candidate(keyOf(two))["installed_to"] == nil {
		t.Error("the old one is shown as installed, or the new one isn't")
	}
	use(one, 1)
	// The rest of the folder is trusted with it: what lies beside handler.py can't be changed in the copy.
	copied := filepath.Join(w.UserData(), "capabilities/handlers/p/h")
	if info, err := os.Stat(copied); err != nil || info.Mode().Perm() != 0o555 {
		t.Errorf("the copy's mode is %v (%v), want 0555", info.Mode(), err)
	}
	if err := os.Chmod(copied, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied, "json.py"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(copied, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := w.broker.Stop(); err != nil { // a warm worker is proved already
		t.Fatal(err)
	}
	w.start()
	w.eventually("socket", func() bool { _, err := os.Lstat(w.socket("p")); return err == nil })
	conn = w.dial("p")
	w.eventually("denial of a copy that was changed", func() bool {
		return conn.ask(map[string]any{"permission_id": "test.h"})["error_type"] == "trust_denied"
	})
	if len(w.audited("security", "hash_mismatch")) == 0 {
		t.Error("no entry hash_mismatch")
	}
	if a := w.decide(keyOf(one), "approve", nil); a.code != 200 {
		t.Errorf("approving again mends it: %v, want 200", a)
	}
	if got := conn.ask(map[string]any{"permission_id": "test.h"}); got["output"] != 1.0 {
		t.Errorf("after the copy was mended: got %v, want 1", got)
	}
}

// What lies beside handler.py is trusted with it: a change of it is another handler, though its key is the same.
func TestNewFolderUnderTheSameKey(t *testing.T) {
	const helped = "import helper\ndef execute(context, args):\n    return helper.answer\n"
	dir := "share/capability_handlers/h/"
	w := newWorld(t).start()
	w.write("p", handlerPack(map[string]string{"h": helped}))
	w.write("p", map[string]string{dir + "helper.py": "answer = 1"})
	w.approve("p")
	w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": "test.h"})
	w.scan()
	conn := w.dial("p")
	approve := func() string {
		t.Helper()
		var digest string
		w.eventually("approval", func() bool {
			a := w.decide(keyOf(helped), "approve", nil)
			digest, _ = a.data["digest"].(string)
			return a.code == 200
		})
		return digest
	}
	first := approve()
	ask := func(want float64) {
		t.Helper()
		if got := conn.ask(map[string]any{"permission_id": "test.h"}); got["output"] != want {
			t.Fatalf("call: %v, want %v", got, want)
		}
	}
	ask(1)

	// Neither the pack's change nor its approval changes what is trusted; approving the handler again does. A scan tells that
	// there is something to approve.
	w.write("p", map[string]string{dir + "helper.py": "answer = 2"})
	digest := w.approve("p")
	w.eventually("a scan that sees the other folder", func() bool { return w.scan()["pending_created"] == 1.0 })
	if item := w.candidate(keyOf(helped)); item["status"] != "pending" || item["installed_to"] == nil {
		t.Errorf("the candidate of the changed folder is %v, want it pending, with the earlier one installed", item)
	}
	if scan := w.scan(); scan["skipped_pending"] != 1.0 {
		t.Errorf("the second scan answers %v, want one skipped as pending", scan)
	}
	ask(1)
	w.eventually("approval of "+digest, func() bool { return approve() != first })
	ask(2)
	if scan := w.scan(); scan["skipped_installed"] != 1.0 {
		t.Errorf("the scan after the approval answers %v, want one skipped as installed", scan)
	}
	if n := len(w.audited("security", "capability_handler_installed")); n != 2 {
		t.Errorf("%d entries capability_handler_installed, want 2", n)
	}

	// Another handler.json is to be decided about anew, and what was trusted goes on serving meanwhile.
	w.write("p", map[string]string{dir + "handler.json": `{"handler_id": "h_handler", "permission_id": "test.other", "config_schema": {"properties": {"a": {"const": "\u0041"}}, "additionalProperties": false}}`})
	digest = w.approve("p")
	if scan := w.scan(); scan["pending_created"] != 1.0 {
		t.Errorf("the scan after the change of handler.json answers %v, want one made pending", scan)
	}
	if item := w.candidate(keyOf(helped)); item["status"] != "pending" || item["installed_to"] == nil || item["candidate"].(map[string]any)["permission_id"] != "test.other" {
		t.Errorf("the candidate is %v, want it pending for test.other, with the earlier one installed", item)
	}
	ask(2)
	w.eventually("approval of "+digest, func() bool { return w.decide(keyOf(helped), "approve", nil).data["permission_id"] == "test.other" })
	if got := conn.ask(map[string]any{"permission_id": "test.h"}); got["error_type"] != "handler_not_found" {
		t.Errorf("what is trusted for another permission now: %v; want handler_not_found", got)
	}
	grant := map[string]any{"principal_id": "p", "permission_id": "test.other", "config": map[string]any{"a": "B"}}
	if a := w.api("POST", "/api/capability/grants/grant", grant); a.code != 400 ||
		a.error != "Invalid config for test.other: Config does not fit config_schema of the handler p/h: at '/a' it does not satisfy #/properties/a/const" {
		t.Errorf("a config that the handler doesn't know: %v; want 400 that says so", a)
	}
	grant["config"] = map[string]any{"a": "A"}
	w.must("POST", "/api/capability/grants/grant", grant)
	if got := conn.ask(map[string]any{"permission_id": "test.other"}); got["output"] != 2.0 {
		t.Errorf("a call of the new permission got %v, want 2", got)
	}
}

// Two packs may have a slug and a handler_id in common; two handlers for one permission serve no grant, unless the grant says
// whose they are.
func TestTwinHandlers(t *testing.T) {
	w := newWorld(t).start()
	for _, id := range []string{"p", "q"} {
		w.write(id, handlerPack(map[string]string{"h": one}))
		w.approve(id)
	}
	w.scan()
	w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": "test.h"})
	conn := w.dial("p")
	ask := func() map[string]any { return conn.ask(map[string]any{"permission_id": "test.h"}) }
	w.eventually("approval of the first", func() bool { return w.decide(keyOf(one), "approve", nil).code == 200 })
	if got := ask(); got["output"] != 1.0 {
		t.Errorf("with one handler: got %v, want 1", got)
	}
	held := func() map[string]any {
		p := w.must("GET", "/api/capability/grants", nil)["grants"].(map[string]any)["p"].(map[string]any)
		return p["permissions"].(map[string]any)["test.h"].(map[string]any)
	}
	if got := held()["handler"]; got != nil {
		t.Errorf("granted before any handler was trusted, it names %v", got)
	}
	twin := "q" + keyOf(one)[1:]
	const served = "test.h is served by p/h and q/h then: a new grant of it must name one of them (handler)"
	if got := w.candidate(twin)["effects"]; !reflect.DeepEqual(got, []any{served}) {
		t.Errorf("before the second is approved the operator is told %v, want %q", got, served)
	}
	// A decision about q takes nothing away that was decided about p.
	if a := w.decide(twin, "approve", nil); a.code != 200 || !reflect.DeepEqual(a.data["warnings"], []any{served}) {
		t.Fatalf("got %v, want the warning %q", a, served)
	}
	if got := ask(); got["output"] != 1.0 {
		t.Errorf("with a second handler: got %v, want the first's 1", got)
	}
	if got := held(); !reflect.DeepEqual(got["handler"], map[string]any{"pack_id": "p", "slug": "h"}) || len(got["warnings"].([]any)) != 0 {
		t.Errorf("the grant is %v, want it to name p/h without a warning", got)
	}
	if got := len(w.audited("permission", "permission_pinned")); got != 1 {
		t.Errorf("%d entries permission_pinned, want 1", got)
	}
	const ambiguous = "Several handlers are trusted for this permission: p/h, q/h"
	grant := map[string]any{"principal_id": "p", "permission_id": "test.h"}
	if got := w.must("POST", "/api/capability/grants/grant", grant)["warnings"]; !reflect.DeepEqual(got, []any{ambiguous}) {
		t.Errorf("two handlers for one permission: warnings %v, want %q", got, ambiguous)
	}
	for _, packID := range []string{"q", "p"} {
		grant["handler"] = map[string]any{"pack_id": packID, "slug": "h"}
		if got := w.must("POST", "/api/capability/grants/grant", grant)["warnings"].([]any); len(got) != 0 {
			t.Errorf("a grant that names the handler of %s warns %v, want nothing", packID, got)
		}
		if got := ask(); got["output"] != 1.0 {
			t.Errorf("the call that the handler of %s serves got %v, want 1", packID, got)
		}
		executed := w.audited("permission", "permission_execute")
		if got := executed[len(executed)-1]["details"].(map[string]any)["handler_pack"]; got != packID {
			t.Errorf("%s: the call was done by %v", packID, got)
		}
	}
	if got := held(); len(got["warnings"].([]any)) != 0 || got["handler"].(map[string]any)["pack_id"] != "p" {
		t.Errorf("the grant is listed as %v, want p's handler and no warnings", got)
	}

	// Trust can be withdrawn: the handler's workers end, its copy is removed, and the answer names the grants that no handler serves any more.
	a := w.decide(keyOf(one), "revoke", map[string]any{"reason": "mistake"})
	const refused = "no trusted handler serves these grants of test.h any more, and they are refused: p"
	if a.code != 200 || a.data["status"] != "rejected" || a.data["reject_count"] != 1.0 || !reflect.DeepEqual(a.data["warnings"], []any{refused}) {
		t.Errorf("revoke: %v, want the warning %q", a, refused)
	}
	if got := ask(); got["error_type"] != "trust_denied" {
		t.Errorf("after the revocation: got %v, want trust_denied", got)
	}
	if _, err := os.Stat(filepath.Join(w.UserData(), "capabilities/handlers/p/h")); !os.IsNotExist(err) {
		t.Errorf("the copy is still there: %v", err)
	}
	if got := len(w.audited("security", "capability_handler_withdrawn")); got != 1 {
		t.Errorf("%d entries capability_handler_withdrawn, want 1", got)
	}
	if a := w.decide(keyOf(one), "revoke", nil); a.code != 409 || a.error != "Candidate is not installed" {
		t.Errorf("a second revocation of trust got %+v, want 409", a)
	}
}

// A pack's handlers are candidates as soon as the pack is there, without a scan, and are none any more when they are gone.
func TestHandlersAreNoticed(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(map[string]string{"h": one}))
	w.approve("p")
	counts := func() (pending float64) {
		return w.as("approval", "GET", "/internal/candidates/counts", nil).data["pending_count"].(float64)
	}
	w.eventually("the handler to be noticed", func() bool { return counts() == 1 })
	two := strings.Replace(one, "1", "2", 1)
	w.write("p", map[string]string{"share/capability_handlers/h/handler.py": two})
	w.approve("p")
	w.eventually("the new version to take its place", func() bool {
		items := w.must("GET", "/api/capability/requests", nil)["items"].([]any)
		status := map[string]any{}
		for _, i := range items {
			status[i.(map[string]any)["candidate_key"].(string)] = i.(map[string]any)["status"]
		}
		return len(status) == 2 && status[keyOf(one)] == "superseded" && status[keyOf(two)] == "pending"
	})
	if got := counts(); got != 1 {
		t.Errorf("%v wait, want 1", got)
	}
	if got := w.scan(); got["pending_created"] != 1.0 {
		t.Errorf("the first scan says %v, want the new version as new", got)
	}
}

// A grant that can allow nothing is made, and said to.
func TestGrantsWarn(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(nil))
	w.approve("p")
	grant := func(permission string, config map[string]any) any {
		return w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": permission, "config": config})["warnings"]
	}
	for _, c := range []struct {
		permission string
		config     map[string]any
		want       []any
	}{
		{"secrets.get", nil, []any{"config names no allowed_keys: every call is refused"}},
		{"store.get", map[string]any{"allowed_store_ids": []string{}}, []any{"config names no allowed_store_ids: every call is refused"}},
		{"secrets.get", map[string]any{"allowed_keys": []string{"A", "B"}}, []any{}},
		{"secrets.get", map[string]any{"allowed_keys": []string{"B", "C"}}, []any{"no longer granted: A"}},
		{"fs.reed", nil, []any{"No trusted handler for fs.reed yet"}},
	} {
		if got := grant(c.permission, c.config); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %v: got %v, want %v", c.permission, c.config, got, c.want)
		}
	}
	const unknown = "Unknown permission_id: 'secrets.read' is none of the broker's own (secrets.get, store.batch_get, store.cas, store.delete, store.get, store.list, store.set)"
	if a := w.api("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": "secrets.read"}); a.code != 400 || a.error != unknown {
		t.Errorf("got %d %q, want %q", a.code, a.error, unknown)
	}
}

func TestDecisionsAndTheirAnswers(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(map[string]string{"h": one}))
	w.write("bad", map[string]string{"ecosystem.json": "{}",
		"share/capability_handlers/none/handler.py":         "",
		"share/capability_handlers/no space/handler.json":   "{}",
		"share/capability_handlers/broken/handler.json":     "{",
		"share/capability_handlers/broken/handler.py":       "",
		"share/capability_handlers/reserved/handler.json":   `{"handler_id":"h","permission_id":"secrets.get"}`,
		"share/capability_handlers/reserved/handler.py":     "",
		"share/capability_handlers/elsewhere/handler.json":  `{"handler_id":"h","permission_id":"a","entrypoint":"../x.py:f"}`,
		"share/capability_handlers/elsewhere/handler.py":    "",
		"share/capability_handlers/colon/handler.json":      `{"handler_id":"a:b","permission_id":"a"}`,
		"share/capability_handlers/colon/handler.py":        "",
		"share/capability_handlers/twice/handler.json":      `{"handler_id":"a","handler_id":"b","permission_id":"a"}`,
		"share/capability_handlers/twice/handler.py":        "",
		"share/capability_handlers/permission/handler.json": `{"handler_id":"a","permission_id":"A B"}`,
		"share/capability_handlers/permission/handler.py":   "",
	})
	scan := w.scan()
	if problems := scan["errors"].([]any); len(problems) != 8 || scan["scanned_count"] != 9.0 || scan["pending_created"] != 1.0 {
		t.Fatalf("the scan answers %v, want nine folders seen, eight errors and one pending", scan)
	}
	if scan := w.scan(); scan["skipped_pending"] != 1.0 || scan["pending_created"] != 0.0 {
		t.Fatalf("the second scan answers %v, want one skipped as pending and none created", scan)
	}
	key := keyOf(one)
	for _, bad := range []string{"x", "p:h:h_handler", key + "\n", "a/p" + key[1:], key + "0", strings.ToUpper(key), "p:h:h h:" + sum(nil)} {
		for _, verb := range []string{"approve", "reject", "unblock"} {
			if a := w.decide(bad, verb, nil); a.code != 400 || a.error != "Invalid candidate_key (want PACK:SLUG:HANDLER_ID:SHA256, URL-encoded, as GET …/requests lists it)" {
				t.Errorf("%s of the key %q got %+v, want 400 that says what a key is", verb, bad, a)
			}
		}
	}
	expect := func(a answer, code int, text string) map[string]any {
		t.Helper()
		if a.code != code || a.error != text {
			t.Fatalf("got %d %q, want %d %q", a.code, a.error, code, text)
		}
		return a.data
	}
	expect(w.decide(keyOf("other"), "approve", nil), 404, "Candidate not found")
	expect(w.decide(key, "approve", `{"note": "x"}`), 400, "Unknown field 'note' (known: notes)")
	expect(w.api("GET", "/api/capability/requests?status=nonsense", nil), 400, `Invalid status: "nonsense"`)
	for i := 1; i <= 3; i++ {
		got := expect(w.decide(key, "reject", map[string]any{"reason": "no\nno"}), 200, "")
		if got["success"] != true || got["reject_count"] != float64(i) || (got["status"] == "blocked") != (i == 3) || (got["cooldown_until"] == nil) != (i == 3) {
			t.Errorf("rejection %d answers %v, want its count, and blocked at the third", i, got)
		}
	}
	expect(w.decide(key, "approve", nil), 409, "Candidate is blocked. Unblock first.")
	expect(w.decide(key, "reject", nil), 409, "Candidate is already blocked")
	if got := w.must("GET", "/api/capability/blocked", nil); got["count"] != 1.0 {
		t.Errorf("the blocked ones are %v, want one", got)
	}
	if got := expect(w.decide(key, "unblock", map[string]any{"reason": "second look"}), 200, ""); got["status_after"] != "pending" {
		t.Errorf("the unblocking answers %v, want pending", got)
	}
	expect(w.decide(key, "unblock", nil), 404, "Candidate not found in blocked list")
	w.approve("p")
	w.eventually("approval", func() bool { return w.decide(key, "approve", nil).code == 200 })
	expect(w.decide(key, "reject", nil), 409, "Cannot reject installed candidate")
	for action, want := range map[string]int{"capability_handler_rejected": 2, "capability_handler_blocked": 1,
		"capability_handler_unblocked": 1, "capability_handler_installed": 1} {
		if n := len(w.audited("security", action)); n != want {
			t.Errorf("%d entries %s, want %d", n, action, want)
		}
	}
	w.eventually("approval is told", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.refreshes > 0 })
	if got := w.as("approval", "GET", "/internal/candidates/counts", nil).data; got["installed_count"] != 1.0 || got["pending_count"] != 0.0 {
		t.Errorf("the counts are %v, want one installed and none pending", got)
	}
}

// Whatever order 20 approvals and rejections come in, trust and state agree.
func TestApproveAgainstReject(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(map[string]string{"h": one}))
	w.approve("p")
	w.scan()
	var calls sync.WaitGroup
	for i := range 20 {
		verb := []string{"approve", "reject"}[i%2]
		calls.Go(func() {
			if a := w.decide(keyOf(one), verb, nil); a.code != 200 && a.code != 409 {
				t.Errorf("%s got %+v, want 200 or 409", verb, a)
			}
		})
	}
	calls.Wait()
	item := w.candidate(keyOf(one))
	_, err := os.Stat(filepath.Join(w.UserData(), "capabilities/handlers/p/h/handler.py"))
	if installed := item["status"] == "installed"; installed != (err == nil) || installed != (item["installed_to"] != nil) {
		t.Errorf("the candidate is %v and its copy %v, want both installed or neither", item, err)
	}
}

func TestGrantsOverHTTP(t *testing.T) {
	w := newWorld(t).start()
	w.write("p", handlerPack(nil))
	w.approve("p")
	grant := func(body any) answer { return w.api("POST", "/api/capability/grants/grant", body) }
	for body, text := range map[string]string{
		`{"principal_id": "p"}`:  "Missing permission_id",
		`{"permission_id": "a"}`: "Missing principal_id",
		`{"principal_id": "p", "permission_id": "a", "expire_at": "2099-01-01"}`: "Unknown field 'expire_at' (known: principal_id, permission_id, config, expires_at, max_uses, rate_limit, args_schema, handler, limits, mounts)",
		`{"principal_id": 7, "permission_id": "a"}`:                              "Invalid value for field 'principal_id': want a string",
		`{"principal_id": "p", "permission_id": "a", "config": []}`:              "'config' must be an object",
		`{"principal_id": "p", "permission_id": "a", "permission_id": "b"}`:      "Invalid JSON in request body: line 1, column 45: a name stands twice in one object",
		`[]`: "Invalid JSON in request body" + `: want an object, such as {"name": "value"}`,
		`{"principal_id": "p", "permission_id": "a", "expires_at": "2001-01-01T00:00:00Z"}`:                   "Invalid expires_at: it is in the past",
		`{"principal_id": "p", "permission_id": "a", "max_uses": 0}`:                                          "Invalid max_uses: must be an integer of 1 or more",
		`{"principal_id": "p", "permission_id": "a", "max_uses": 1.5}`:                                        "Invalid value for field 'max_uses': want a whole number in range",
		`{"principal_id": "p", "permission_id": "a", "rate_limit": "5"}`:                                      "Invalid value for field 'rate_limit': want a whole number in range",
		`{"principal_id": "p", "permission_id": "a", "limits": {"memory": 5}}`:                                "Unknown field 'limits.memory' (known: memory_mb, cpus, pids, timeout_seconds)",
		`{"principal_id": "p", "permission_id": "a", "args_schema": {"properties": {"x": {"type": "text"}}}}`: "Invalid args_schema: at '/properties/x/type': value must be one of 'array', 'boolean', 'integer', 'null', 'number', 'object', 'string'",
		`{"principal_id": "p", "permission_id": "secrets.get", "config": {"allowed": []}}`:                    "Invalid config for secrets.get: only 'allowed_keys', a list of strings, is known",
	} {
		if a := grant(body); a.code != 400 || a.error != text {
			t.Errorf("the grant %s got %d %q, want 400 %q", body, a.code, a.error, text)
		}
	}
	if a := grant(map[string]any{"principal_id": "nobody", "permission_id": "a"}); a.code != 404 || a.error != "Pack not found" {
		t.Errorf("a grant to an unknown pack: got %v, want 404", a)
	}
	if a := grant(map[string]any{"principal_id": "p", "permission_id": "fs.read", "expires_at": "2099-01-01T00:00:00Z"}); a.code != 200 ||
		a.data["success"] != true || a.data["granted"] != true || a.data["principal_id"] != "p" || a.data["permission_id"] != "fs.read" {
		t.Errorf("the grant got %+v, want that fs.read is granted to p", a)
	}
	list := w.must("GET", "/api/capability/grants?principal_id=p", nil)
	p := list["grants"].(map[string]any)["p"].(map[string]any)
	permission := p["permissions"].(map[string]any)["fs.read"].(map[string]any)
	if list["count"] != 1.0 || p["version"] == nil || p["principal_id"] != "p" || p["enabled"] != true || p["granted_at"] == nil ||
		p["updated_at"] == nil || permission["enabled"] != true || len(permission["config"].(map[string]any)) != 0 || permission["expires_at"] != "2099-01-01T00:00:00Z" {
		t.Errorf("the list is %v, want p with fs.read until 2099 and an empty config", list)
	}
	terms := map[string]any{"max_uses": 3.0, "rate_limit": 5.0, "args_schema": map[string]any{"type": "object"}, "handler": map[string]any{"pack_id": "q", "slug": "s"},
		"limits": map[string]any{"memory_mb": 64.0}}
	request := map[string]any{"principal_id": "p", "permission_id": "fs.read"}
	maps.Copy(request, terms)
	granted := w.must("POST", "/api/capability/grants/grant", request)
	listed := w.must("GET", "/api/capability/grants", nil)["grants"].(map[string]any)["p"].(map[string]any)["permissions"].(map[string]any)["fs.read"].(map[string]any)
	for name, want := range terms {
		if !reflect.DeepEqual(granted[name], want) || !reflect.DeepEqual(listed[name], want) {
			t.Errorf("%s: %v and %v, want %v", name, granted[name], listed[name], want)
		}
	}
	if listed["uses"] != 0.0 || listed["expires_at"] != nil {
		t.Errorf("the list has %v, want no uses and no end", listed)
	}
	for _, want := range []bool{true, false} {
		a := w.api("POST", "/api/capability/grants/revoke", map[string]any{"principal_id": "p", "permission_id": "fs.read"})
		if a.code != 200 || a.data["success"] != true || a.data["revoked"] != want {
			t.Errorf("the revocation got %+v, want revoked %v", a, want)
		}
	}
	if a := w.api("POST", "/api/capability/grants/revoke", map[string]any{"principal_id": "nobody", "permission_id": "a"}); a.code != 404 {
		t.Errorf("revoke of an unknown pack: %v; want 404", a)
	}
	if a := w.api("GET", "/api/capability/grants?principal_id=a/b", nil); a.code != 400 || a.error != "Invalid principal_id" {
		t.Errorf("a list of no valid pack: got %v, want 400", a)
	}
	if a := w.as("secrets", "POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": "a"}); a.code != 403 {
		t.Errorf("another service may grant: %v, want 403", a)
	}
}
