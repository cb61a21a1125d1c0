package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	api "github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/testenv"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/build"
)

const lockText = "# a lock\nidna==3.10\ncertifi==2024.8.30 # CAs\n"

var key = "weather:requirements.lock:" + sum(lockText)

// prepared is a world with one pack that has a lock, scanned.
func prepared(t *testing.T, env map[string]string) *world {
	w := newWorld(t, env)
	w.write("weather", "requirements.lock", lockText)
	w.write("weather", "ecosystem.json", "{}")
	w.expect(w.call("POST", "/api/pip/candidates/scan", ""), 200, "")
	return w
}

func TestWholeLife(t *testing.T) {
	w := prepared(t, nil)
	if scan := w.call("POST", "/api/pip/candidates/scan", "{}").Data; scan["skipped_pending"] != 1.0 || scan["scanned_count"] != 1.0 || len(scan["errors"].([]any)) != 0 {
		t.Errorf("second scan: %v; want skipped pending 1, scanned count 1, no errors", scan)
	}
	list := w.call("GET", "/api/pip/requests?status=pending", "")
	item := list.Data["items"].([]any)[0].(map[string]any)
	for field, want := range map[string]any{
		"candidate_key": key, "pack_id": "weather", "requirements_relpath": "requirements.lock", "requirements_sha256": sum(lockText), "status": "pending",
		"reject_count": 0.0, "cooldown_until": nil, "last_error": nil, "allow_sdist": false, "index_url": nil, "notes": "", "actor": "", "reject_reason": "",
	} {
		if got, there := item[field]; !there || got != want {
			t.Errorf("item has %s = %v, want %v", field, got, want)
		}
	}
	for _, field := range []string{"created_at", "updated_at"} {
		if at, err := time.Parse("2006-01-02T15:04:05.999999Z", item[field].(string)); err != nil || time.Since(at) > time.Minute {
			t.Errorf("item has %s = %v (%v); want a time within the last minute", field, item[field], err)
		}
	}

	w.expect(w.call("POST", request(key, "approve"), `{"allow_sdist": false}`), 409, "Pack 'weather' is not approved (status: unknown)")
	w.gate("weather", "pending", "")
	w.expect(w.call("POST", request(key, "approve"), `{"allow_sdist": false}`), 409, "Pack 'weather' is not approved (status: pending)")
	if _, err := w.client().Environment(t.Context(), "weather"); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("environment before approval: %v; want not found", err)
	}
	if len(w.builder.asked()) != 0 {
		t.Fatal("built without approval")
	}

	w.approve("weather")
	approved := w.call("POST", request(key, "approve"), `{"allow_sdist": false, "notes": "looks good"}`)
	w.expect(approved, 200, "")
	packages := []any{map[string]any{"name": "certifi", "version": "2024.8.30"}, map[string]any{"name": "idna", "version": "3.10"}}
	for field, want := range map[string]any{"success": true, "candidate_key": key, "pack_id": "weather", "status": "installed", "packages": packages} {
		if !reflect.DeepEqual(approved.Data[field], want) {
			t.Errorf("approve answers %s = %v; want %+v", field, approved.Data[field], want)
		}
	}
	site := filepath.Join(w.Home, approved.Data["site_packages_path"].(string))
	if text, err := os.ReadFile(filepath.Join(site, "idna/__init__.py")); err != nil || string(text) != "version = '3.10'\n" {
		t.Errorf("site-packages has %q, %v; want idna 3.10", text, err)
	}
	again := w.call("POST", request(key, "approve"), `{}`)
	if w.expect(again, 200, ""); !reflect.DeepEqual(again.Data, approved.Data) || len(w.builder.asked()) != 1 || w.builder.removed != 1 {
		t.Errorf("approved again: %v; want %v, built once, removed once", again.Data, approved.Data)
	}
	w.expect(w.call("POST", request(key, "reject"), `{}`), 409, "Cannot reject installed candidate")

	env, err := w.client().Environment(t.Context(), "weather")
	if err != nil || len(env.Packages) != 2 {
		t.Fatalf("environment: %+v, %v; want 2 packages", env, err)
	}
	stream, err := w.client().Tree(t.Context(), "weather", env.Digest)
	w.check(err)
	defer stream.Close()
	w.check(tree.Receive(stream, env.Digest, filepath.Join(testenv.TempDir(t), "copy")))

	counts, err := api.NewClient(w.Peer("approval", "pip-installer")).Counts(t.Context())
	if err != nil || counts.Installed != 1 || counts.Pending != 0 {
		t.Errorf("counts: %+v, %v; want installed 1, pending 0", counts, err)
	}
	registrys := api.NewClient(w.Peer("pack-registry", "pip-installer"))
	for _, want := range []bool{true, false} {
		if removed, err := registrys.Remove(t.Context(), "weather"); err != nil || removed != want {
			t.Errorf("removed: %v, %v; want %v", removed, err, want)
		}
	}
	if _, err := os.Stat(site); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("environment is left: %v; want os.ErrNotExist", err)
	}
	want := []string{"pip_approved weather", "pip_install_completed weather"}
	if got := w.audited("system"); !reflect.DeepEqual(got, want) {
		t.Errorf("audit log has %q; want %+v", got, want)
	}
	if got := w.audited("security"); len(got) != 2 || !strings.HasPrefix(got[0], "pip_denied weather Pack 'weather' is not approved") {
		t.Errorf("security log has %q; want 2, the first of weather's not being approved", got)
	}
	if w.pinged() < 2 {
		t.Error("approval was not told of changed counts")
	}
}

