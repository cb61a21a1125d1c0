package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// stage uploads a version of p.
func (s *suite) stage(version string) string {
	s.t.Helper()
	a := s.upload([3]string{"notes", "", "version " + version}, [3]string{"file", "p.zip", archived(s.t, "p", version)})
	id, _ := a.Data["staging_id"].(string)
	if a.Status != 200 || id == "" {
		s.t.Fatalf("import: %+v; want a.Status == 200 && id != \"\"", a)
	}
	return id
}

// list calls what answers with a list.
func (s *suite) list(path string) []map[string]any {
	s.t.Helper()
	var answer struct {
		Success bool
		Data    []map[string]any
	}
	s.get(path, &answer)
	if !answer.Success {
		s.t.Errorf("GET %s failed; want answer.Success", path)
	}
	return answer.Data
}

func TestStagings(t *testing.T) {
	s := start(t)
	if all := s.list("/api/packs/staging"); all == nil || len(all) != 0 {
		t.Errorf("none: %v; want an empty list that isn't null", all)
	}
	first, second := s.stage("1"), s.stage("2")
	all := s.list("/api/packs/staging")
	if len(all) != 2 || all[0]["staging_id"] != second || all[1]["staging_id"] != first {
		t.Fatalf("got %v; want %s and then %s", all, second, first)
	}
	one := all[1]
	if one["input_type"] != "zip" || one["source_path"] != "p.zip" || !reflect.DeepEqual(one["detected_pack_ids"], []any{"p"}) || one["is_multi_pack"] != false ||
		one["notes"] != "version 1" || one["files"] != 3.0 || one["bytes"].(float64) < 20 || one["expires_at"].(string) <= one["created_at"].(string) {
		t.Errorf("the staging is %v, want a zip of p with three files, its notes and its times", one)
	}
	inspect := func(id string) (pack, outcome map[string]any) {
		t.Helper()
		a := s.call("GET", "/api/packs/staging/"+id, "")
		packs, _ := a.Data["packs"].([]any)
		if a.Status != 200 || len(packs) != 1 || a.Data["staging_id"] != id || a.Data["files"] != 3.0 {
			t.Fatalf("inspect: %+v; want 200 with %s, one pack and 3 files", a, id)
		}
		pack, _ = packs[0].(map[string]any)
		outcome, _ = pack["apply"].(map[string]any)
		return pack, outcome
	}
	pack, outcome := inspect(first)
	descriptor, _ := pack["descriptor"].(map[string]any)
	files, _ := pack["files"].([]any)
	if pack["pack_id"] != "p" || descriptor["version"] != "1" || descriptor["pack_identity"] != "github:a/b" || len(files) != 3 ||
		!reflect.DeepEqual(outcome, map[string]any{"action": "new"}) {
		t.Errorf("the staged pack is %v, want p as described, to be new", pack)
	}
	file, _ := files[0].(map[string]any)
	if file["path"] != "backend/main.py" || file["size"] != 9.0 || len(file["mode"].(string)) != 4 {
		t.Errorf("got %v; want backend/main.py with 9 bytes and a mode of 4 digits", file)
	}
	if a := s.call("POST", "/api/packs/apply", `{"staging_id": "`+first+`"}`); a.Status != 200 {
		t.Fatalf("apply: %+v; want 200", a)
	}
	if _, outcome := inspect(second); !reflect.DeepEqual(outcome, map[string]any{"action": "replace", "version": "1", "identity": "github:a/b"}) {
		t.Errorf("the outcome is to be %v, want a replacement of version 1", outcome)
	}
	a := s.call("DELETE", "/api/packs/staging/"+second, "")
	if a.Status != 200 || !reflect.DeepEqual(a.Data, map[string]any{"success": true, "staging_id": second}) || s.audited("pack_staging_discarded") != 1 {
		t.Errorf("the discard gets %+v, want 200, and one entry", a)
	}
	for _, c := range []struct {
		method, id string
		status     int
		message    string
	}{
		{"GET", first, 404, "Staging not found: " + first},
		{"GET", second, 404, "Staging not found: " + second},
		{"DELETE", second, 404, "Staging not found: " + second},
		{"GET", "abc", 400, "Invalid staging_id (16 hex digits, as import answers)"},
		{"DELETE", "%252e%252e", 400, "Invalid staging_id (16 hex digits, as import answers)"},
		{"DELETE", strings.ToUpper(second[:15]) + "G", 400, "Invalid staging_id (16 hex digits, as import answers)"},
		{"DELETE", second + "%0a", 400, "Invalid staging_id (16 hex digits, as import answers)"},
	} {
		if a := s.call(c.method, "/api/packs/staging/"+c.id, ""); a.Status != c.status || a.Error != c.message {
			t.Errorf("%s %s: %+v; want %d %q", c.method, c.id, a, c.status, c.message)
		}
	}
	if all := s.list("/api/packs/staging"); len(all) != 0 {
		t.Errorf("left %v; want none", all)
	}
}

