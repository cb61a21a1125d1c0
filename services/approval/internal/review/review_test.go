package review_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	api "github.com/rumi-ai/rumi/api/review"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/approval/internal/review"
)

// memory is a tree.Sink, which is given several files at once, and serves what it was given.
type memory struct{ blobs sync.Map } // content by hash

type blob struct {
	bytes.Buffer
	to *memory
}

func (m *memory) Create(int64) (tree.Blob, error) { return &blob{to: m}, nil }
func (b *blob) Commit(sha256 string) error        { b.to.blobs.Store(sha256, b.Bytes()); return nil }
func (b *blob) Discard()                          {}

func (m *memory) open(sha256 string) (io.ReadCloser, error) {
	content, _ := m.blobs.Load(sha256)
	return io.NopCloser(bytes.NewReader(content.([]byte))), nil
}

func scan(t testing.TB, m *memory, files map[string]string) tree.Manifest {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	manifest, err := tree.Scan(t.Context(), root, m)
	if err != nil {
		t.Fatal(err)
	}
	return manifest
}

const handler = "backend/share/capability_handlers/fs_read/"

func TestWhatChangedAndWhatIsAskedFor(t *testing.T) {
	m := &memory{}
	old := scan(t, m, map[string]string{
		"backend/ecosystem.json":    `{"pack_id":"p","pack_identity":"i","required_secrets":["A"],"required_network":{"allowed_domains":["a.test"],"allowed_ports":[443]}}`,
		"backend/main.py":           "one\ntwo\nthree\n",
		"backend/requirements.lock": "# lock\nidna==3.10\n",
		"gone.txt":                  "x",
		"image.bin":                 "\x00\x01",
	})
	now := scan(t, m, map[string]string{
		"backend/ecosystem.json":    `{"pack_id":"p","pack_identity":"i","required_secrets":["A","B"],"required_network":{"allowed_domains":["a.test","b.test"],"allowed_ports":[443,80]}}`,
		"backend/main.py":           "one\n2\nthree\n",
		"backend/requirements.lock": "# lock\nidna==3.10\nurllib3==2.0\n",
		"backend/permissions.json":  `{"network":true}`,
		handler + "handler.json":    `{"handler_id":"h","permission_id":"fs.read","entrypoint":"handler.py:execute","risk":"high"}`,
		handler + "handler.py":      "def execute(context, args): pass\n",
		"image.bin":                 "\x00\x02",
	})
	r, err := review.Of(review.Input{Now: now, Approved: &old, Open: m.open})
	if err != nil {
		t.Fatal(err)
	}
	if r.Digest != now.Digest() || *r.ApprovedDigest != old.Digest() {
		t.Errorf("the digests are %s and %s, want %s and %s", r.Digest, *r.ApprovedDigest, now.Digest(), old.Digest())
	}
	asked := r.NewRequests
	if !slices.Equal(asked.Secrets, []string{"B"}) || !slices.Equal(asked.Domains, []string{"b.test"}) || !slices.Equal(asked.Ports, []uint16{80}) ||
		!slices.Equal(asked.Packages, []string{"urllib3==2.0"}) || len(asked.Handlers) != 1 || asked.Handlers[0].Slug != "fs_read" ||
		asked.Handlers[0].PermissionID != "fs.read" || len(asked.Handlers[0].SHA256) != 64 || string(asked.Permissions) != `{"network":true}` {
		t.Errorf("the new requests are %+v, want those that only the new version has", asked)
	}
	if len(r.Requests.Secrets) != 2 || len(r.Requests.Packages) != 2 {
		t.Errorf("requests %+v; want 2 secrets, 2 packages", r.Requests)
	}
	if len(r.Removed) != 1 || r.Removed[0].Path != "gone.txt" {
		t.Errorf("removed %v, want gone.txt", r.Removed)
	}
	added := map[string]review.Addition{}
	for _, a := range r.Added {
		added[a.Path] = a
	}
	if _, ok := added["backend/share"]; !ok {
		t.Errorf("added %v, want backend/share among them", r.Added)
	}
	if a := added[handler+"handler.py"]; a.Diff == nil || *a.Diff != "--- /dev/null\n+++ now/"+handler+"handler.py\n@@ -0,0 +1 @@\n+def execute(context, args): pass\n" {
		t.Errorf("added handler.py %+v, want its text", a)
	}
	changed := map[string]review.Change{}
	for _, c := range r.Changed {
		changed[c.Path] = c
	}
	if c := changed["backend/main.py"]; c.Diff == nil || c.DiffState != api.DiffShown || !strings.Contains(*c.Diff, "-two\n+2\n") {
		t.Errorf("diff of main.py %+v, want the changed line", c)
	}
	if c, ok := changed["image.bin"]; !ok || c.Diff != nil || c.DiffState != api.DiffBinary {
		t.Errorf("image.bin %+v, want it binary and without a diff", c)
	}
}