func TestRejectionsAndUnblock(t *testing.T) {
	w := prepared(t, nil)
	w.approve("weather")
	for n, status := range []string{"rejected", "rejected", "blocked"} {
		got := w.call("POST", request(key, "reject"), `{"reason": "no\nthanks"}`)
		if w.expect(got, 200, ""); got.Data["status"] != status || got.Data["reject_count"] != float64(n+1) {
			t.Errorf("rejection %d: %v; want %v, and as many rejections", n+1, got.Data, status)
		}
	}
	if scan := w.call("POST", "/api/pip/candidates/scan", "").Data; scan["skipped_blocked"] != 1.0 {
		t.Errorf("scan: %v; want skipped blocked 1", scan)
	}
	w.expect(w.call("POST", request(key, "approve"), `{}`), 409, "Candidate is blocked. Unblock first.")
	w.expect(w.call("POST", "/api/pip/blocked/"+url.QueryEscape(key)+"/unblock", `{"reason": "again"}`), 200, "")
	w.expect(w.call("POST", request(key, "approve"), `{}`), 200, "")
	want := []string{
		"pip_rejected weather no\nthanks", "pip_rejected weather no\nthanks", "pip_blocked weather no\nthanks", "pip_unblocked weather",
		"pip_approved weather", "pip_install_completed weather",
	}
	if got := w.audited("system"); !reflect.DeepEqual(got, want) {
		t.Errorf("audit log has %q; want %+v", got, want)
	}
}

func TestChangedSinceScan(t *testing.T) {
	const mismatch = "SHA-256 mismatch: requirements.lock content changed since scan (TOCTOU). Scan again: POST /api/pip/candidates/scan"
	for name, change := range map[string]func(w *world){
		"on disk, pack not approved": func(w *world) { w.write("weather", "requirements.lock", lockText+"evil==1\n") },
		"on disk, after approval": func(w *world) {
			w.approve("weather")
			w.write("weather", "requirements.lock", lockText+"evil==1\n")
		},
		"gone": func(w *world) {
			w.approve("weather")
			w.check(os.Remove(filepath.Join(w.Ecosystem(), "weather/requirements.lock")))
		},
		"another one was approved": func(w *world) {
			w.write("weather", "requirements.lock", lockText+"evil==1\n")
			w.approve("weather")
			w.write("weather", "requirements.lock", lockText)
		},
		"none was approved": func(w *world) {
			w.check(os.Remove(filepath.Join(w.Ecosystem(), "weather/requirements.lock")))
			w.approve("weather")
			w.write("weather", "requirements.lock", lockText)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := prepared(t, nil)
			change(w)
			w.expect(w.call("POST", request(key, "approve"), `{}`), 409, mismatch)
			if list := w.call("GET", "/api/pip/requests?status=failed", ""); list.Data["count"] != 1.0 || len(w.builder.asked()) != 0 {
				t.Errorf("not failed: %v, built %v; want one failed, and nothing built", list.Data, w.builder.asked())
			}
			if got := w.audited("security"); len(got) != 1 || got[0] != "hash_mismatch weather "+mismatch {
				t.Errorf("security log has %q; want hash_mismatch with %q", got, mismatch)
			}
		})
	}
}

