package handler

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/testenv"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
)

func TestValidKey(t *testing.T) {
	hash := strings.Repeat("0f", 32)
	for key, want := range map[string]bool{
		"p:s:h:" + hash: true, "my_pack:fs_read_v1:fs.read-handler:" + hash: true, "p__child:s:h:" + hash: true,
		"": false, "p:s:h": false, "p:s:h:" + hash[1:]: false, "p:s:h:" + hash + "\n": false, "p:s:h:" + strings.ToUpper(hash): false,
		"p:s::" + hash: false, "..:s:h:" + hash: false, "p/x:s:h:" + hash: false, "p:..:h:" + hash: false, "p:s:h h:" + hash: false,
		"p:s:h:x:" + hash: false, "p:s:h:" + hash + "\x00": false, strings.Repeat("p", 65) + ":s:h:" + hash: false,
	} {
		if got := ValidKey(key); got != want {
			t.Errorf("%q: %v, want %v", key, got, want)
		}
	}
}

func TestParseDescriptor(t *testing.T) {
	for raw, want := range map[string]string{ // what the error says, "" for none
		`{"handler_id":"h","permission_id":"fs.read","entrypoint":"handler.py:execute","description":"d","risk":"low","more":1}`: "",
		`{"handler_id":"h","permission_id":"fs.read"}`:                             "",
		`{"handler_id":"h","permission_id":"fs.read","entrypoint":"handler.py:x"}`: "",
		``:                                     "parse handler.json",
		`[]`:                                   "parse handler.json",
		`{"handler_id":1,"permission_id":"a"}`: "parse handler.json",
		`{"handler_id":"a","handler_id":"b"}`:  "line 1, column 19: a name stands twice in one object",
		"{\"handler_id\":\"\xff\"}":            "UTF-8",
		`{"permission_id":"a"}`:                "handler_id",
		`{"handler_id":"..","permission_id":"a"}`:                                                  "handler_id",
		`{"handler_id":"a:b","permission_id":"a"}`:                                                 "handler_id",
		`{"handler_id":"h"}`:                                                                       "permission_id",
		`{"handler_id":"h","permission_id":"A"}`:                                                   "permission_id",
		`{"handler_id":"h","permission_id":"secrets.get"}`:                                         "broker's own",
		`{"handler_id":"h","permission_id":"store.anything"}`:                                      "broker's own",
		`{"handler_id":"h","permission_id":"a","entrypoint":"other.py:execute"}`:                   "entrypoint",
		`{"handler_id":"h","permission_id":"a","entrypoint":"../handler.py:execute"}`:              "entrypoint",
		`{"handler_id":"h","permission_id":"a","entrypoint":"handler.py:a.b"}`:                     "entrypoint",
		`{"handler_id":"h","permission_id":"a","entrypoint":"handler.py:execute\n"}`:               "entrypoint",
		`{"handler_id":"h","permission_id":"a","description":"` + strings.Repeat("x", 5000) + `"}`: "too long",
		`{"handler_id":"h","permission_id":"a","risk":"` + strings.Repeat("x", 5000) + `"}`:        "too long",
		`{"HANDLER_ID":"h","permission_id":"a"}`:                                                   "handler_id",

		`{"handler_id":"h","permission_id":"a","config_schema":{"type":"object"}}`:                               "",
		`{"handler_id":"h","permission_id":"a","config_schema":null}`:                                            "config_schema: it must be an object",
		`{"handler_id":"h","permission_id":"a","config_schema":true}`:                                            "config_schema: it must be an object",
		`{"handler_id":"h","permission_id":"a","config_schema":{"properties":{"a":{"typ":"x"}}}}`:                "config_schema: at '/properties/a': the keyword 'typ'",
		`{"handler_id":"h","permission_id":"a","config_schema":{"$ref":"http://127.0.0.1/"}}`:                    "config_schema: at '/$ref'",
		`{"handler_id":"h","permission_id":"a","config_schema":{"$ref":"#"}}`:                                    "recursive",
		`{"handler_id":"h","permission_id":"a","config_schema":{"title":"` + strings.Repeat("x", 64<<10) + `"}}`: "too large",
		`{"handler_id":"h","permission_id":"a","config_schema":{"properties":{"a":{"pattern":"(?=x)"}}}}`:        "RE2",
	} {
		_, err := parseDescriptor([]byte(raw))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q", raw, err, want)
		}
	}
}

