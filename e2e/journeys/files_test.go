package journeys

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// clerk is the pack that calls the handlers of the example pack `files`.
const clerk = "clerk"

// clerkProgram calls each permission that the pack was granted, and some that must be refused. It prints a line for each call: the step and
// the output, or the error_type, as JSON.
const clerkProgram = `
import json, time, rumi_capability
def show(step, permission, **args):
    result = rumi_capability.call(permission, args, timeout_seconds=60)
    print(step, json.dumps(result["output"] or result["error_type"], sort_keys=True), flush=True)
show("read", "fs.read", path="note.txt")
show("escape", "fs.read", path="../../settings/api_token")
show("write", "fs.write", path="answers/one.txt", content="from the pack", make_folders=True)
show("keep", "store.cas", store_id="notes", key="count", new_value=1)
show("elsewhere", "store.get", store_id="others", key="count")
print("done", flush=True)
time.sleep(3600)
`

// TestFilesAndStores grants a pack the handlers fs.read and fs.write of the example pack, with a folder of the operator, and a store. Calls
// within the grants must succeed, and calls outside of them must be refused.
func TestFilesAndStores(t *testing.T) {
	example := filepath.Join(suite.root, "examples/packs/files")
	pack := files{}
	err := filepath.WalkDir(example, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.Contains(path, "__pycache__") {
			return err
		}
		content, err := os.ReadFile(path)
		pack[strings.TrimPrefix(path, example+"/")] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	pack.copyToEcosystem(t, "files")
	plainPack(clerk).with(files{"backend/main.py": clerkProgram}).copyToEcosystem(t, clerk)
	post(t, "/api/packs/scan", nil)
	for _, id := range []string{"files", clerk} {
		post(t, "/api/packs/"+id+"/approve", nil)
	}
	post(t, "/api/capability/candidates/scan", nil)
	var pending struct {
		Items []struct {
			Key string `json:"candidate_key"`
		} `json:"items"`
	}
	if err := get(t, "/api/capability/requests?status=pending").Into(&pending); err != nil {
		t.Fatal(err)
	}
	for _, item := range pending.Items {
		if strings.HasPrefix(item.Key, "files:") {
			post(t, "/api/capability/requests/"+url.PathEscape(item.Key)+"/approve", nil)
		}
	}
	for permission, more := range map[string]map[string]any{
		"fs.read":   {"mounts": []any{map[string]any{"source": "notes"}}},
		"fs.write":  {"mounts": []any{map[string]any{"source": "notes", "read_only": false}}, "limits": map[string]any{"memory_mb": 128}},
		"store.cas": {"config": map[string]any{"allowed_store_ids": []string{"notes"}}},
		"store.get": {"config": map[string]any{"allowed_store_ids": []string{"notes"}}},
	} {
		body := map[string]any{"principal_id": clerk, "permission_id": permission}
		for name, value := range more {
			body[name] = value
		}
		post(t, "/api/capability/grants/grant", body)
	}
	// The first grant made the folder, which the operator, the services and handlers may use.
	notes := filepath.Join(suite.home, "user_data/shared/notes")
	if err := os.WriteFile(filepath.Join(notes, "note.txt"), []byte("from the operator"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"../settings", "/rumi/user_data/settings", "/etc", "/var/run"} {
		a, err := suite.api.Post(t.Context(), "/api/capability/grants/grant", map[string]any{"principal_id": clerk, "permission_id": "fs.read",
			"mounts": []any{map[string]any{"source": source}}})
		if err != nil || a.Status != 400 {
			t.Errorf("a mount of %s: got %v, %v; want 400", source, a, err)
		}
	}
	post(t, "/api/containers/"+clerk+"/start", nil)
	var outputs map[string]any
	eventually(t, "the pack's answers", func() bool {
		outputs = make(map[string]any)
		for _, line := range containerLog(t, clerk) {
			step, text, _ := strings.Cut(line, " ")
			var value any
			_ = json.Unmarshal([]byte(text), &value)
			outputs[step] = value
		}
		_, done := outputs["done"]
		return done
	})
	wantField := func(step, field string, want any) {
		t.Helper()
		if output, _ := outputs[step].(map[string]any); output[field] != want {
			t.Errorf("%s: got %v, want %s %v", step, outputs[step], field, want)
		}
	}
	wantField("read", "content", "from the operator")
	wantField("escape", "error_type", "validation_error")
	wantField("write", "success", true)
	wantField("keep", "success", true)
	if outputs["elsewhere"] != "grant_denied" {
		t.Errorf("another store: got %v, want grant_denied", outputs["elsewhere"])
	}
	if text, err := os.ReadFile(filepath.Join(notes, "answers/one.txt")); err != nil || string(text) != "from the pack" {
		t.Errorf("the operator reads %q, %v; want what the pack wrote", text, err)
	}
	for _, id := range []string{clerk, "files"} {
		if a, err := suite.api.Delete(t.Context(), "/api/packs/"+id); err != nil || a.Status != 200 {
			t.Errorf("the removal of %s got %v, %v; want 200", id, a, err)
		}
	}
}
