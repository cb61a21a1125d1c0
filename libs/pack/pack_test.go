package pack_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
)

func TestParseID(t *testing.T) {
	for _, good := range []string{"a", "A-b_9", strings.Repeat("x", 64), "parent__child", "-", "_"} {
		if id, err := pack.ParseID(good); err != nil || string(id) != good {
			t.Errorf("ParseID(%q) = %q, %v; want it unchanged", good, id, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "../../x", "a/b", `a\b`, "a b", "a\n", "\na", "a\x00", "ａ", "é", "%2e%2e", "%252e%252e",
		strings.Repeat("x", 65), "a.b", "packs", "a:b", "~"} {
		_, err := pack.ParseID(bad)
		if f := fault.Of(err); err == nil || f.Kind != fault.KindInvalid || f.Message != "Invalid pack_id" {
			t.Errorf("ParseID(%q) = %v; want that it is an invalid pack_id", bad, err)
		}
	}
}

func TestParent(t *testing.T) {
	for id, want := range map[pack.ID]pack.ID{
		"a": "", "a__b": "a", "a__b__c": "a__b", "__b": "", "a__": "", "a_b": "", "_____": "__", "": "", "a__b__": "a",
	} {
		parent, ok := pack.Parent(id)
		if parent != want || ok != (want != "") {
			t.Errorf("Parent(%q) = %q, %v; want %q", id, parent, ok, want)
		}
	}
}

func TestParseDescriptor(t *testing.T) {
	d, err := pack.ParseDescriptor([]byte(`{"pack_id": "my_pack", "pack_identity": "github:author/my_pack", "version": "1.0.0",
		"description": "Does\nthings", "required_secrets": ["OPENAI_API_KEY"], "vocabulary": {"types": ["x"]},
		"required_network": {"allowed_domains": ["api.example.com"], "allowed_ports": [443]},
		"connectivity": {"provides": ["ai.client"]}, "entrypoint": "backend/main.py",
		"resources": {"memory_mb": 256, "cpus": 0.5}, "restart": "on-failure"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := pack.Descriptor{
		PackID: "my_pack", PackIdentity: "github:author/my_pack", Version: "1.0.0", Description: "Does\nthings",
		RequiredSecrets: []string{"OPENAI_API_KEY"},
		RequiredNetwork: pack.Network{AllowedDomains: []string{"api.example.com"}, AllowedPorts: []uint16{443}},
		Connectivity:    []byte(`{"provides": ["ai.client"]}`),
		Entrypoint:      pack.Entrypoint{File: "backend/main.py"},
		Resources:       pack.Resources{MemoryMB: 256, CPUs: 0.5},
		Restart:         pack.RestartOnFailure,
		Unknown:         []string{"vocabulary"},
	}
	if !reflect.DeepEqual(d, want) {
		t.Errorf("got %+v; want %+v", d, want)
	}
	d, err = pack.ParseDescriptor([]byte(`{"pack_id": "p", "entrypoint": ["python3", "-m", "x"], "connectivity": ["a"], "required_network": null}`))
	if err != nil || !reflect.DeepEqual(d.Entrypoint.Argv, []string{"python3", "-m", "x"}) {
		t.Errorf("got %+v, %v; want the entrypoint python3 -m x", d, err)
	}
}

func TestParseDescriptorRefuses(t *testing.T) {
	with := func(member string) string { return `{"pack_id": "p", ` + member + `}` }
	for name, text := range map[string]string{
		"empty":             "",
		"not JSON":          "pack_id: p",
		"an array":          `[{"pack_id": "p"}]`,
		"null":              "null",
		"two values":        `{"pack_id": "p"} {}`,
		"no id":             `{"version": "1"}`,
		"id with newline":   `{"pack_id": "p\n"}`,
		"id that climbs":    `{"pack_id": "../p"}`,
		"id a number":       `{"pack_id": 1}`,
		"duplicate member":  with(`"pack_id": "q"`),
		"duplicate, hidden": with(`"x": {"a": 1, "a": 2}`),
		"invalid UTF-8":     with("\"version\": \"\xff\""),
		"lone surrogate":    with(`"version": "\ud800"`),
		"identity a list":   with(`"pack_identity": ["x"]`),
		"identity lines":    with(`"pack_identity": "a\nb"`),
		"identity bidi":     with(`"pack_identity": "a\u202eb"`),
		"identity long":     with(`"pack_identity": "` + strings.Repeat("x", 257) + `"`),
		"secrets a string":  with(`"required_secrets": "X"`),
		"many secrets":      with(`"required_secrets": [` + strings.Repeat(`"X",`, 200) + `"X"]`),
		"port a string":     with(`"required_network": {"allowed_ports": ["443"]}`),
		"port too big":      with(`"required_network": {"allowed_ports": [65536]}`),
		"memory as text":    with(`"resources": {"memory_mb": "512"}`),
		"half a MiB":        with(`"resources": {"memory_mb": 64.5}`),
		"too little memory": with(`"resources": {"memory_mb": 15}`),
		"negative CPUs":     with(`"resources": {"cpus": -1}`),
		"too many CPUs":     with(`"resources": {"cpus": 1e9}`),
		"too few processes": with(`"resources": {"pids": 1}`),
		"unknown resource":  with(`"resources": {"memory": 512}`),
		"resources a list":  with(`"resources": [1]`),
		"restart a boolean": with(`"restart": true`),
		"unknown restart":   with(`"restart": "unless-stopped"`),
		"entrypoint climbs": with(`"entrypoint": "../x.py"`),
		"entrypoint rooted": with(`"entrypoint": "/bin/sh"`),
		"entrypoint folder": with(`"entrypoint": "."`),
		"entrypoint slash":  with(`"entrypoint": "a//b.py"`),
		"entrypoint object": with(`"entrypoint": {}`),
		"entrypoint NUL":    with(`"entrypoint": ["a", "\u0000"]`),
		"entrypoint empty":  with(`"entrypoint": [""]`),
		"over 1 MiB":        with(`"x": "` + strings.Repeat("x", 1<<20) + `"`),
		"deep":              with(`"x": ` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000)),
	} {
		if d, err := pack.ParseDescriptor([]byte(text)); err == nil {
			t.Errorf("%s: accepted as %+v; want an error", name, d)
		}
	}
}

func FuzzParseDescriptor(f *testing.F) {
	f.Add([]byte(`{"pack_id": "p", "entrypoint": ["a"], "connectivity": [1, {"a": null}]}`))
	f.Add([]byte(`{"pack_id": "p", "required_network": {"allowed_ports": [0]}, "description": "a\nb"}`))
	f.Add([]byte(`{"pack_id": "p", "resources": {"memory_mb": 64, "cpus": 1e-2, "pids": 8}, "restart": "always"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := pack.ParseDescriptor(data)
		if err != nil {
			return
		}
		if id, err := pack.ParseID(string(d.PackID)); err != nil || id != d.PackID {
			t.Fatalf("accepted the id %q; want one that ParseID takes", d.PackID)
		}
		if d.Entrypoint.File != "" && !filepath.IsLocal(d.Entrypoint.File) {
			t.Fatalf("accepted the entrypoint %q, want a local path", d.Entrypoint.File)
		}
		if r := d.Resources; r.MemoryMB < 0 || r.CPUs < 0 || r.CPUs > 1024 || r.PIDs < 0 {
			t.Fatalf("accepted the resources %+v; want none below 0 and at most 1024 CPUs", r)
		}
		// What is strict enough for us is valid for the most lenient reader, and reads the same there.
		var lenient struct {
			PackID string `json:"pack_id"`
		}
		if err := json.Unmarshal(data, &lenient); err != nil {
			t.Fatalf("accepted what encoding/json refuses: %v", err)
		}
	})
}

func TestReadDescriptor(t *testing.T) {
	t.Run("in backend", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, "backend/ecosystem.json", `{"pack_id": "p"}`)
		d, err := read(t, dir)
		if err != nil || d.PackID != "p" || d.Base != "backend" {
			t.Errorf("got %+v, %v; want pack id p, base backend", d, err)
		}
		write(t, dir, "ecosystem.json", `{"pack_id": "q"}`)
		if d, err = read(t, dir); err != nil || d.PackID != "q" || d.Base != "" {
			t.Errorf("got %+v, %v; want pack id q, no base", d, err)
		}
	})
	refuse := func(name string, prepare func(dir string) error) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "elsewhere.json", `{"pack_id": "p"}`)
			if err := prepare(dir); err != nil {
				t.Fatal(err)
			}
			if d, err := read(t, dir); err == nil {
				t.Errorf("got %+v; want an error", d)
			}
		})
	}
	refuse("a link", func(dir string) error { return os.Symlink("elsewhere.json", filepath.Join(dir, "ecosystem.json")) })
	refuse("a folder", func(dir string) error { return os.Mkdir(filepath.Join(dir, "ecosystem.json"), 0o755) })
	refuse("a FIFO", func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "ecosystem.json"), 0o644) })
	refuse("50 MB", func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, "ecosystem.json"), nil, 0o644); err != nil {
			return err
		}
		return os.Truncate(filepath.Join(dir, "ecosystem.json"), 50<<20)
	})
	refuse("nothing", func(string) error { return nil })
}