// A diff is read line by line, so that a name must not make up lines of its own.
func TestNamesInDiffs(t *testing.T) {
	m := &memory{}
	const name = "a\n+++ now/b\x1b[2K.py"
	old, now := scan(t, m, map[string]string{name: "1\n"}), scan(t, m, map[string]string{name: "2\n"})
	r, err := review.Of(review.Input{Now: now, Approved: &old, Open: m.open})
	if err != nil || len(r.Changed) != 1 {
		t.Fatalf("the review is %+v, %v; want one file changed", r, err)
	}
	const want = `--- "approved/a\n+++ now/b\x1b[2K.py"` + "\n" + `+++ "now/a\n+++ now/b\x1b[2K.py"` + "\n@@ -1 +1 @@\n-1\n+2\n"
	if got := *r.Changed[0].Diff; got != want {
		t.Errorf("diff\n%s\nwant\n%s", got, want)
	}
}

// A first review compares with nothing, so everything is new, and its text is there.
func TestFirstReviewListsEveryFile(t *testing.T) {
	m := &memory{}
	r, err := review.Of(review.Input{Now: scan(t, m, map[string]string{"ecosystem.json": `{"pack_id":"p","required_secrets":["A"]}`, "sub/a.py": "x = 1\n", "b.bin": "\x00"}), Open: m.open})
	if err != nil || r.ApprovedDigest != nil || len(r.Changed)+len(r.Removed) != 0 || !slices.Equal(r.NewRequests.Secrets, []string{"A"}) {
		t.Errorf("the review is %+v, %v; want nothing changed or removed, and the secret A newly asked for", r, err)
	}
	var listed []string
	for _, f := range r.Files {
		listed = append(listed, f.Path+" "+string(f.Content)+" "+f.Change)
	}
	want := []string{".  added", "b.bin binary added", "ecosystem.json text added", "sub  added", "sub/a.py text added"}
	if !slices.Equal(listed, want) {
		t.Errorf("files %q, want %q", listed, want)
	}
	i := slices.IndexFunc(r.Added, func(a review.Addition) bool { return a.Path == "sub/a.py" })
	if i < 0 || r.Added[i].Diff == nil || !strings.HasSuffix(*r.Added[i].Diff, "+x = 1\n") {
		t.Errorf("added %+v, want the text of sub/a.py", r.Added)
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct {
		name, text string
		kind       string // "" for no warning
	}{
		{"main.py", "print('hello')\n", ""},
		{"日本語.py", "print('こんにちは')\n", ""},
		{"bom.py", "\ufeffx = 1\n", ""},
		{"data.bin", "a\x00b", "binary"},
		{"latin1.txt", "caf\xe9", "binary"},
		{"m.cpython-311.pyc", "text", "bytecode"},
		{"native.SO", "text", "bytecode"},
		{".git/config", "text", "hidden"},
		{"run.sh", "text", "executable"},
		{"long.py", strings.Repeat("x", 2001), "long_line"},
		{"bidi.py", "a\n# \u202e evil", "bidirectional"},
		{"both.py", "ok = '\u2714\ufe0f'\n# \u202e evil", "bidirectional"},
		{"zero.py", "a\u200bb", "invisible"},
		{"tag.py", "a\U000e0041b", "invisible"},
		{"fill.py", "a\u3164b", "invisible"},
		{"na\u200bme.py", "text", "invisible"},
		{"clear.py", "evil() \x1b[2K\rgood()\n", "control"}, // what a terminal shows of it is the second half
		{"return.py", "evil()\rgood()\n", "control"},
		{"dos.py", "x = 1\r\ny = 2\r\n", ""},
		{"tab.py", "\tx\f\n", ""},
		{"csi.py", "a\u009b2Kb\n", "control"},
		{"lines.py", "a\u2028b\n", "invisible"},
		{"na\x1b[2Kme.py", "text", "control"},
		{"new\nline.py", "text", "control"},
		{"ta\tb.py", "text", "control"},
		{"pаypal.py", "text", "look_alike"}, // Cyrillic а
		{"a\U000e0100.py", "text", "invisible"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &memory{}
			r, err := review.Of(review.Input{Now: scan(t, m, map[string]string{c.name: c.text}), Open: m.open})
			if err != nil {
				t.Fatal(err)
			}
			var kinds []string
			for _, w := range r.Warnings {
				kinds = append(kinds, w.Kind)
			}
			if c.kind == "" && len(kinds) != 0 || c.kind != "" && !slices.Contains(kinds, c.kind) {
				t.Errorf("warned of %v, want %q", kinds, c.kind)
			}
		})
	}
	t.Run("names that look alike", func(t *testing.T) {
		for _, pair := range [][2]string{{"util.py", "utiI.py"}, {"model.py", "mode1.py"}, {"A.py", "a.py"}, {"com.py", "corn.py"}, {"é.py", "e\u0301.py"}} {
			m := &memory{}
			r, err := review.Of(review.Input{Now: scan(t, m, map[string]string{pair[0]: "x", pair[1]: "x"}), Open: m.open})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(r.Warnings, func(w review.Warning) bool { return w.Kind == "look_alike" && strings.Contains(w.Detail, "looks like") }) {
				t.Errorf("%q: the warnings are %+v, want one of look_alike", pair, r.Warnings)
			}
		}
	})
}