func TestHowBuildsFail(t *testing.T) {
	unavailable := fault.DockerUnavailable()
	for _, c := range []struct {
		name   string
		set    func(b *fakeBuilder)
		status int
		text   string
		state  string
	}{
		{"pip says no", func(b *fakeBuilder) { b.buildErr = &build.Failure{Reason: "No matching distribution"} }, 409, "Installation failed: No matching distribution", "failed"},
		{"index is down", func(b *fakeBuilder) { b.buildErr = &build.Failure{Reason: "x", Unreachable: true} }, 503, "Package index can't be reached: x", "failed"},
		{"index is inside", func(b *fakeBuilder) { b.buildErr = &build.AddressError{Host: "h"} }, 400, "host 'h' has an internal address", "pending"},
		{"no Docker", func(b *fakeBuilder) { b.checkErr = unavailable }, 503, "Docker is required but not available", "pending"},
		{"Docker went away", func(b *fakeBuilder) { b.buildErr = unavailable }, 503, "Docker is required but not available", "pending"},
		{"a surprise", func(b *fakeBuilder) { b.buildErr = errors.New("secret detail") }, 500, "Internal server error", "pending"},
		{"sitecustomize", func(b *fakeBuilder) { b.more = map[string]string{"sitecustomize.py": ""} }, 409, "Installed packages were refused: \"sitecustomize.py\"", "failed"},
		{"unlisted", func(b *fakeBuilder) {
			b.more = map[string]string{"evil-1.dist-info/METADATA": "Name: evil\nVersion: 1\n"}
		}, 409, "evil 1 is installed but not listed in the lock", "failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := prepared(t, nil)
			w.approve("weather")
			c.set(w.builder)
			w.expect(w.call("POST", request(key, "approve"), `{"allow_sdist": true}`), c.status, c.text)
			list := w.call("GET", "/api/pip/requests?status="+c.state, "")
			if list.Data["count"] != 1.0 {
				t.Fatalf("not %s: %v; want count 1", c.state, list.Data)
			}
			if item := list.Data["items"].([]any)[0].(map[string]any); c.state == "failed" && (!strings.Contains(item["last_error"].(string), c.text) || item["allow_sdist"] != true) {
				t.Errorf("the candidate is %v, want the error %q, and source distributions allowed", item, c.text)
			}
			if got := w.audited("system"); w.builder.checkErr == nil && (len(got) != 2 || !strings.HasPrefix(got[1], "pip_install_failed weather")) {
				t.Errorf("the audit log has %q, want the second entry to be the failure", got)
			}
			*w.builder = fakeBuilder{t: t}
			w.expect(w.call("POST", request(key, "approve"), `{}`), 200, "")
		})
	}
}

func TestScanErrors(t *testing.T) {
	w := newWorld(t, nil)
	w.write("good", "backend/requirements.lock", "idna==3.10\r\n")
	w.write("bad", "requirements.lock", "idna==3.10\n-e .\n")
	w.write("bad", "backend/requirements.lock", "")
	w.check(os.MkdirAll(filepath.Join(w.Ecosystem(), "odd/requirements.lock"), 0o755))
	scan := w.call("POST", "/api/pip/candidates/scan", "")
	w.expect(scan, 200, "")
	got, err := json.Marshal(scan.Data["errors"])
	w.check(err)
	const want = `[{"error":"Invalid requirements.lock: line 2: \"-e .\" is not NAME==VERSION (pin it: pip freeze, or uv pip compile --no-annotate --no-emit-index-url)","pack_id":"bad","path":"requirements.lock"},` +
		`{"error":"Invalid requirements.lock: lists no package","pack_id":"bad","path":"backend/requirements.lock"},` +
		`{"error":"unreadable","pack_id":"odd","path":"requirements.lock"}]`
	if string(got) != want || scan.Data["pending_created"] != 1.0 || scan.Data["scanned_count"] != 4.0 {
		t.Errorf("scan: %v\nerrors: %s\nwant 4 scanned, 1 pending, and\n%s", scan.Data, got, want)
	}
}