// No handler.json of a pack gets an id, a permission or a schema past the parser that the rest can't live with, and what
// is read compares equal to what was stored.
func FuzzParseDescriptor(f *testing.F) {
	for _, raw := range []string{
		`{"handler_id":"h","permission_id":"fs.read","entrypoint":"handler.py:execute","description":"d","risk":"low","more":1}`,
		`{"handler_id":"h.x-1","permission_id":"a","config_schema":{"properties":{"\u0041\/":{"enum":["\u00e9",1.0,1E2]}}}}`,
		`{"handler_id":"..","permission_id":"secrets.get"}`, `{"handler_id":"a","handler_id":"b"}`, `[]`, ``,
	} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := parseDescriptor(raw)
		if err != nil {
			return
		}
		c := Candidate{PackID: "p", Slug: "s", HandlerID: d.HandlerID, PermissionID: d.PermissionID, Entrypoint: d.Entrypoint,
			ScriptSHA256: strings.Repeat("0", 64), Description: d.Description, Risk: d.Risk, ConfigSchema: d.ConfigSchema}
		if !ValidKey(c.Key()) || !grant.ValidPermission(d.PermissionID) || grant.Reserved(d.PermissionID) {
			t.Errorf("the candidate is %+v, want a valid key and a permission of its own", c)
		}
		stored, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var back Candidate
		if err := json.Unmarshal(stored, &back); err != nil || !sameHandler(back, c) {
			t.Errorf("%+v comes back as %+v, %v; want the same handler", c, back, err)
		}
	})
}

// source is a handler's folder with something beside handler.py.
func source(t *testing.T) *os.Root {
	t.Helper()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"handler.py": 0o644, "lib/tool": 0o755, "lib/empty/x": 0o600} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name), mode)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func folders(t *testing.T, dir string) *Folders {
	t.Helper()
	f, err := NewFolders(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.RemoveAll(dir) })
	return f
}

func staged(t *testing.T, f *Folders, root *os.Root) Trust {
	t.Helper()
	trust, err := f.stage(t.Context(), root, Trust{PackID: "p", Slug: "s"})
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

func TestOnlyWhatIsTrustedIsUsed(t *testing.T) {
	dir := testenv.TempDir(t)
	f := folders(t, dir)
	trust := staged(t, f, source(t))
	used := func() error { return f.Use(t.Context(), trust, func(string) error { return nil }) }
	if err := used(); !errors.Is(err, ErrUntrusted) {
		t.Errorf("before it is installed: %v; want ErrUntrusted", err)
	}
	if err := f.install(t.Context(), trust); err != nil {
		t.Fatal(err)
	}
	installed := filepath.Join(dir, "p", "s")
	if err := f.Use(t.Context(), trust, func(path string) error {
		if path != installed {
			t.Errorf("the copy is at %s, want %s", path, installed)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, stagedName)); len(left) != 0 {
		t.Errorf("left staged are %v, want none", left)
	}
	for _, path := range []string{"", "lib", "handler.py", "lib/tool"} {
		if info, err := os.Stat(filepath.Join(installed, path)); err != nil || info.Mode().Perm()&0o222 != 0 {
			t.Errorf("%q can be written to: %v, %v", path, info.Mode(), err)
		}
	}
	for name, spoil := range map[string]func(dir string) error{
		"content": func(d string) error {
			path := filepath.Join(d, "handler.py")
			return errors.Join(os.Chmod(path, 0o644), os.WriteFile(path, []byte("evil"), 0), os.Chmod(path, 0o444))
		},
		"addition": func(d string) error { return os.WriteFile(filepath.Join(d, "json.py"), nil, 0o444) },
		"removal":  func(d string) error { return os.Remove(filepath.Join(d, "handler.py")) },
		"mode":     func(d string) error { return os.Chmod(filepath.Join(d, "handler.py"), 0o555) },
		"link": func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, "handler.py")), os.Symlink("/etc/passwd", filepath.Join(d, "handler.py")))
		},
		"folder": func(d string) error { return os.Mkdir(filepath.Join(d, "__pycache__"), 0o555) },
	} {
		if err := errors.Join(os.Chmod(installed, 0o755), spoil(installed), os.Chmod(installed, 0o555)); err != nil {
			t.Fatal(err)
		}
		if err := used(); !errors.Is(err, ErrUntrusted) {
			t.Errorf("%s: got %v, want ErrUntrusted", name, err)
		}
		again := staged(t, f, source(t))
		if again.FolderDigest != trust.FolderDigest {
			t.Fatalf("%s: the same folder has the digest %s", name, again.FolderDigest)
		}
		if err := f.install(t.Context(), trust); err != nil {
			t.Fatalf("%s: mending: %v", name, err)
		}
		if err := used(); err != nil {
			t.Errorf("%s: mended: %v", name, err)
		}
	}
	if err := f.removePack("p"); err != nil {
		t.Fatal(err)
	}
	if err := used(); !errors.Is(err, ErrUntrusted) {
		t.Errorf("after the removal: got %v, want ErrUntrusted", err)
	}
}