func TestInstalled(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "b/ecosystem.json", `{"pack_id": "b", "pack_identity": "i"}`)
	write(t, dir, "anonymous/ecosystem.json", `{"pack_id": "anonymous"}`)
	write(t, dir, "a/backend/ecosystem.json", `{"pack_id": "a", "pack_identity": "i"}`)
	write(t, dir, "other/ecosystem.json", `{"pack_id": "declared", "pack_identity": "i"}`)
	write(t, dir, "broken/ecosystem.json", `{`)
	write(t, dir, "no_pack/readme", "")
	write(t, dir, ".hidden/ecosystem.json", `{"pack_id": "hidden"}`)
	write(t, dir, "packs/old/ecosystem.json", `{"pack_id": "old", "pack_identity": "i"}`)
	write(t, dir, "packs/b/ecosystem.json", `{"pack_id": "b"}`)
	write(t, dir, "packs/ecosystem.json", `{"pack_id": "packs"}`)
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	root := open(t, dir)
	all, unread := pack.Installed(root)
	if len(unread) != 0 {
		t.Fatalf("can't be read: %v; want none", unread)
	}
	type seen struct {
		id, dir  string
		broken   bool
		warnings int
	}
	var got []seen
	for _, f := range all {
		got = append(got, seen{string(f.ID), f.Dir, f.Err != nil, len(f.Warnings)})
		again, err := pack.Find(root, f.ID)
		if err != nil || again.Dir != f.Dir || again.Descriptor.PackID != f.Descriptor.PackID {
			t.Errorf("Find(%s) = %+v, %v; want dir %v, pack id %v", f.ID, again, err, f.Dir, f.Descriptor.PackID)
		}
	}
	want := []seen{{"a", "a", false, 0}, {"anonymous", "anonymous", false, 1}, {"b", "b", false, 1}, {"broken", "broken", true, 0}, {"old", "packs/old", false, 1}, {"other", "other", false, 1}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	for _, none := range []pack.ID{"no_pack", "link", "missing"} {
		if found, err := pack.Find(root, none); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Find(%s) = %+v, %v; want fs.ErrNotExist", none, found, err)
		}
	}
}

func open(t *testing.T, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func read(t *testing.T, dir string) (pack.Descriptor, error) {
	t.Helper()
	return pack.ReadDescriptor(open(t, dir))
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