func TestBadRequests(t *testing.T) {
	w := prepared(t, map[string]string{"RUMI_PIP_INDEX_URLS": "https://index.example/simple, https://other.example:8443/x"})
	w.approve("weather")
	unknown := "weather:requirements.lock:" + strings.Repeat("0", 64)
	for _, c := range []struct {
		path, body string
		status     int
		text       string
	}{
		{request(unknown, "approve"), `{}`, 404, "Candidate not found"},
		{request("weather:requirements.lock:"+sum(lockText)+"\n", "approve"), `{}`, 400, "Invalid candidate_key (want PACK:PATH:SHA256, URL-encoded, as GET …/requests lists it)"},
		{request("weather:requirements.lock:"+strings.ToUpper(sum(lockText)), "approve"), `{}`, 400, "Invalid candidate_key (want PACK:PATH:SHA256, URL-encoded, as GET …/requests lists it)"},
		{request("weather:other.lock:"+sum(lockText), "approve"), `{}`, 400, "Invalid candidate_key (want PACK:PATH:SHA256, URL-encoded, as GET …/requests lists it)"},
		{request("a b:requirements.lock:"+sum(lockText), "approve"), `{}`, 400, "Invalid candidate_key (want PACK:PATH:SHA256, URL-encoded, as GET …/requests lists it)"},
		{request("x", "reject"), `{}`, 400, "Invalid candidate_key (want PACK:PATH:SHA256, URL-encoded, as GET …/requests lists it)"},
		{request(key, "approve"), `{"allow_sdist": "yes"}`, 400, "Invalid value for field 'allow_sdist'"},
		{request(key, "approve"), `{"alow_sdist": true}`, 400, "Unknown field 'alow_sdist' (known: allow_sdist, index_url, notes)"},
		{request(key, "approve"), `[]`, 400, "Invalid JSON in request body" + `: want an object, such as {"name": "value"}`},
		{request(key, "approve"), `{"notes": "` + strings.Repeat("x", 5000) + `"}`, 400, "'notes' is too long"},
		{request(key, "approve"), `{"index_url": "http://index.example/simple"}`, 400, "it must begin with https://"},
		{request(key, "approve"), `{"index_url": "https://evil.example/simple"}`, 400, "index_url is not allowed"},
		{request(key, "approve"), `{"index_url": "https://index.example/simple/../../x"}`, 400, "index_url is not allowed"},
		{request(key, "approve"), `{"index_url": "https://u:p@index.example/simple"}`, 400, "user or password"},
		{request(key, "approve"), `{"index_url": "https://127.0.0.1/simple"}`, 400, "index_url is not allowed"},
		{request(key, "approve"), `{"index_url": "https://2130706433/simple"}`, 400, "index_url is not allowed"},
		{request(key, "approve"), `{"index_url": 1}`, 400, "Invalid value for field 'index_url'"},
		{"/api/pip/candidates/scan", `{"x": 1}`, 400, "Unknown field 'x' (known: none)"},
	} {
		if got := w.call("POST", c.path, c.body); got.status != c.status || !strings.Contains(got.Error, c.text) {
			t.Errorf("%s %.100s: %d %q, want %d %q", c.path, c.body, got.status, got.Error, c.status, c.text)
		}
	}
	if len(w.builder.asked()) != 0 {
		t.Fatalf("the builder was asked %d times, want none", len(w.builder.asked()))
	}
	w.expect(w.call("POST", request(key, "approve"), `{"index_url": "https://OTHER.example:8443/x/"}`), 200, "")
	if got := w.builder.asked()[0]; got.IndexURL != "https://other.example:8443/x" || got.PackID != "weather" || fmt.Sprint(got.Requirements) != "[idna==3.10 certifi==2024.8.30]" {
		t.Errorf("built %+v; want weather's two requirements from other.example", got)
	}
}

func TestDefaultIndex(t *testing.T) {
	w := prepared(t, map[string]string{"RUMI_PIP_INDEX_URLS": "https://index.example/simple/,https://other.example"})
	w.approve("weather")
	w.expect(w.call("POST", request(key, "approve"), ``), 200, "")
	if got := w.builder.asked()[0].IndexURL; got != "https://index.example/simple" {
		t.Errorf("index is %q; want https://index.example/simple", got)
	}
}

func TestOnlyNamedCallers(t *testing.T) {
	w := prepared(t, nil)
	for path, as := range map[string]string{
		"GET /internal/environments/weather": "gateway", "GET /internal/environments/weather/tree": "egress-proxy", "DELETE /internal/packs/weather": "gateway",
		"GET /internal/candidates/counts": "capability-broker", "POST /api/pip/candidates/scan": "pack-registry", "POST " + request(key, "approve"): "capability-broker",
	} {
		method, path, _ := strings.Cut(path, " ")
		w.expect(w.callAs(as, method, path, ""), 403, "Caller not allowed")
	}
	for _, path := range []string{"/internal/environments/a%20b", "/internal/environments/a%20b/tree", "/internal/environments/x/tree?digest=sha256:..%2f"} {
		if got := w.callAs("capability-broker", "GET", path, ""); got.status != 400 {
			t.Errorf("%s: %d %s; want 400", path, got.status, got.Error)
		}
	}
}

