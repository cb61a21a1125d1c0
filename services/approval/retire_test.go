package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/go-json-experiment/json"

	api "github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// retire begins a pack's uninstall.
func (w *world) retire(id string, installed bool) {
	w.t.Helper()
	if known, err := w.client.Retire(w.t.Context(), id, installed); err != nil || !known {
		w.t.Fatalf("retire %s: %v, %v; want err == nil && known", id, known, err)
	}
}

// uninstallIncomplete is what everybody is told who asks for a retired pack.
func uninstallIncomplete(id string) string {
	return "its uninstall is incomplete: repeat `DELETE /api/packs/" + id + "`, unless another call is still at it"
}

// From the beginning of an uninstall to its end nothing lets the pack run, from whatever state it came and whatever is done to its
// folder; and everybody who tries is told what to do.
func TestARetiredPackStaysSo(t *testing.T) {
	w := start(t)
	for state, reach := range map[string]func(id string){
		"pending":  func(string) {},
		"approved": w.approve,
		"modified": func(id string) {
			w.approve(id)
			w.check(w.client.Replaced(t.Context(), id))
		},
		"blocked": func(id string) {
			_, err := w.call("POST", "/api/packs/"+id+"/reject", nil)
			w.check(err)
		},
		"running": func(id string) {
			w.approve(id)
			w.check(api.NewClient(w.Peer("capability-broker", "approval")).SetRunning(t.Context(), id, true))
		},
		"error": func(id string) {
			w.check(descriptor(filepath.Join(w.Ecosystem(), id), "{"))
			w.check(w.client.Refresh(t.Context(), id))
		},
		"unknown": func(id string) {
			w.retire(id, true)
			_, err := w.client.Remove(t.Context(), id)
			w.check(err)
		},
	} {
		t.Run(state, func(t *testing.T) {
			id := "r-" + state
			dir := w.pack(id)
			reach(id)
			if state != "unknown" && w.status(id) != state {
				t.Fatalf("before it is retired the pack is %s, want %s", w.status(id), state)
			}
			w.retire(id, true)
			w.eventually("the gate is closed", func() bool { s, known := w.view.Get(id); return known && !s.Open && s.Retired && s.Status == "error" })
			w.staysRetired(t, id, dir)
			w.refusesRetired(t, id)
			retirements := 1
			if state == "unknown" { // it was retired once before
				retirements = 2
			}
			w.removeRetired(t, id, retirements)
		})
	}
	w.eventually("the summary has counted none of them as anything but pending", func() bool {
		text, err := os.ReadFile(filepath.Join(w.UserData(), "pending/summary.json"))
		var summary struct {
			Packs struct {
				Modified int `json:"modified_count"`
				Blocked  int `json:"blocked_count"`
				Pending  int `json:"pending_count"`
			} `json:"packs"`
		}
		return err == nil && json.Unmarshal(text, &summary) == nil && summary.Packs.Modified+summary.Packs.Blocked == 0 && summary.Packs.Pending == 7
	})
}

// A pack that has no files and no record is nobody's to uninstall; one that has files is known from then on, so that a scan doesn't
// offer it for approval in between.

// isRetired checks what approval answers about a retired pack, after something was done to it.
func (w *world) isRetired(t *testing.T, id, after string) {
	t.Helper()
	answer, err := w.call("GET", "/api/packs/"+id+"/status", nil)
	w.check(err)
	if text := answer["approval"].(map[string]any)["last_error"]; answer["status"] != "error" || text != uninstallIncomplete(id) {
		t.Errorf("after %s the status is %v and last_error %v, want error and %s", after, answer["status"], text, uninstallIncomplete(id))
	}
}

// staysRetired checks that nothing that happens to a retired pack's folder or container changes what approval says of it.
func (w *world) staysRetired(t *testing.T, id, dir string) {
	w.isRetired(t, id, "its retirement")
	w.retire(id, true) // again
	w.retire(id, false)
	for doing, act := range map[string]func(){
		"a scan of all packs": func() { w.check(w.client.Refresh(t.Context())) },
		"a scan of the pack":  func() { w.check(w.client.Refresh(t.Context(), id)) },
		"another version":     func() { w.write(filepath.Join(dir, "new.py"), "new"); w.check(w.client.Replaced(t.Context(), id)) },
		"its folder was gone, and is back again": func() {
			w.check(os.RemoveAll(dir))
			w.check(w.client.Refresh(t.Context()))
			w.isRetired(t, id, "its folder is gone")
			w.pack(id)
		},
		"the end of its container": func() {
			w.check(api.NewClient(w.Peer("capability-broker", "approval")).SetRunning(t.Context(), id, false))
		},
	} {
		act()
		w.isRetired(t, id, doing)
	}
}

