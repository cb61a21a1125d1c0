package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
)

// approval is what the stand-in for approval knows of a pack.
func (s *suite) approval(id string) (retired, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	retired, known = s.known[id]
	return retired, known
}

// An uninstall that fails in part says so, keeps the files and approval's record, which is retired so that nobody approves the pack
// as long as it has its grants, and can be repeated.
func TestUninstallInParts(t *testing.T) {
	for name, c := range map[string]struct {
		down   []string
		done   []string // steps
		calls  int
		byHand bool // the operator removes the files meanwhile
	}{
		"approval down":   {[]string{"approval"}, nil, 1, false},
		"broker down":     {[]string{"capability-broker"}, nil, 4, false},
		"egress down":     {[]string{"egress-proxy"}, []string{"container_stop", "container_remove"}, 4, false},
		"two down":        {[]string{"egress-proxy", "pip-installer"}, []string{"container_stop", "container_remove"}, 4, false},
		"files then gone": {[]string{"pip-installer"}, []string{"container_stop", "container_remove"}, 4, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			if err := os.MkdirAll(filepath.Join(s.Ecosystem(), "p"), 0o755); err != nil {
				t.Fatal(err)
			}
			descriptor := filepath.Join(s.Ecosystem(), "p", "ecosystem.json")
			if err := os.WriteFile(descriptor, []byte(`{"pack_id": "p"}`), 0o644); err != nil {
				t.Fatal(err)
			}
			s.fail(c.down...)
			a := s.call("DELETE", "/api/packs/p", "")
			steps, _ := a.Data["steps"].(map[string]any)
			failures, _ := a.Data["errors"].([]any)
			if a.Status != 503 || a.Success || a.Data["success"] != false || len(failures) != len(c.down) || a.ErrorCode != "uninstall_incomplete" {
				t.Errorf("got %+v; want 503 uninstall_incomplete with %d errors", a, len(c.down))
			}
			for step, done := range steps {
				if done != strings.Contains(strings.Join(c.done, " "), step) {
					t.Errorf("step %s is %v; want %v", step, done, strings.Contains(strings.Join(c.done, " "), step))
				}
			}
			if calls := s.called(); len(calls) != c.calls {
				t.Errorf("called %v; want %d calls", calls, c.calls)
			}
			if retired, known := s.approval("p"); !slices.Contains(c.down, "approval") && (!known || !retired) {
				t.Errorf("approval knows it %v, retired %v", known, retired)
			}
			if _, err := os.Stat(descriptor); err != nil {
				t.Errorf("the files are gone: %v", err)
			}
			if c.byHand {
				if err := os.RemoveAll(filepath.Join(s.Ecosystem(), "p")); err != nil {
					t.Fatal(err)
				}
			}
			s.fail()
			if a := s.call("DELETE", "/api/packs/p", ""); a.Status != 200 || a.Data["success"] != true {
				t.Errorf("again: %+v; want 200, success", a)
			}
			if _, known := s.approval("p"); known {
				t.Error("approval still knows it")
			}
			if a := s.call("DELETE", "/api/packs/p", ""); a.Status != 404 {
				t.Errorf("once more: %+v; want 404", a)
			}
		})
	}
}

func TestUninstallWhatOnlyApprovalKnows(t *testing.T) {
	s := start(t)
	s.known["p"] = false
	if a := s.call("DELETE", "/api/packs/p", ""); a.Status != 200 || a.Data["success"] != true {
		t.Errorf("got %+v; want 200, success", a)
	}
	s.fail("approval")
	if a := s.call("DELETE", "/api/packs/q", ""); a.Status != 503 {
		t.Errorf("unknown, and nobody to ask: %+v; want 503", a)
	}
}

