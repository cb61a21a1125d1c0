package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

type listedPack struct {
	PackID  string `json:"pack_id"`
	Status  string `json:"status"`
	MayRun  bool   `json:"may_run"`
	Error   string `json:"error"`
	Missing bool   `json:"missing"`
}

// listed is how the list tells of a pack.
func (w *world) listed(id string) listedPack {
	w.t.Helper()
	all, err := client.Call[[]map[string]any](w.t.Context(), w.gateway, "GET", "/api/packs", nil)
	w.check(err)
	for _, one := range all {
		if one["pack_id"] == id {
			var p listedPack
			data, err := json.Marshal(one)
			w.check(err)
			w.check(json.Unmarshal(data, &p))
			return p
		}
	}
	w.t.Fatalf("%s is not listed", id)
	return listedPack{}
}

// A pack whose folder is gone says so, with what can be done.
func TestAMissingPackSaysSo(t *testing.T) {
	w := start(t)
	dir := w.pack("demo")
	w.approve("demo")
	w.check(os.RemoveAll(dir))
	w.check(w.client.Refresh(t.Context(), "demo"))
	if got := w.listed("demo"); !got.Missing || got.Status != "modified" || !strings.Contains(got.Error, "DELETE /api/packs/demo") {
		t.Errorf("got %+v, want it missing with what can be done", got)
	}
	w.pack("demo")
	if got := w.listed("demo"); got.Missing || strings.Contains(got.Error, "DELETE") {
		t.Errorf("after it was put back: %+v, want it not missing", got)
	}
}

// A child that may not run because of its parent names it.
func TestAChildNamesItsParentsTrouble(t *testing.T) {
	w := start(t)
	w.pack("fam__kid")
	_, err := w.call("POST", "/api/packs/fam__kid/approve", nil)
	w.check(err)
	if got := w.listed("fam__kid"); got.MayRun || !strings.Contains(got.Error, "parent 'fam' is not installed") {
		t.Errorf("without its parent: %+v; want not may run, an error that says \"parent 'fam' is not installed\"", got)
	}
	dir := w.pack("fam")
	w.approve("fam")
	if got := w.listed("fam__kid"); !got.MayRun || got.Error != "" {
		t.Errorf("with its parent: %+v, want it open", got)
	}
	w.write(filepath.Join(dir, "backend/main.py"), "changed\n")
	w.check(w.client.Refresh(t.Context(), "fam"))
	if got := w.listed("fam__kid"); got.MayRun || !strings.Contains(got.Error, "parent 'fam' is modified") {
		t.Errorf("with its parent modified: %+v; want not may run, an error that says \"parent 'fam' is modified\"", got)
	}
}

// A child was approved as part of one parent: under another it needs another decision, which the old one doesn't stand for.
func TestAChildOfAnotherParentNeedsADecision(t *testing.T) {
	w := start(t)
	dir := w.pack("fam")
	w.approve("fam")
	w.pack("fam__kid")
	w.approve("fam__kid")
	w.write(filepath.Join(dir, "ecosystem.json"), `{"pack_id":"fam","pack_identity":"github:other/fam"}`)
	w.check(w.client.Refresh(t.Context(), "fam"))
	w.approve("fam")
	if got := w.listed("fam__kid"); got.MayRun || !strings.Contains(got.Error, "approve it again") {
		t.Errorf("under another parent: %+v, want it closed until it is approved", got)
	}
	w.approve("fam__kid")
	if got := w.listed("fam__kid"); !got.MayRun {
		t.Errorf("approved again: %+v, want it open", got)
	}
}

// A closed gate says why, in one bounded line, and what to call.
func TestAClosedGateSaysWhy(t *testing.T) {
	w := start(t)
	reason := func(id, want string) {
		t.Helper()
		w.eventually(id+": "+want, func() bool {
			s, known := w.view.Get(id)
			return known && !s.Open && s.Reason == want
		})
	}
	dir := w.pack("demo")
	reason("demo", "GET /api/packs/demo/review")
	w.approve("demo")
	if s, _ := w.view.Get("demo"); s.Reason != "" {
		t.Errorf("an open gate says %q; want no reason", s.Reason)
	}
	w.write(filepath.Join(dir, "backend/main.py"), "changed\n")
	w.write(filepath.Join(dir, "backend/new.py"), "new\n")
	w.check(os.Remove(filepath.Join(dir, "backend/other.py")))
	w.check(w.client.Refresh(t.Context(), "demo"))
	reason("demo", "its files are not what was approved (3 files changed); GET /api/packs/demo/review")
	long := strings.Repeat("é", 300)
	_, err := w.call("POST", "/api/packs/demo/reject", map[string]string{"reason": long + "\n"})
	w.check(err)
	w.eventually("the reason of the rejection, cut", func() bool {
		s, _ := w.view.Get("demo")
		return strings.HasPrefix(long, strings.TrimSuffix(s.Reason, "…")) && strings.HasSuffix(s.Reason, "…") && len(s.Reason) <= gate.MaxReason
	})
}