// refusesRetired checks that a retired pack can be neither decided about nor reviewed, and that it is listed as retired only.
func (w *world) refusesRetired(t *testing.T, id string) {
	for _, call := range [][2]string{{"POST", "approve"}, {"POST", "reject"}, {"GET", "review"}} {
		_, err := w.call(call[0], "/api/packs/"+id+"/"+call[1], nil)
		want := "Cannot " + call[1] + " pack '" + id + "': " + uninstallIncomplete(id)
		if f := fault.Of(err); f.Kind != fault.KindConflict || f.Code != "uninstall_incomplete" || f.Message != want {
			t.Errorf("%s: got %v, want the conflict uninstall_incomplete: %s", call[1], err, want)
		}
	}
	pending, err := client.Call[[]string](t.Context(), w.gateway, "GET", "/api/packs/pending", nil)
	if w.check(err); slices.Contains(pending, id) {
		t.Errorf("pending are %v, want %s not among them", pending, id)
	}
	if ids, err := w.client.Retired(t.Context()); err != nil || !slices.Contains(ids, id) {
		t.Errorf("retired are %v, %v, want %s among them", ids, err, id)
	}
}

// removeRetired ends an uninstall: the pack is unknown after it, and what still lies in its folder is a new pack. retirements is how many
// entries the audit log has of its retirement.
func (w *world) removeRetired(t *testing.T, id string, retirements int) {
	actions := w.entries("approval", id)
	if n := len(slices.DeleteFunc(slices.Clone(actions), func(a string) bool { return a != "pack_retired" })); n != retirements {
		t.Errorf("audited %v, want pack_retired %d times", actions, retirements)
	}
	if removed, err := w.client.Remove(t.Context(), id); err != nil || !removed {
		t.Errorf("removed %v, %v, want true and no error", removed, err)
	}
	w.eventually("the pack is unknown", func() bool { _, known := w.view.Get(id); return !known })
	w.check(w.client.Refresh(t.Context()))
	if s := w.status(id); s != "pending" {
		t.Errorf("after its removal the pack is %s, want pending", s)
	}
}

func TestRetireOfWhatIsNotKnown(t *testing.T) {
	w := start(t)
	if known, err := w.client.Retire(t.Context(), "never", false); err != nil || known {
		t.Errorf("known %v, %v; want not known", known, err)
	}
	if ids, err := w.client.Retired(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("retired are %v, %v; want none", ids, err)
	}
	w.write(filepath.Join(w.Ecosystem(), "files/ecosystem.json"), `{"pack_id":"files","pack_identity":"github:a/files"}`)
	w.retire("files", true)
	w.check(w.client.Refresh(t.Context()))
	w.check(w.client.Refresh(t.Context(), "files"))
	if s := w.status("files"); s != "error" {
		t.Errorf("it is %s; want error", s)
	}
	if got := w.entries("approval", "files"); !slices.Equal(got, []string{"pack_retired"}) {
		t.Errorf("audited %v, want pack_retired once", got)
	}
}

// What was retired is so after a restart.
func TestRetiredAcrossARestart(t *testing.T) {
	w := start(t)
	dir := w.pack("demo")
	w.approve("demo")
	w.retire("demo", true)
	w.check(w.server.Stop())
	w.boot()
	w.write(filepath.Join(dir, "backend/main.py"), "evil")
	w.check(w.client.Refresh(t.Context()))
	if s := w.status("demo"); s != "error" {
		t.Errorf("it is %s; want error", s)
	}
	if got := w.entries("security", "demo"); len(got) != 0 {
		t.Errorf("audited %v; want none", got)
	}
	w.eventually("the gate is told", func() bool { s, known := w.view.Get("demo"); return known && s.Retired && !s.Open })
}
