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

// From the beginning of an uninstall to its end nothing lets the pack run, from whatever state it came and whatever is done to its
// folder; and everybody who tries is told what to do.
func TestARetiredPackStaysSo(t *testing.T) {
	w := start(t)
	const incomplete = "its uninstall is incomplete: repeat `DELETE /api/packs/"
	const later = "`, unless another call is still at it"
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
				t.Fatalf("it is %s", w.status(id))
			}
			w.retire(id, true)
			w.eventually("the gate is closed", func() bool { s, known := w.view.Get(id); return known && !s.Open && s.Retired && s.Status == "error" })
			retired := func(doing string) {
				t.Helper()
				answer, err := w.call("GET", "/api/packs/"+id+"/status", nil)
				w.check(err)
				if text := answer["approval"].(map[string]any)["last_error"]; answer["status"] != "error" || text != incomplete+id+later {
					t.Errorf("%s: it is %v, %v; want answer[\"status\"] == \"error\" && text == incomplete + id + later", doing, answer["status"], text)
				}
			}
			retired("retired")
			w.retire(id, true) // again
			w.retire(id, false)
			for doing, act := range map[string]func(){
				"scan":            func() { w.check(w.client.Refresh(t.Context())) },
				"a look":          func() { w.check(w.client.Refresh(t.Context(), id)) },
				"another version": func() { w.write(filepath.Join(dir, "new.py"), "new"); w.check(w.client.Replaced(t.Context(), id)) },
				"its folder is gone, and back again": func() {
					w.check(os.RemoveAll(dir))
					w.check(w.client.Refresh(t.Context()))
					retired("gone")
					w.pack(id)
				},
				"its container ends": func() {
					w.check(api.NewClient(w.Peer("capability-broker", "approval")).SetRunning(t.Context(), id, false))
				},
			} {
				act()
				retired(doing)
			}
			for _, call := range [][2]string{{"POST", "approve"}, {"POST", "reject"}, {"GET", "review"}} {
				_, err := w.call(call[0], "/api/packs/"+id+"/"+call[1], nil)
				if f := fault.Of(err); f.Kind != fault.KindConflict || f.Code != "uninstall_incomplete" || f.Message != "Cannot "+call[1]+" pack '"+id+"': "+incomplete+id+later {
					t.Errorf("%s: %v", call[1], err)
				}
			}
			pending, err := client.Call[[]string](t.Context(), w.gateway, "GET", "/api/packs/pending", nil)
			if w.check(err); slices.Contains(pending, id) {
				t.Error("it waits for a decision")
			}
			if ids, err := w.client.Retired(t.Context()); err != nil || !slices.Contains(ids, id) {
				t.Errorf("retired are %v, %v; want err == nil && slices.Contains(ids, id)", ids, err)
			}
			actions := w.entries("approval", id)
			if n := len(slices.DeleteFunc(slices.Clone(actions), func(a string) bool { return a != "pack_retired" })); n != 1 && state != "unknown" || n != 2 && state == "unknown" {
				t.Errorf("audited %v", actions)
			}
			if removed, err := w.client.Remove(t.Context(), id); err != nil || !removed {
				t.Errorf("removed %v, %v; want err == nil && removed", removed, err)
			}
			w.eventually("the pack is unknown", func() bool { _, known := w.view.Get(id); return !known })
			w.check(w.client.Refresh(t.Context()))
			if s := w.status(id); s != "pending" { // what lies there is a new pack
				t.Errorf("after that it is %s; want s == \"pending\"", s)
			}
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
func TestRetireOfWhatIsNotKnown(t *testing.T) {
	w := start(t)
	if known, err := w.client.Retire(t.Context(), "never", false); err != nil || known {
		t.Errorf("known %v, %v; want err == nil && not known", known, err)
	}
	if ids, err := w.client.Retired(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("retired are %v, %v; want err == nil && len(ids) == 0", ids, err)
	}
	w.write(filepath.Join(w.Ecosystem(), "files/ecosystem.json"), `{"pack_id":"files","pack_identity":"github:a/files"}`)
	w.retire("files", true)
	w.check(w.client.Refresh(t.Context()))
	w.check(w.client.Refresh(t.Context(), "files"))
	if s := w.status("files"); s != "error" {
		t.Errorf("it is %s; want s == \"error\"", s)
	}
	if got := w.entries("approval", "files"); !slices.Equal(got, []string{"pack_retired"}) {
		t.Errorf("audited %v", got)
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
		t.Errorf("it is %s; want s == \"error\"", s)
	}
	if got := w.entries("security", "demo"); len(got) != 0 {
		t.Errorf("audited %v; want len(got) == 0", got)
	}
	w.eventually("the gate is told", func() bool { s, known := w.view.Get("demo"); return known && s.Retired && !s.Open })
}
