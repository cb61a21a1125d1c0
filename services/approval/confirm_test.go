package main

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/service"
)

// reply is an answer as a client of the API sees it.
type reply struct {
	status int
	Data   map[string]any `json:"data"`
	Error  string         `json:"error"`
	Code   string         `json:"error_code"`
}

// as calls approval as the gateway does for the holder of a token. The lineage is that of the token.
func (w *world) as(name, lineage, method, path, body string) reply {
	w.t.Helper()
	return w.send(origin.Origin{RequestID: "r-" + name, Actor: name, Role: access.Operator, Lineage: lineage}, method, path, body)
}

func (w *world) send(from origin.Origin, method, path, body string) reply {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, "https://approval"+path, strings.NewReader(body))
	w.check(err)
	rpc.SetOrigin(r.Header, from)
	response, err := w.Client("gateway", "approval").Do(r)
	w.check(err)
	defer response.Body.Close()
	a := reply{status: response.StatusCode}
	w.check(json.UnmarshalRead(response.Body, &a))
	return a
}

// two starts approval where an approval takes two persons, with the pack demo.
func two(t *testing.T) (w *world, dir string) {
	w = startWith(t, map[string]string{"RUMI_APPROVALS_REQUIRED": "2"})
	return w, w.pack("demo")
}

const approveDemo = "/api/packs/demo/approve"

// ask has somebody approve, and expects that this is recorded as a request.
func (w *world) ask(name, body string) map[string]any {
	w.t.Helper()
	got := w.as(name, "init", "POST", approveDemo, body)
	waits, _ := got.Data["confirmation"].(map[string]any)
	if got.status != 202 || got.Error != "" || got.Data["success"] != false || waits["asked_by"] == nil {
		w.t.Fatalf("%s approves: got %+v, want 202, success false and a confirmation that is waited for", name, got)
	}
	if s, _ := w.view.Get("demo"); s.Open {
		w.t.Fatalf("%s alone has opened the gate %+v, want it closed", name, s)
	}
	return waits
}

// refused has somebody approve, and expects that nothing is approved.
func (w *world) refused(name, lineage, body, code string) {
	w.t.Helper()
	if got := w.as(name, lineage, "POST", approveDemo, body); got.Code != code {
		w.t.Errorf("%s approves: got %d %s %q, want %s", name, got.status, got.Code, got.Error, code)
	}
	if s, _ := w.view.Get("demo"); s.Open {
		w.t.Fatalf("%s has opened the gate %+v, want it closed", name, s)
	}
}

// confirmed has somebody approve, and expects that this carries out what was asked for.
func (w *world) confirmed(name, asker string) {
	w.t.Helper()
	got := w.as(name, "init", "POST", approveDemo, "")
	if got.status != 200 || got.Data["success"] != true || got.Data["status"] != "approved" || got.Data["requested_by"] != asker || got.Data["confirmation"] != nil {
		w.t.Fatalf("%s confirms: got %+v, want 200 and approved, requested by %s", name, got, asker)
	}
	w.eventually("the gate is open", func() bool { s, _ := w.view.Get("demo"); return s.Open })
}

func (w *world) shown(name string) map[string]any {
	w.t.Helper()
	return w.as(name, "init", "GET", "/api/packs/demo/status", "").Data["approval"].(map[string]any)
}

// approvalEntries are the audit entries with one action of the pack demo.
func (w *world) approvalEntries(action string) (all []map[string]any) {
	w.t.Helper()
	for line := range strings.Lines(audittest.Text(w.t, filepath.Join(w.UserData(), "audit"), "approval")) {
		var e map[string]any
		w.check(json.Unmarshal([]byte(line), &e))
		if e["action"] == action && e["owner_pack"] == "demo" {
			all = append(all, e)
		}
	}
	return all
}

