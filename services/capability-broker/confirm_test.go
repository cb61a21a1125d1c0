package main

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/rpc"
)

// person approves a handler as the holder of a token that init made.
func (w *world) person(name, key string) answer {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), "POST", "https://capability-broker/api/capability/requests/"+url.PathEscape(key)+"/approve", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	rpc.SetOrigin(r.Header, origin.Origin{RequestID: "r", Actor: name, Role: access.Operator, Lineage: "init"})
	response, err := w.Client("gateway", "capability-broker").Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	var envelope struct {
		Data  map[string]any `json:"data"`
		Error string         `json:"error"`
	}
	if err := json.UnmarshalRead(response.Body, &envelope); err != nil {
		w.t.Fatal(err)
	}
	return answer{code: response.StatusCode, data: envelope.Data, error: envelope.Error}
}

// asks expects that an approval is recorded as a request.
func (w *world) asks(name, key string) {
	w.t.Helper()
	a := w.person(name, key)
	waits, _ := a.data["confirmation"].(map[string]any)
	if a.code != 202 || a.data["success"] != false || waits["asked_by"] != name || !strings.HasPrefix(waits["digest"].(string), "sha256:") {
		w.t.Fatalf("%s approves: got %+v, want 202 and a request", name, a)
	}
}

// confirms expects that an approval carries out what somebody asked for.
func (w *world) confirms(name, asker, key string) {
	w.t.Helper()
	if a := w.person(name, key); a.code != 200 || a.data["success"] != true || a.data["status"] != "installed" || a.data["requested_by"] != asker {
		w.t.Fatalf("%s confirms: got %+v, want it installed, asked by %s", name, a, asker)
	}
}

// trusted is the digest of the handler h of pack p, "" while it is not trusted.
func (w *world) trusted() string {
	w.t.Helper()
	for _, raw := range w.must("GET", "/api/capability/handlers?pack_id=p", nil)["handlers"].([]any) {
		return raw.(map[string]any)["digest"].(string)
	}
	return ""
}

// A handler is trusted by two persons: when it is new, when its folder changes beside handler.py under the same key, when its copy is repaired.
func TestHandlerOfTwoPersons(t *testing.T) {
	w := newWorld(t)
	w.env["RUMI_APPROVALS_REQUIRED"] = "2"
	w.start()
	key := keyOf(one)
	w.write("p", handlerPack(map[string]string{"h": one}))
	w.approve("p")
	w.scan()
	w.asks("alice", key)
	if staged, err := os.ReadDir(filepath.Join(w.UserData(), "capabilities/handlers/.staged")); w.trusted() != "" || err != nil || len(staged) != 0 {
		t.Fatalf("trusted %q, staged %v, %v; want nothing of what one person asked for", w.trusted(), staged, err)
	}
	if item := w.candidate(key); item["status"] != "pending" || item["confirmation"].(map[string]any)["asked_by"] != "alice" || item["installed_to"] != nil {
		t.Errorf("the candidate is %v, want it pending with alice's request", item)
	}
	w.confirms("bob", "alice", key)
	first := w.trusted()
	if item := w.candidate(key); first == "" || item["requested_by"] != "alice" || item["confirmation"] != nil {
		t.Errorf("trusted %q, the candidate is %v; want it trusted, asked by alice", first, item)
	}
	w.confirms("bob", "alice", key) // a repetition decides nothing

	// The same key with another folder, while no scan has made it pending again, or has.
	beside := func(text string) {
		t.Helper()
		w.write("p", map[string]string{"share/capability_handlers/h/data.txt": text})
		w.approve("p")
	}
	beside("2")
	w.asks("bob", key)
	beside("3") // between asking and confirming
	if a := w.person("alice", key); a.code != 409 || !strings.HasPrefix(a.error, "Request of 'bob' lapsed: it was for sha256:") || w.trusted() != first {
		t.Fatalf("alice confirms another folder: got %+v, trusted %s; want it refused, and %s", a, w.trusted(), first)
	}
	w.asks("alice", key)
	w.scan()
	w.confirms("bob", "alice", key)
	second := w.trusted()
	if second == first {
		t.Errorf("trusted %s, want the folder that was asked for", second)
	}

	// A damaged copy is repaired by two persons, too: the approval installs bytes.
	copied := filepath.Join(w.UserData(), "capabilities/handlers/p/h")
	if err := os.Chmod(copied, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied, "json.py"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w.asks("bob", key)
	if _, err := os.Stat(filepath.Join(copied, "json.py")); err != nil {
		t.Errorf("one person has repaired the copy: %v, want it as it was", err)
	}
	w.confirms("alice", "bob", key)
	if _, err := os.Stat(filepath.Join(copied, "json.py")); err == nil || w.trusted() != second {
		t.Errorf("the copy is as it was, trusted %s; want it repaired, %s", w.trusted(), second)
	}
	installed := w.audited("security", "capability_handler_installed")
	for i, want := range []string{"alice bob", "alice bob", "bob alice"} {
		if len(installed) != 3 {
			t.Fatalf("audited %v, want three installations", installed)
		}
		details := installed[i]["details"].(map[string]any)
		if got := details["requested_by"].(string) + " " + details["confirmed_by"].(string); got != want {
			t.Errorf("installation %d was asked for and confirmed by %s, want %s", i, got, want)
		}
	}
	if asked := w.audited("security", "capability_handler_approval_requested"); len(asked) != 4 || asked[0]["actor"] != "alice" {
		t.Errorf("audited %v, want four requests, the first by alice", asked)
	}
	if lapsed := w.audited("security", "capability_handler_approval_lapsed"); len(lapsed) != 1 || lapsed[0]["details"].(map[string]any)["requested_by"] != "bob" {
		t.Errorf("audited %v, want that bob's request lapsed", lapsed)
	}
}