// Once everything is gone but approval's record, that is what an uninstall is found by.
func TestUninstallWhoseLastStepFailed(t *testing.T) {
	s := start(t)
	if a := s.call("POST", "/api/packs/apply", `{"staging_id": "`+s.stage("1")+`"}`); a.Status != 200 {
		t.Fatalf("apply: %+v; want 200", a)
	}
	s.mu.Lock()
	s.refuse = 1
	s.mu.Unlock()
	a := s.call("DELETE", "/api/packs/p", "")
	steps := map[string]any{"container_stop": true, "container_remove": true, "approval_remove": false, "privilege_revoke": true, "files_remove": true}
	if a.Status != 503 || !reflect.DeepEqual(a.Data["steps"], steps) || a.Data["backup_path"] == nil || a.ErrorCode != "uninstall_incomplete" {
		t.Errorf("got %+v; want 503 uninstall_incomplete with a backup and the steps %v", a, steps)
	}
	if _, err := os.Stat(s.path("ecosystem/p")); !os.IsNotExist(err) {
		t.Errorf("the files: %v; want os.IsNotExist(err)", err)
	}
	if a := s.call("DELETE", "/api/packs/p", ""); a.Status != 200 {
		t.Errorf("again: %+v; want 200", a)
	}
	if a := s.call("DELETE", "/api/packs/p", ""); a.Status != 404 {
		t.Errorf("once more: %+v; want 404", a)
	}
}

// Two who uninstall a pack at once, each through a replica of its own perhaps, don't get in each other's way.
func TestUninstallAtOnce(t *testing.T) {
	s := start(t)
	for range 3 {
		if a := s.call("POST", "/api/packs/apply", `{"staging_id": "`+s.stage("1")+`"}`); a.Status != 200 {
			t.Fatalf("apply: %+v; want 200", a)
		}
		var group sync.WaitGroup
		answers := make([]answer, 8)
		for i := range answers {
			group.Go(func() { answers[i] = s.call("DELETE", "/api/packs/p", "") })
		}
		group.Wait()
		succeeded := 0
		for _, a := range answers {
			switch a.Status {
			case 200:
				succeeded++
			case 404:
			default:
				t.Errorf("got %+v, want 200 or 404", a)
			}
		}
		if _, known := s.approval("p"); known || succeeded == 0 {
			t.Errorf("%d succeeded, and approval knows it %v; want one at least, and that it doesn't", succeeded, known)
		}
	}
}

// What was installed anew while an uninstall was at its end is not forgotten with what was there before.
func TestUninstallOvertaken(t *testing.T) {
	s := start(t)
	s.mu.Lock()
	s.known["p"] = false
	s.anew = true
	s.mu.Unlock()
	if a := s.call("DELETE", "/api/packs/p", ""); a.Status != 409 || a.ErrorCode != "uninstall_incomplete" {
		t.Errorf("got %+v; want 409, the code uninstall_incomplete", a)
	}
	if retired, known := s.approval("p"); !known || retired {
		t.Errorf("approval knows it %v, retired %v; want known, not retired", known, retired)
	}
}

// Nothing is installed in the place of a pack whose uninstall is incomplete: it could not be approved, and the repeated uninstall
// would take it away, too. What says so is said before anything is done.
func TestNothingIsInstalledDuringAnUninstall(t *testing.T) {
	s := start(t)
	for _, version := range []string{"1", "2"} {
		if a := s.call("POST", "/api/packs/apply", `{"staging_id": "`+s.stage(version)+`"}`); a.Status != 200 {
			t.Fatalf("apply: %+v; want 200", a)
		}
	}
	backups := s.call("GET", "/api/packs/p/backups", "")
	backup := backups.Data["backups"].([]any)[0].(map[string]any)["backup"].(string)
	staged := s.stage("3")
	s.fail("egress-proxy")
	if a := s.call("DELETE", "/api/packs/p", ""); a.Status != 503 {
		t.Fatalf("uninstall: %+v; want 503", a)
	}
	const text = "Cannot install pack 'p': its uninstall is incomplete: repeat `DELETE /api/packs/p`, unless another call is still at it"
	for _, c := range [][2]string{
		{"/api/packs/apply", `{"staging_id": "` + staged + `"}`},
		{"/api/packs/p/rollback", fmt.Sprintf(`{"backup": %q}`, backup)},
	} {
		if a := s.call("POST", c[0], c[1]); a.Status != 409 || a.Error != text || a.ErrorCode != "pack_refused" {
			t.Errorf("%s: %+v; want 409 pack_refused %q", c[0], a, text)
		}
	}
	a := s.call("GET", "/api/packs/staging/"+staged, "")
	if outcome := a.Data["packs"].([]any)[0].(map[string]any)["apply"]; !reflect.DeepEqual(outcome, map[string]any{"action": "refuse", "error": text}) {
		t.Errorf("the outcome is to be %v, want a refusal", outcome)
	}
	if content, err := os.ReadFile(s.path("ecosystem/p/ecosystem.json")); err != nil || !strings.Contains(string(content), `"2"`) {
		t.Errorf("the installed one is %s, %v; want version 2", content, err)
	}
	s.fail()
	if a := s.call("DELETE", "/api/packs/p", ""); a.Status != 200 {
		t.Fatalf("uninstall: %+v; want 200", a)
	}
	if a := s.call("POST", "/api/packs/apply", `{"staging_id": "`+staged+`"}`); a.Status != 200 {
		t.Errorf("apply after it: %+v; want 200", a)
	}
}

