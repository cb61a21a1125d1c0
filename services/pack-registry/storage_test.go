package main

import (
	"net/http"
	"path"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/pack/packtest"
)

// What takes room is told with what frees it: the call does, and then it is told no more.
func TestStorage(t *testing.T) {
	s := start(t)
	for _, version := range []string{"1", "2"} {
		if a := s.call("POST", "/api/packs/apply", `{"staging_id": "`+s.stage(version)+`"}`); a.Status != 200 {
			t.Fatalf("apply: %+v; want 200", a)
		}
	}
	s.stage("3")
	packtest.Write(t, s.path("user_data/import/kept.zip"), "an archive")
	s.known["p"] = false
	if a := s.call("DELETE", "/api/packs/p", ""); a.Status != 200 { // its backups stay, and can be seen and removed
		t.Fatalf("uninstall: %+v; want 200", a)
	}
	items := func() map[string][]diskusage.Item {
		report, err := diskusage.Ask(t.Context(), s.Peer("gateway", "pack-registry"))
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string][]diskusage.Item{}
		for _, item := range report.Items {
			kinds[item.Kind] = append(kinds[item.Kind], item)
			if item.Error != "" || item.Bytes == 0 || item.Files == 0 || item.MadeAt.IsZero() {
				t.Errorf("an item says %+v; want its bytes, its files, its time and no error", item)
			}
		}
		return kinds
	}
	before := items()
	if len(before["backup"]) != 2 || len(before["staging"]) != 1 || len(before["import_source"]) == 0 {
		t.Fatalf("it reports %+v, want two backups, a staging and what was imported", before)
	}
	for _, kind := range []string{"backup", "staging"} {
		for _, item := range before[kind] {
			method, target, _ := strings.Cut(item.Remove, " ")
			if !item.Removable || item.PackID != "p" || !strings.HasPrefix(item.Path, "user_data/pack_") {
				t.Errorf("an item says %+v; want it removable, p's, in user_data/pack_…", item)
			}
			if a := s.call(method, target, ""); a.Status != http.StatusOK || a.Data["success"] != true {
				t.Errorf("%s: %+v; want 200, success", item.Remove, a)
			}
			if a := s.call(method, target, ""); a.Status != http.StatusNotFound {
				t.Errorf("again: %s: %+v, want 404", item.Remove, a)
			}
			if kind == "backup" && !strings.Contains(audittest.Text(t, s.path("user_data/audit"), "system"), `"backup":"`+path.Base(item.Path)+`"`) {
				t.Errorf("the removal of %s is not audited", item.Path)
			}
		}
	}
	if after := items(); len(after["backup"]) != 0 || len(after["staging"]) != 0 {
		t.Errorf("it reports %+v, want no backup and no staging", after)
	}
	for _, bad := range []string{"/api/packs/p/backups/x", "/api/packs/p/backups/..%2F..%2Fx", "/api/packs/a%20b/backups/x"} {
		if a := s.call("DELETE", bad, ""); a.Status != http.StatusNotFound && a.Status != http.StatusBadRequest {
			t.Errorf("DELETE %s: got %+v, want 404 or 400", bad, a)
		}
	}
}

// What happened to a pack is found by it in the audit log, from its arrival on.
func TestEntriesNameTheirPack(t *testing.T) {
	s := start(t)
	for _, id := range []string{"p", "q"} {
		packtest.Write(t, s.path("user_data/import/m/packs/"+id+"/ecosystem.json"), `{"pack_id": "`+id+`", "pack_identity": "github:a/`+id+`"}`)
	}
	a := s.call("POST", "/api/packs/import", `{"path": "user_data/import/m"}`)
	id, _ := a.Data["staging_id"].(string)
	if a = s.call("POST", "/api/packs/apply", `{"staging_id": "`+id+`"}`); a.Status != 200 {
		t.Fatalf("apply: %+v; want 200", a)
	}
	text := audittest.Text(t, s.path("user_data/audit"), "system")
	for _, action := range []string{"pack_import_completed", "pack_apply_completed"} {
		owners := map[string]int{}
		for line := range strings.Lines(text) {
			for _, pack := range []string{"p", "q"} {
				if strings.Contains(line, `"action":"`+action+`"`) && strings.Contains(line, `"owner_pack":"`+pack+`"`) {
					owners[pack]++
				}
			}
		}
		if owners["p"] != 1 || owners["q"] != 1 {
			t.Errorf("entries of %s by pack: %v, want one for each", action, owners)
		}
	}
}

// An uninstall says where the pack's data is kept, and a rollback puts it back where that is asked for; where it can't, the pack is
// back all the same, and the answer says so.
func TestDataOfAnUninstalledPack(t *testing.T) {
	s := start(t)
	if a := s.call("POST", "/api/packs/apply", `{"staging_id": "`+s.stage("1")+`"}`); a.Status != 200 {
		t.Fatalf("apply: %+v; want 200", a)
	}
	s.known["p"] = false
	a := s.call("DELETE", "/api/packs/p", "")
	if a.Status != 200 || a.Data["data_path"] != keptData {
		t.Errorf("uninstall: %+v, want data_path %s", a, keptData)
	}
	backup := path.Base(a.Data["backup_path"].(string))
	a = s.call("POST", "/api/packs/p/rollback", `{"backup": "`+backup+`"}`)
	if _, has := a.Data["data_path"]; a.Status != 200 || has || len(s.restored) != 0 {
		t.Errorf("rollback without data: %+v, restored %v; want 200, and no data put back", a, s.restored)
	}
	a = s.call("POST", "/api/packs/p/rollback", `{"backup": "`+backup+`", "data": true}`)
	if a.Status != 200 || a.Data["data_path"] != keptData || len(s.restored) != 1 || s.restored[0] != "p" {
		t.Errorf("rollback with data: %+v, restored %v; want 200, the data of %s put back", a, s.restored, keptData)
	}
	a = s.call("POST", "/api/packs/p/rollback", `{"backup": "`+backup+`", "data": true}`)
	if warnings, _ := a.Data["warnings"].([]any); a.Status != 200 || a.Data["success"] != true || len(warnings) != 1 || warnings[0] != "its data was not put back: No data is kept" {
		t.Errorf("rollback where no data is kept: %+v; want 200 with a warning that says so", a)
	}
}