func TestApprovalOfTwoPersons(t *testing.T) {
	w, dir := two(t)
	waits := w.ask("alice", "")
	digest := waits["digest"].(string)
	if waits["asked_by"] != "alice" || waits["required"] != 2.0 || !strings.HasPrefix(digest, "sha256:") || waits["expires_at"].(string) <= waits["asked_at"].(string) {
		t.Errorf("got %v, want alice's request for a digest, and when it expires", waits)
	}
	if again := w.ask("alice", ""); again["asked_at"] != waits["asked_at"] {
		t.Errorf("the second call asks anew at %v, want the request of %v", again["asked_at"], waits["asked_at"])
	}
	if status := w.shown("bob"); status["status"] != "pending" || status["digest"] != nil || status["approved_at"] != nil || status["confirmation"].(map[string]any)["asked_by"] != "alice" {
		t.Errorf("the status is %v, want pending, without a digest, and alice's request", status)
	}
	w.refused("alice-2", "alice,init", "", "other_person_required")
	w.refused("init", "", "", "other_person_required")
	if got := w.send(origin.Origin{RequestID: "r", Actor: "service:pack-registry"}, "POST", approveDemo, ""); got.Code != "person_required" || got.status != 403 {
		t.Errorf("a service approves: got %+v, want 403 person_required", got)
	}

	if refused := w.entries("security", "demo"); !slices.Equal(refused, []string{"confirmation_refused", "confirmation_refused", "confirmation_refused"}) {
		t.Errorf("audited %v, want each of the three who are no second person", refused)
	}

	// It is a fact of the database, not of this process.
	w.check(w.server.Stop())
	w.boot()
	w.confirmed("bob", "alice")
	status := w.shown("bob")
	if status["confirmation"] != nil || status["requested_by"] != "alice" || status["digest"] != digest {
		t.Errorf("the status is %v, want the digest that alice requested, and no open request", status)
	}
	history := status["version_history"].([]any)
	request, approval := history[len(history)-2].(map[string]any), history[len(history)-1].(map[string]any)
	if request["action"] != "approval_requested" || request["actor"] != "alice" || request["digest"] != digest ||
		approval["action"] != "approved" || approval["actor"] != "bob" || approval["requested_by"] != "alice" || len(approval["file_hashes"].(map[string]any)) == 0 {
		t.Errorf("the history is %v, want alice's request and bob's approval", history)
	}
	if again := w.as("bob", "init", "POST", approveDemo, ""); again.status != 200 || again.Data["success"] != true || again.Data["requested_by"] != "alice" {
		t.Errorf("bob repeats what he confirmed: got %+v, want 200, as before", again)
	}
	requested, approved := w.approvalEntries("pack_approval_requested"), w.approvalEntries("pack_approved")
	if len(requested) != 1 || requested[0]["actor"] != "alice" || requested[0]["details"].(map[string]any)["digest"] != digest {
		t.Errorf("audited requests: %v, want one, by alice", requested)
	}
	details, _ := approved[0]["details"].(map[string]any)
	if len(approved) != 1 || approved[0]["actor"] != "bob" || details["requested_by"] != "alice" || details["confirmed_by"] != "bob" || details["digest"] != digest {
		t.Errorf("audited approvals: %v, want one, asked by alice and confirmed by bob", approved)
	}

	// What changes later takes two persons again; whoever confirmed may ask.
	w.write(filepath.Join(dir, "backend/main.py"), "print('next')\n")
	w.eventually("the gate is closed", func() bool { s, _ := w.view.Get("demo"); return s.Status == "modified" })
	w.ask("bob", "")
	w.confirmed("alice", "bob")
}

// A request ends when what it is about does, and when anybody rejects it.
func TestRequestsEnd(t *testing.T) {
	other := "print('other')\n"
	t.Run("changed, and the confirmation finds it", func(t *testing.T) {
		w, dir := two(t)
		w.ask("alice", "")
		w.write(filepath.Join(dir, "backend/main.py"), other)
		w.eventually("the request has ended", func() bool { return w.shown("bob")["confirmation"] == nil })
		first := w.ask("bob", "")
		if len(w.approvalEntries("pack_approval_lapsed")) != 1 || first["asked_by"] != "bob" {
			t.Errorf("audited %v, request %v; want one pack_approval_lapsed, and bob's request", w.approvalEntries("pack_approval_lapsed"), first)
		}
		w.confirmed("alice", "bob")
	})
	t.Run("bound to the digest that was reviewed", func(t *testing.T) {
		w, dir := two(t)
		digest := w.ask("alice", "")["digest"].(string)
		w.write(filepath.Join(dir, "backend/main.py"), other)
		w.refused("bob", "init", `{"digest": "`+digest+`"}`, "digest_mismatch")
		if w.shown("bob")["confirmation"] != nil {
			t.Error("the request is open though its bytes are gone, want it ended")
		}
	})
	t.Run("asked again after a change by the same person", func(t *testing.T) {
		w, dir := two(t)
		first := w.ask("alice", "")["digest"]
		w.write(filepath.Join(dir, "backend/main.py"), other)
		if second := w.ask("alice", "")["digest"]; second == first {
			t.Errorf("the second request is for %v, want other bytes", second)
		}
		w.confirmed("bob", "alice")
	})
	for _, who := range []string{"alice", "bob"} {
		t.Run("rejected by "+who, func(t *testing.T) {
			w, _ := two(t)
			w.ask("alice", "")
			if got := w.as(who, "init", "POST", "/api/packs/demo/reject", `{"reason": "no"}`); got.status != 200 || got.Data["status"] != "blocked" {
				t.Fatalf("rejected: got %+v, want blocked by one person", got)
			}
			rejected := w.approvalEntries("pack_rejected")
			if len(rejected) != 1 || rejected[0]["details"].(map[string]any)["requested_by"] != "alice" {
				t.Errorf("audited %v, want whose request was rejected", rejected)
			}
			w.ask("bob", "") // a blocked pack can be approved, by two
			w.confirmed("alice", "bob")
		})
	}
	t.Run("uninstalled", func(t *testing.T) {
		w, _ := two(t)
		w.ask("alice", "")
		w.retire("demo", true)
		w.refused("bob", "init", "", "uninstall_incomplete")
		_, err := w.client.Remove(t.Context(), "demo")
		w.check(err)
		w.pack("demo")
		w.ask("bob", "")
	})
}