// Several packs in one archive are applied together or not at all.
func TestSeveralPacks(t *testing.T) {
	s := start(t)
	archive := zipped(t, map[string]string{
		"bundle/packs/p/ecosystem.json":         `{"pack_id": "p", "pack_identity": "github:a/p", "version": "2"}`,
		"bundle/packs/q/backend/ecosystem.json": `{"pack_id": "q", "pack_identity": "github:a/q"}`,
		"bundle/readme":                         "not of a pack",
	})
	if err := os.Mkdir(s.path("ecosystem/p"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.overwrite("ecosystem/p/ecosystem.json", `{"pack_id": "p", "pack_identity": "another"}`)
	a := s.upload([3]string{"file", "bundle.rumipack", archive})
	id, _ := a.Data["staging_id"].(string)
	if a.Status != 200 || a.Data["is_multi_pack"] != true || !reflect.DeepEqual(a.Data["detected_pack_ids"], []any{"p", "q"}) {
		t.Fatalf("the import gets %+v, want 200 with p and q", a)
	}
	body := `{"staging_id": "` + id + `"}`
	if a := s.call("POST", "/api/packs/apply", body); a.Status != 409 || len(a.Data["errors"].([]any)) != 1 {
		t.Errorf("apply: %+v; want 409 with one error", a)
	}
	if _, err := os.Stat(s.path("ecosystem/q")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("one of two was applied: %v; want os.ErrNotExist", err)
	}
	if a := s.call("GET", "/api/packs/staging/"+id, ""); a.Status != 200 || a.Data["files"] != 2.0 || len(a.Data["packs"].([]any)) != 2 {
		t.Errorf("inspect: %+v; want 200 with 2 files and 2 packs", a)
	}
	s.overwrite("ecosystem/p/ecosystem.json", `{"pack_id": "p", "pack_identity": "github:a/p"}`)
	a = s.call("POST", "/api/packs/apply", body)
	backups, _ := a.Data["backup_paths"].(map[string]any)
	if a.Status != 200 || !reflect.DeepEqual(a.Data["applied_pack_ids"], []any{"p", "q"}) || len(backups) != 1 || backups["p"] == nil {
		t.Errorf("the apply gets %+v, want 200 with p and q, and a backup of p", a)
	}
}

func TestRollback(t *testing.T) {
	s := start(t)
	for _, version := range []string{"1", "2"} {
		if a := s.call("POST", "/api/packs/apply", `{"staging_id": "`+s.stage(version)+`"}`); a.Status != 200 {
			t.Fatalf("apply: %+v; want 200", a)
		}
	}
	backups := func() []any {
		t.Helper()
		a := s.call("GET", "/api/packs/p/backups", "")
		all, _ := a.Data["backups"].([]any)
		if a.Status != 200 || a.Data["pack_id"] != "p" {
			t.Errorf("backups: %+v; want 200, pack id p", a)
		}
		return all
	}
	all := backups()
	if len(all) != 1 {
		t.Fatalf("backups are %v; want 1", all)
	}
	one, _ := all[0].(map[string]any)
	name, _ := one["backup"].(string)
	if one["version"] != "1" || one["pack_identity"] != "github:a/b" || one["reason"] != "apply" || one["path"] != "user_data/pack_backups/p/"+name || one["bytes"].(float64) < 20 ||
		one["created_at"] == nil {
		t.Errorf("the backup is %v, want version 1, made by apply", one)
	}
	rollback := func(name string) answer {
		return s.call("POST", "/api/packs/p/rollback", fmt.Sprintf(`{"backup": %q}`, name))
	}
	s.fail()
	a := rollback(name)
	replaced, _ := a.Data["backup_path"].(string)
	if a.Status != 200 || a.Data["success"] != true || a.Data["pack_id"] != "p" || a.Data["version"] != "1" || !strings.HasPrefix(replaced, "user_data/pack_backups/p/") {
		t.Errorf("the rollback gets %+v, want 200 with version 1, and a backup of what it replaced", a)
	}
	if calls := s.called(); !reflect.DeepEqual(calls, []string{"replaced p"}) {
		t.Errorf("the rollback called %v, want that p was replaced", calls)
	}
	if len(backups()) != 2 {
		t.Errorf("backups are %v; want 2", backups())
	}

	// Uninstalled, and back again; approval learns of it later.
	if a := s.call("DELETE", "/api/packs/p", ""); a.Status != 200 {
		t.Fatalf("uninstall: %+v; want 200", a)
	}
	s.fail("approval")
	a = rollback(name)
	if path, there := a.Data["backup_path"]; a.Status != 200 || !there || path != nil || a.Data["warnings"] == nil {
		t.Errorf("rollback: %+v; want 200 without a backup, with warnings", a)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		message            string
	}{
		{"POST", "/api/packs/p/rollback", `{}`, 400, "Missing 'backup'"},
		{"POST", "/api/packs/p/rollback", `{"backup": 1}`, 400, "Invalid value for field 'backup': want a string"},
		{"POST", "/api/packs/p/rollback", `{"backup": "none"}`, 404, "Backup not found: none"},
		{"POST", "/api/packs/p/rollback", `{"backup": "../p/` + name + `"}`, 404, "Backup not found: ../p/" + name},
		{"POST", "/api/packs/q/rollback", `{"backup": "` + name + `"}`, 404, "Backup not found: " + name},
		{"POST", "/api/packs/a.b/rollback", `{"backup": "` + name + `"}`, 400, "Invalid pack_id"},
		{"GET", "/api/packs/a.b/backups", ``, 400, "Invalid pack_id"},
		{"GET", "/api/packs/unknown/backups", ``, 404, "Pack not found"},
		{"GET", "/api/packs/staging/backups", ``, 404, "Pack not found"},
		{"GET", "/api/packs/p/other", ``, 404, "Not found"},
	} {
		if a := s.call(c.method, c.path, c.body); a.Status != c.status || a.Error != c.message {
			t.Errorf("%s %s %s: %+v; want %d %q", c.method, c.path, c.body, a, c.status, c.message)
		}
	}
	for action, count := range map[string]int{"pack_rollback_completed": 2, "pack_rollback_failed": 3} {
		if got := s.audited(action); got != count {
			t.Errorf("%d entries of %s, want %d", got, action, count)
		}
	}
	s.overwrite("ecosystem/p/ecosystem.json", `{"pack_id": "p", "pack_identity": "another"}`)
	if a := rollback(name); a.Status != 409 || !strings.HasPrefix(a.Error, "pack_identity mismatch: ") || a.ErrorCode != "pack_refused" {
		t.Errorf("another pack is there: %+v; want 409, an error that begins with \"pack_identity mismatch: \", the code pack_refused", a)
	}
}