// Without approval's stream nobody knows what is approved, so nothing is; without pack-registry nobody knows what lies
// on disk.
func TestOthersAreDown(t *testing.T) {
	w := newWorld(t, nil, "approval")
	w.write("weather", "requirements.lock", lockText)
	w.expect(w.call("POST", "/api/pip/candidates/scan", ""), 200, "")
	w.expect(w.call("POST", request(key, "approve"), ``), 503, "Service unavailable: approval")
	if list := w.call("GET", "/api/pip/requests?status=pending", ""); list.Data["count"] != 1.0 {
		t.Errorf("list: %v; want count 1", list.Data)
	}
	w = newWorld(t, nil, "pack-registry")
	w.expect(w.call("POST", "/api/pip/candidates/scan", ""), 503, "Service unavailable: pack-registry")
}

func TestStateSurvivesARestart(t *testing.T) {
	w := prepared(t, nil)
	w.approve("weather")
	w.expect(w.call("POST", request(key, "approve"), ``), 200, "")
	before, err := w.client().Environment(t.Context(), "weather")
	w.check(err)
	w.check(w.server.Stop())
	w.boot()
	after, err := w.client().Environment(t.Context(), "weather")
	if err != nil || !reflect.DeepEqual(before, after) {
		t.Errorf("%+v became %+v, %v; want it unchanged", before, after, err)
	}
	stream, err := w.client().Tree(t.Context(), "weather", after.Digest)
	w.check(err)
	w.check(stream.Close())
}

// The lock installed last is the pack's environment; two packs with the same packages share a copy until both are gone.
func TestSeveralLocks(t *testing.T) {
	w := prepared(t, nil)
	second := "idna==3.7\n"
	w.write("weather", "backend/requirements.lock", second)
	w.write("other", "requirements.lock", lockText)
	w.expect(w.call("POST", "/api/pip/candidates/scan", ""), 200, "")
	w.approve("weather")
	w.approve("other")
	var sites []string
	for _, k := range []string{key, "weather:backend/requirements.lock:" + sum(second), "other:requirements.lock:" + sum(lockText)} {
		got := w.call("POST", request(k, "approve"), ``)
		w.expect(got, 200, "")
		sites = append(sites, filepath.Join(w.Home, got.Data["site_packages_path"].(string)))
	}
	env, err := w.client().Environment(t.Context(), "weather")
	if err != nil || len(env.Packages) != 1 || env.Packages[0].Version != "3.7" || sites[0] != sites[2] {
		t.Fatalf("the environment is %+v, %v, the folders %v; want version 3.7, and the first's and the third's to be one", env, err, sites)
	}
	if _, err := api.NewClient(w.Peer("pack-registry", "pip-installer")).Remove(t.Context(), "weather"); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false} {
		if _, err := os.Stat(sites[i]); (err == nil) != want {
			t.Errorf("site-packages %d: %v; want it there: %v", i, err, want)
		}
	}
	if _, err := w.client().Tree(t.Context(), "weather", env.Digest); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("tree of a removed pack: %v; want not found", err)
	}
}

func TestRejectWhileItIsBuilt(t *testing.T) {
	w := prepared(t, nil)
	w.approve("weather")
	w.builder.during = func() { w.expect(w.call("POST", request(key, "reject"), `{"reason":"no"}`), 200, "") }
	w.expect(w.call("POST", request(key, "approve"), ``), 409, "Candidate changed while it was being installed (status: rejected)")
	if _, err := w.client().Environment(t.Context(), "weather"); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("environment: %v; want not found", err)
	}
}