func TestHandlerWithALinkIsRefused(t *testing.T) {
	root := source(t)
	if err := root.Symlink("/etc/passwd", "lib/link"); err != nil {
		t.Fatal(err)
	}
	if _, err := folders(t, t.TempDir()).stage(t.Context(), root, Trust{PackID: "p", Slug: "s"}); err == nil {
		t.Error("a link was copied, want an error")
	}
}

// committed is a store that has trust, as one is after a crash.
type committed struct {
	Store
	list []Trust
}

func (c committed) Trusts(context.Context) ([]Trust, int64, error) { return c.list, 1, nil }

type entries []audit.Entry

func (e *entries) Write(_ context.Context, entry audit.Entry) error {
	*e = append(*e, entry)
	return nil
}

// A process that dies between the commit of trust and putting the copy in place leaves a staged copy; the next one
// finishes.
func TestCrashBetweenTrustAndCopy(t *testing.T) {
	dir := t.TempDir()
	f := folders(t, dir)
	trust := staged(t, f, source(t))
	var log entries
	open := func() {
		t.Helper()
		if _, err := New(t.Context(), Config{Store: committed{list: []Trust{trust}}, Folders: folders(t, dir), Audit: &log,
			Log: slog.New(slog.DiscardHandler)}); err != nil {
			t.Fatal(err)
		}
	}
	open()
	if !f.verified(t.Context(), trust) || len(log) != 0 {
		t.Fatalf("the copy isn't finished, or logged %v; want it verified, with no entry", log)
	}
	if err := errors.Join(os.Chmod(filepath.Join(dir, "p/s"), 0o755), os.Remove(filepath.Join(dir, "p/s/handler.py"))); err != nil {
		t.Fatal(err)
	}
	open()
	if f.verified(t.Context(), trust) || len(log) != 1 || log[0].Action != "hash_mismatch" {
		t.Errorf("a damaged copy: logged %v, want one hash_mismatch", log)
	}
}

func TestStagedCopiesDoNotStayForEver(t *testing.T) {
	dir := t.TempDir()
	f := folders(t, dir)
	trust := staged(t, f, source(t))
	for _, c := range []struct {
		after time.Duration
		there bool
	}{{maxStaged / 2, true}, {2 * maxStaged, false}} {
		if err := f.sweep(time.Now().Add(c.after)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(f.staged(trust)); (err == nil) != c.there {
			t.Errorf("after %v: %v; want it there: %v", c.after, err, c.there)
		}
	}
}

func TestUnknownMembersOfDescriptors(t *testing.T) {
	const known = `"handler_id": "x", "permission_id": "a.b", "entrypoint": "handler.py:execute"`
	for text, want := range map[string][]string{
		`{` + known + `}`: nil,
		`{` + known + `, "config_schem": {}, "timeout": 3}`: {"handler.json: 'config_schem' is not known (config_schema?)", "handler.json: 'timeout' is not known"},
	} {
		d, err := parseDescriptor([]byte(text))
		if got := d.warnings(); err != nil || strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: got %q, %v, want %q", text, got, err, want)
		}
	}
	if _, err := parseDescriptor([]byte("{\n\"handler_id\": \"x\",\n}")); err == nil || err.Error() != "parse handler.json: line 2, column 18: a comma before }" {
		t.Errorf("got %v, want the line and the column", err)
	}
}