// A parent that is replaced closes its child's gate, though the child's bytes are the same: opening it takes two persons, too.
func TestApprovalUnderAnotherParentTakesTwo(t *testing.T) {
	w := startWith(t, map[string]string{"RUMI_APPROVALS_REQUIRED": "2"})
	both := func(id string) {
		t.Helper()
		for _, name := range []string{"alice", "bob"} {
			w.as(name, "init", "POST", "/api/packs/"+id+"/approve", "")
		}
	}
	parent := w.pack("fam")
	w.pack("fam__kid")
	both("fam")
	both("fam__kid")
	w.eventually("the child's gate is open", func() bool { s, _ := w.view.Get("fam__kid"); return s.Open })
	w.write(filepath.Join(parent, "ecosystem.json"), `{"pack_id":"fam","pack_identity":"github:evil/fam"}`)
	w.eventually("the parent is modified", func() bool { s, _ := w.view.Get("fam"); return s.Status == "modified" })
	both("fam")
	w.eventually("the child's parent is replaced", func() bool { s, _ := w.view.Get("fam__kid"); return s.Status == "parent_replaced" })
	if got := w.as("alice", "init", "POST", "/api/packs/fam__kid/approve", ""); got.status != 202 {
		t.Errorf("alice approves the child under another parent: got %+v, want 202", got)
	}
	if s, _ := w.view.Get("fam__kid"); s.Open {
		t.Error("the child's gate is open after one person, want it closed")
	}
	if got := w.as("bob", "init", "POST", "/api/packs/fam__kid/approve", ""); got.status != 200 {
		t.Errorf("bob confirms: got %+v, want 200", got)
	}
	w.eventually("the child's gate is open", func() bool { s, _ := w.view.Get("fam__kid"); return s.Open })
}

// Approvals from before the setting was raised stay; a request that is open when it is lowered is carried out by the next approval.
func TestChangingTheNumberOfPersons(t *testing.T) {
	w := start(t)
	dir := w.pack("demo")
	w.approve("demo")
	set := func(n string) {
		t.Helper()
		w.check(w.server.Stop())
		w.env["RUMI_APPROVALS_REQUIRED"] = n
		w.boot()
	}
	set("2")
	w.eventually("the gate is open", func() bool { s, _ := w.view.Get("demo"); return s.Open })
	w.write(filepath.Join(dir, "backend/main.py"), "print('next')\n")
	w.eventually("the gate is closed", func() bool { s, _ := w.view.Get("demo"); return s.Status == "modified" })
	w.ask("alice", "")
	set("1")
	if got := w.as("alice", "init", "POST", approveDemo, ""); got.status != 200 || got.Data["requested_by"] != nil {
		t.Errorf("with one person: got %+v, want 200, requested by nobody", got)
	}
}

func TestNumberOfPersonsIsOneOrTwo(t *testing.T) {
	w := start(t)
	w.check(w.server.Stop())
	environ := append(w.Environ("approval"), "RUMI_ECOSYSTEM="+w.Ecosystem(), "RUMI_APPROVALS_REQUIRED=3")
	_, err := service.Start(context.Background(), "approval", build, service.Options{Environ: environ, Logs: t.Output()})
	if err == nil || !strings.Contains(err.Error(), `RUMI_APPROVALS_REQUIRED="3": want 1`) {
		t.Errorf("got %v, want an error that names the variable and its values", err)
	}
}