// With RUMI_APPROVALS_REQUIRED=2 nothing is built before a second person confirms the same lock with the same options.
func TestLockOfTwoPersons(t *testing.T) {
	w := prepared(t, map[string]string{"RUMI_APPROVALS_REQUIRED": "2", "RUMI_PIP_INDEX_URLS": "https://one.test/simple,https://two.test/simple"})
	w.expect(w.person("alice", "init", key, `{}`), 409, "Pack 'weather' is not approved")
	w.approve("weather")
	asked := w.person("alice", "init", key, `{"allow_sdist": true, "notes": "needs a build"}`)
	w.expect(asked, 202, "")
	waits := asked.Data["confirmation"].(map[string]any)
	if asked.Data["success"] != false || asked.Data["status"] != "pending" || asked.Data["site_packages_path"] != nil || waits["asked_by"] != "alice" ||
		waits["digest"] != "sha256:"+sum(lockText) || !reflect.DeepEqual(waits["options"], map[string]any{"allow_sdist": "true", "index_url": "https://one.test/simple"}) {
		t.Errorf("alice's approval: %v; want success false, pending, and what she asked for", asked.Data)
	}
	w.expect(w.person("alice", "init", key, `{"allow_sdist": true}`), 202, "")
	w.expect(w.person("alice-2", "alice,init", key, `{"allow_sdist": true}`), 409, "Another person must confirm what 'alice' asked for")
	w.expect(w.person("bob", "init", key, `{"allow_sdist": false}`), 409, `Options differ from the request of 'alice': allow_sdist was "true" and is "false"`)
	w.expect(w.person("bob", "init", key, `{"allow_sdist": true, "index_url": "https://two.test/simple"}`), 409, "index_url was")
	if len(w.builder.asked()) != 0 {
		t.Fatal("built before it was confirmed, want nothing built")
	}
	item := w.call("GET", "/api/pip/requests", "").Data["items"].([]any)[0].(map[string]any)
	if item["status"] != "pending" || item["allow_sdist"] != false || item["confirmation"].(map[string]any)["notes"] != "needs a build" || item["actor"] != "" {
		t.Errorf("item: %v; want it pending, with alice's request", item)
	}
	confirmed := w.person("bob", "init", key, `{"allow_sdist": true}`)
	w.expect(confirmed, 200, "")
	if confirmed.Data["success"] != true || confirmed.Data["requested_by"] != "alice" || confirmed.Data["confirmation"] != nil {
		t.Errorf("bob's confirmation: %v; want it installed, asked by alice", confirmed.Data)
	}
	if built := w.builder.asked(); len(built) != 1 || !built[0].AllowSdist || built[0].IndexURL != "https://one.test/simple" {
		t.Errorf("built %+v; want one build with the options that both chose", built)
	}
	item = w.call("GET", "/api/pip/requests", "").Data["items"].([]any)[0].(map[string]any)
	if item["actor"] != "bob" || item["requested_by"] != "alice" || item["notes"] != "needs a build" || item["confirmation"] != nil {
		t.Errorf("item: %v; want bob, asked by alice, with her notes", item)
	}
	want := []string{"pip_approval_requested alice", "pip_approved bob asked by alice", "pip_install_completed bob asked by alice"}
	if got := w.whoDid(); !reflect.DeepEqual(got, want) {
		t.Errorf("audited %q; want %q", got, want)
	}
	if got := w.audited("security"); len(got) != 2 || !strings.HasPrefix(got[1], "confirmation_refused weather Another person must confirm") {
		t.Errorf("security log has %q; want the closed gate and the refused confirmation", got)
	}
}

// person approves a lock as the holder of a token with a lineage.
func (w *world) person(name, lineage, key, body string) answer {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), "POST", "https://pip-installer"+request(key, "approve"), strings.NewReader(body))
	w.check(err)
	rpc.SetOrigin(r.Header, origin.Origin{RequestID: "r", Actor: name, Role: access.Operator, Lineage: lineage})
	response, err := w.Client("gateway", "pip-installer").Do(r)
	w.check(err)
	defer response.Body.Close()
	a := answer{status: response.StatusCode}
	w.check(json.NewDecoder(response.Body).Decode(&a))
	return a
}

// whoDid are the decisions in the audit log, with who made them and who asked.
func (w *world) whoDid() (all []string) {
	w.t.Helper()
	for line := range strings.Lines(audittest.Text(w.t, filepath.Join(w.UserData(), "audit"), "system")) {
		var e struct {
			Action, Actor string
			Details       struct {
				RequestedBy string `json:"requested_by"`
			}
		}
		w.check(json.Unmarshal([]byte(line), &e))
		if strings.HasPrefix(e.Action, "pip_") {
			entry := e.Action + " " + e.Actor
			if e.Details.RequestedBy != "" {
				entry += " asked by " + e.Details.RequestedBy
			}
			all = append(all, entry)
		}
	}
	return all
}