// A pack without an identity can be taken in, as contract.md has it; that it can't be approved is said from the first on.
func TestAPackWithoutIdentity(t *testing.T) {
	s := start(t)
	const text = "its ecosystem.json has no pack_identity: it can't be approved before it has"
	archive := zipped(t, map[string]string{"main/ecosystem.json": `{"pack_id": "p", "entrypoint": "main.py"}`, "main/main.py": ""})
	a := s.upload([3]string{"file", "p.zip", archive})
	id, _ := a.Data["staging_id"].(string)
	if meta, _ := a.Data["meta"].(map[string]any); a.Status != 200 || !reflect.DeepEqual(meta["warnings"], []any{"p: " + text}) {
		t.Errorf("the import gets %+v, want 200 with the warning", a)
	}
	a = s.call("GET", "/api/packs/staging/"+id, "")
	if one := a.Data["packs"].([]any)[0].(map[string]any); !reflect.DeepEqual(one["warnings"], []any{text}) || !reflect.DeepEqual(one["apply"], map[string]any{"action": "new"}) {
		t.Errorf("the staged pack is %v, want the warning, and to be new", one)
	}
	for doing, a := range map[string]answer{
		"apply": s.call("POST", "/api/packs/apply", `{"staging_id": "`+id+`"}`),
		"scan":  s.call("POST", "/api/packs/scan", ""),
	} {
		if a.Status != 200 || !reflect.DeepEqual(a.Data["warnings"], []any{"p: " + text}) {
			t.Errorf("%s: got %+v, want 200 with the warning", doing, a)
		}
	}
	a = s.call("GET", "/api/packs/staging/"+s.stage("1"), "")
	if one := a.Data["packs"].([]any)[0].(map[string]any); !reflect.DeepEqual(one["warnings"], []any{"no entrypoint: a container of it will idle"}) {
		t.Errorf("one with an identity: %+v; want only the warning of the entrypoint", one)
	}
}

// An uninstall tells which packs can't run any more without the one that goes, and no others.
func TestUninstallNamesChildren(t *testing.T) {
	s := start(t)
	for _, id := range []string{"fam", "fam__kid", "fam__kid__toy", "family", "other__fam", "fam_kid"} {
		dir := filepath.Join(s.Ecosystem(), id)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "ecosystem.json"), fmt.Appendf(nil, `{"pack_id": %q}`, id), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	warned := func(id string) (about []string) {
		t.Helper()
		a := s.call("DELETE", "/api/packs/"+id, "")
		if a.Status != 200 {
			t.Fatalf("DELETE of %s: %+v, want 200", id, a)
		}
		warnings, _ := a.Data["warnings"].([]any)
		for _, w := range warnings {
			var below string
			if n, _ := fmt.Sscanf(w.(string), "Pack '%s can't run any more", &below); n == 1 && strings.Contains(w.(string), "'"+id+"', which it lies below, is not installed") {
				about = append(about, strings.TrimSuffix(below, "'"))
			}
		}
		return about
	}
	if got, want := warned("fam"), []string{"fam__kid", "fam__kid__toy"}; !slices.Equal(got, want) {
		t.Errorf("warned of %q, want %q", got, want)
	}
	if got, want := warned("fam__kid"), []string{"fam__kid__toy"}; !slices.Equal(got, want) {
		t.Errorf("warned of %q, want %q", got, want)
	}
	if got := warned("family"); got != nil {
		t.Errorf("warned of %q, want none", got)
	}
}
