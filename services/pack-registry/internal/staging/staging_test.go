package staging_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	libstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/store"
)

// home is a Rumi home with a staging area.
type home struct {
	dir   string
	area  *staging.Area
	store *store.Store
}

func newHome(t *testing.T, more ...string) *home {
	t.Helper()
	h := &home{dir: t.TempDir()}
	for _, dir := range []string{"ecosystem", "user_data/import", "user_data/secrets"} {
		check(t, os.MkdirAll(h.path(dir), 0o755))
	}
	db, err := libstore.Open(t.Context(), libstore.Config{Dir: h.path("user_data/state"), Service: "pack-registry"}, store.Migrations())
	check(t, err)
	t.Cleanup(func() { db.Close() })
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	auditLog, err := audit.Open(h.path("user_data/audit"), "pack-registry", log)
	check(t, err)
	t.Cleanup(func() { auditLog.Close() })
	h.store = store.New(db)
	h.area = staging.Open(h.path("user_data/pack_staging"), staging.ImportFolders{
		Home: h.dir, HomeAlias: "/home/operator/rumi", Inside: []string{"ecosystem", "user_data/import"}, Absolute: more,
	}, h.store, auditLog, log, prometheus.NewRegistry())
	t.Cleanup(func() { h.area.Close() })
	return h
}

func (h *home) path(p string) string { return filepath.Join(h.dir, p) }

func (h *home) write(t *testing.T, path, content string) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(h.path(path)), 0o755))
	check(t, os.WriteFile(h.path(path), []byte(content), 0o644))
}

// staged lists what lies in the staging area.
func (h *home) staged(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(h.path("user_data/pack_staging"))
	check(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func descriptor(id string) string {
	return `{"pack_id": "` + id + `", "pack_identity": "github:a/` + id + `", "version": "1.0"}`
}

// zipped makes an archive of names and contents in turn.
func zipped(t *testing.T, pairs ...string) string {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for i := 0; i < len(pairs); i += 2 {
		f, err := w.Create(pairs[i])
		check(t, err)
		_, err = io.WriteString(f, pairs[i+1])
		check(t, err)
	}
	check(t, w.Close())
	return out.String()
}

func TestImportPath(t *testing.T) {
	elsewhere := t.TempDir()
	h := newHome(t, elsewhere)
	h.write(t, "user_data/import/p/ecosystem.json", descriptor("p"))
	h.write(t, "user_data/import/p/backend/main.py", "print(1)")
	check(t, os.Chmod(h.path("user_data/import/p/backend/main.py"), 0o4711))
	check(t, os.Mkdir(h.path("user_data/import/p/empty"), 0o700))
	h.write(t, "user_data/import/p-main.zip", zipped(t, "p-main/backend/ecosystem.json", descriptor("p")))
	h.write(t, "user_data/import/P.RumiPack", zipped(t, "p/ecosystem.json", descriptor("p")))
	h.write(t, "ecosystem/q/ecosystem.json", descriptor("q"))
	h.write(t, "user_data/import/two/packs/a/ecosystem.json", descriptor("a"))
	h.write(t, "user_data/import/two/packs/b/ecosystem.json", descriptor("other"))
	h.write(t, "user_data/import/two/README", "not taken in")
	check(t, os.WriteFile(filepath.Join(elsewhere, "e.zip"), []byte(zipped(t, "e/ecosystem.json", descriptor("e"))), 0o644))
	check(t, os.Symlink("p-main.zip", h.path("user_data/import/latest.zip")))

	for name, c := range map[string]struct {
		path, kind string
		ids        []string
		multi      bool
		file       string // in the payload
	}{
		"folder":             {"user_data/import/p", "folder", []string{"p"}, false, "p/backend/main.py"},
		"folder, clumsily":   {"./user_data//import/../import/p/", "folder", []string{"p"}, false, "p/ecosystem.json"},
		"in the ecosystem":   {"ecosystem/q", "folder", []string{"q"}, false, "q/ecosystem.json"},
		"zip, another name":  {"user_data/import/p-main.zip", "zip", []string{"p"}, false, "p/backend/ecosystem.json"},
		"rumipack":           {"user_data/import/P.RumiPack", "rumipack", []string{"p"}, false, "p/ecosystem.json"},
		"link that stays":    {"user_data/import/latest.zip", "zip", []string{"p"}, false, "p/backend/ecosystem.json"},
		"several":            {"user_data/import/two", "folder", []string{"a", "b"}, true, "b/ecosystem.json"},
		"absolute root":      {filepath.Join(elsewhere, "e.zip"), "zip", []string{"e"}, false, "e/ecosystem.json"},
		"absolute home":      {h.path("ecosystem/q"), "folder", []string{"q"}, false, "q/ecosystem.json"},
		"the operator's way": {"/home/operator/rumi/ecosystem/q", "folder", []string{"q"}, false, "q/ecosystem.json"},
	} {
		t.Run(name, func(t *testing.T) {
			st, err := h.area.ImportPath(t.Context(), c.path, "note")
			check(t, err)
			if st.InputType != c.kind || st.Multi != c.multi || st.SourcePath != c.path || st.Notes != "note" || !reflect.DeepEqual(staging.PackIDs(st), c.ids) {
				t.Errorf("got %+v; want the type %v, several: %v, the path %q, the notes \"note\" and %v", st, c.kind, c.multi, c.path, c.ids)
			}
			kept, payload, err := h.area.FindPayload(t.Context(), st.ID)
			check(t, err)
			defer payload.Close()
			if !reflect.DeepEqual(kept, st) {
				t.Errorf("kept %+v; want %+v", kept, st)
			}
			info, err := payload.Stat(c.file)
			check(t, err)
			if info.Mode()&0o7000 != 0 || info.Mode()&0o111 != 0 != (filepath.Base(c.file) == "main.py") {
				t.Errorf("%s has mode %v; want only main.py executable, and no special bits", c.file, info.Mode())
			}
			check(t, h.area.Discard(t.Context(), st.ID))
		})
	}
	if left := h.staged(t); len(left) != 0 {
		t.Errorf("left %v; want none", left)
	}
}

func TestImportPathRefuses(t *testing.T) {
	h := newHome(t)
	h.write(t, "user_data/import/p.txt", "")
	h.write(t, "user_data/import/empty.zip", "")
	h.write(t, "user_data/import/climbs.zip", zipped(t, "../x", "", "p/ecosystem.json", descriptor("p")))
	h.write(t, "user_data/import/none/readme", "")
	h.write(t, "user_data/import/several/packs/a/ecosystem.json", descriptor("a"))
	h.write(t, "user_data/import/several/packs/b/readme", "")
	h.write(t, "user_data/import/badname/packs/a b/ecosystem.json", descriptor("a"))
	h.write(t, "user_data/import/json/ecosystem.json", "{")
	h.write(t, "user_data/import/id/ecosystem.json", descriptor("../id"))
	h.write(t, "user_data/import/twice/ecosystem.json", `{"pack_id": "a", "pack_id": "b"}`)
	h.write(t, "user_data/import/large/ecosystem.json", strings.Repeat(" ", 1<<20+1))
	check(t, os.MkdirAll(h.path("user_data/import/folder/ecosystem.json"), 0o755))
	h.write(t, "user_data/import/link/ecosystem.json", descriptor("p"))
	check(t, os.Symlink("/etc/passwd", h.path("user_data/import/link/passwd")))
	h.write(t, "user_data/import/fifo/ecosystem.json", descriptor("p"))
	check(t, syscall.Mkfifo(h.path("user_data/import/fifo/f"), 0o644))
	h.write(t, "user_data/import/name/ecosystem.json", descriptor("p"))
	h.write(t, "user_data/import/name/a\x1bb", "")
	h.write(t, "user_data/import/many/ecosystem.json", descriptor("p"))
	for i := range 2000 {
		h.write(t, "user_data/import/many/"+strconv.Itoa(i), "")
	}
	check(t, os.Mkdir(h.path("user_data/import/many/.git"), 0o755))
	h.write(t, "user_data/import/case/Ecosystem.json", descriptor("p"))
	h.write(t, "user_data/import/txt/ecosystem.json.txt", descriptor("p"))
	h.write(t, "user_data/import/Back/Backend/ecosystem.json", descriptor("p"))
	h.write(t, "user_data/import/deeper/p/backend/ecosystem.json", descriptor("p"))
	h.write(t, "user_data/import/core/a/ecosystem.json", descriptor("a"))
	h.write(t, "user_data/import/core/b/ecosystem.json", descriptor("b"))
	h.write(t, "user_data/import/comma/backend/ecosystem.json", "{\n  \"pack_id\": \"comma\",\n}")
	h.write(t, "user_data/import/utf16/ecosystem.json", "\xff\xfe{\x00}\x00")
	h.write(t, "user_data/import/huge/ecosystem.json", descriptor("p"))
	h.write(t, "user_data/import/huge/x", "")
	check(t, os.Truncate(h.path("user_data/import/huge/x"), 500<<20))
	check(t, os.Symlink("/etc", h.path("user_data/import/out")))
	check(t, syscall.Mkfifo(h.path("user_data/import/pipe.zip"), 0o644))
	h.write(t, "user_data/secrets/s.zip", zipped(t, "p/ecosystem.json", descriptor("p")))

	const within = "Path must be within ecosystem, user_data/import"
	for path, want := range map[string]string{
		"":                                             "Missing 'path'",
		".":                                            within,
		"ecosystem":                                    within,
		"user_data/import":                             within,
		"user_data/import/":                            within,
		"user_data/secrets/s.zip":                      within,
		"user_data/import/../secrets":                  within,
		"../x":                                         within,
		"ecosystem/../../x":                            within,
		"/etc/passwd":                                  within + ": copy it to user_data/import and name it \"user_data/import/passwd\", or upload an archive (curl -F file=@passwd)",
		"/":                                            within,
		"ecosystemx/p":                                 within,
		"user_data/import/a\x00b":                      within,
		"user_data/import/out/passwd":                  within,
		"user_data/import/nothing":                     "Source not found: user_data/import/nothing",
		"user_data/import/p.txt":                       "Unsupported input: user_data/import/p.txt (want a folder, .zip or .rumipack)",
		"user_data/import/pipe.zip":                    "Unsupported input: user_data/import/pipe.zip",
		"user_data/import/empty.zip":                   "Not a valid zip archive: user_data/import/empty.zip",
		"user_data/import/climbs.zip":                  "Path traversal detected in archive: ../x",
		"user_data/import/none":                        "No ecosystem.json found in payload none: it must lie in that folder, or in its folder backend",
		"user_data/import/several":                     "No ecosystem.json found in payload packs/b",
		"user_data/import/badname":                     "Invalid pack_id: the folder 'packs/a b' must be named by the pack_id of its pack",
		"user_data/import/json":                        "Invalid ecosystem.json in payload json: line 1, column 2: it ends too early",
		"user_data/import/id":                          "Invalid ecosystem.json in payload id",
		"user_data/import/twice":                       "Invalid ecosystem.json in payload twice: line 1, column 18: a name stands twice in one object",
		"user_data/import/large":                       "Invalid ecosystem.json in payload large",
		"user_data/import/folder":                      "Invalid ecosystem.json in payload folder",
		"user_data/import/link":                        "Symbolic link in archive rejected: passwd",
		"user_data/import/fifo":                        "Special file in archive rejected: f",
		"user_data/import/name":                        "Source refused",
		"user_data/import/many":                        "Archive contains too many files: 2001 > 2000 (in the folder user_data/import/many; its .git counts, too. Import an archive without it: ",
		"user_data/import/huge":                        "Archive is too large: ",
		"user_data/import/case":                        "No ecosystem.json found in payload case: it has 'Ecosystem.json'; rename that to ecosystem.json",
		"user_data/import/txt":                         "No ecosystem.json found in payload txt: it has 'ecosystem.json.txt'; rename that to ecosystem.json",
		"user_data/import/Back":                        "No ecosystem.json found in payload Back: its folder 'Backend' must be called backend",
		"user_data/import/deeper":                      "No ecosystem.json found in payload deeper: the pack lies one folder deeper, in 'p'. Import that folder",
		"user_data/import/core":                        "No ecosystem.json found in payload core: 2 folders in it are packs: 'a', 'b'. Move them into a folder core/packs, or import each by itself",
		"user_data/import/comma":                       "Invalid backend/ecosystem.json in payload comma: line 2, column 21: a comma before }",
		"user_data/import/utf16":                       "Invalid ecosystem.json in payload utf16: it is in UTF-16 (little endian); save it as UTF-8",
		"user_data/import/a\u200bb":                    "Source not found: user_data/import/a\\u200bb",
		"user_data/import/" + strings.Repeat("x", 300): within,
	} {
		t.Run(path, func(t *testing.T) {
			_, err := h.area.ImportPath(t.Context(), path, "")
			if f := fault.Of(err); err == nil || f.Kind != fault.KindInvalid || !strings.HasPrefix(f.Message, want) {
				t.Errorf("got %v\nwant %s", err, want)
			}
			if left := h.staged(t); len(left) != 0 {
				t.Errorf("left %v; want none", left)
			}
		})
	}
	if _, err := h.area.ImportPath(t.Context(), "x", strings.Repeat("n", 4097)); fault.Of(err).Kind != fault.KindInvalid {
		t.Errorf("long notes: %v; want that it is invalid", err)
	}
}

func TestImportUpload(t *testing.T) {
	h := newHome(t)
	notes := func() (string, error) { return "from afar", nil }
	st, err := h.area.ImportUpload(t.Context(), "p.zip", strings.NewReader(zipped(t, "x/ecosystem.json", descriptor("p"))), notes)
	check(t, err)
	if st.Notes != "from afar" || st.SourcePath != "p.zip" || st.InputType != "zip" {
		t.Errorf("got %+v; want notes \"from afar\", source path p.zip, input type zip", st)
	}
	entries, err := os.ReadDir(h.path("user_data/pack_staging/" + st.ID))
	if err != nil || len(entries) != 1 || entries[0].Name() != staging.Payload {
		t.Errorf("the staging holds %v, %v; want %s alone", entries, err, staging.Payload)
	}
	check(t, h.area.Discard(t.Context(), st.ID))

	// Of a large one a part is cut off already when its last bytes turn out to be wrong.
	large := zipped(t, "x/ecosystem.json", descriptor("p"), "x/a", noise(6<<20), "x/b", noise(6<<20))
	st, err = h.area.ImportUpload(t.Context(), "p.zip", strings.NewReader(large), notes)
	check(t, err)
	check(t, h.area.Discard(t.Context(), st.ID))
	spoilt := []byte(large)
	spoilt[3<<20]++

	broken := errors.New("connection lost")
	for name, c := range map[string]struct {
		filename string
		content  io.Reader
		kind     fault.Kind
	}{
		"kind":    {"p.tar", strings.NewReader(""), fault.KindInvalid},
		"no name": {"", strings.NewReader(""), fault.KindInvalid},
		"content": {"p.zip", strings.NewReader("no zip"), fault.KindInvalid},
		"lost":    {"p.zip", io.MultiReader(strings.NewReader("PK"), failing{broken}), fault.KindInternal},
		"spoilt":  {"p.zip", bytes.NewReader(spoilt), fault.KindInvalid},
		"large":   {"p.zip", endless{}, fault.KindTooLarge},
	} {
		if _, err := h.area.ImportUpload(t.Context(), c.filename, c.content, notes); err == nil || fault.Of(err).Kind != c.kind {
			t.Errorf("%s: %v; want the kind %v", name, err, c.kind)
		}
		if left := h.staged(t); len(left) != 0 {
			t.Errorf("%s: left %v; want none", name, left)
		}
	}
}

// noise doesn't compress.
func noise(size int) string {
	data := make([]byte, size)
	rand.Read(data)
	return string(data)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestSweep(t *testing.T) {
	h := newHome(t)
	h.write(t, "user_data/import/p/ecosystem.json", descriptor("p"))
	current, err := h.area.ImportPath(t.Context(), "user_data/import/p", "")
	check(t, err)
	expired := staging.Staging{ID: "00000000000000ee", CreatedAt: time.Now().Add(-staging.Lifetime - time.Hour)}
	check(t, h.store.AddStaging(t.Context(), expired))
	long := time.Now().Add(-2 * time.Hour)
	for _, name := range []string{expired.ID, "00000000000000ff", ".importing-00000000000000dd", ".importing-00000000000000cc", "0000000000000aaa"} {
		h.write(t, "user_data/pack_staging/"+name+"/payload/x", "")
		if name != "0000000000000aaa" { // an import that has just ended and has no record yet
			check(t, os.Chtimes(h.path("user_data/pack_staging/"+name), long, long))
		}
	}
	held, err := os.Open(h.path("user_data/pack_staging/.importing-00000000000000cc"))
	check(t, err)
	defer held.Close()
	check(t, syscall.Flock(int(held.Fd()), syscall.LOCK_EX))

	if _, _, err := h.area.FindPayload(t.Context(), expired.ID); fault.Of(err).Message != "Staging not found: "+expired.ID {
		t.Errorf("an expired staging is found before it is swept: %v; want %q", err, "Staging not found: "+expired.ID)
	}
	check(t, h.area.Sweep(t.Context()))
	want := []string{".importing-00000000000000cc", "0000000000000aaa", current.ID}
	got := h.staged(t)
	if len(got) != len(want) || !strings.Contains(strings.Join(got, " "), current.ID) || got[0] != want[0] {
		t.Errorf("left %v, want %v", got, want)
	}
}

// A staging is there for 24 hours, and then it is not; its files go with one of the next sweeps.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHome(t)
		h.write(t, "user_data/import/p/ecosystem.json", descriptor("p"))
		ctx, cancel := context.WithCancel(t.Context())
		swept := make(chan error)
		go func() { swept <- h.area.SweepHourly(ctx) }()
		st, err := h.area.ImportPath(ctx, "user_data/import/p", "")
		check(t, err)
		time.Sleep(time.Hour)
		later, err := h.area.ImportPath(ctx, "user_data/import/p", "")
		check(t, err)
		expect := func(after string, ids ...string) {
			t.Helper()
			synctest.Wait()
			all, err := h.area.List(ctx)
			check(t, err)
			var got []string
			for _, one := range all {
				got = append(got, one.ID)
			}
			if !slices.Equal(got, ids) {
				t.Errorf("%s: %v, want %v", after, got, ids)
			}
			for _, one := range []string{st.ID, later.ID} {
				_, payload, err := h.area.FindPayload(ctx, one)
				if err == nil {
					payload.Close()
				}
				if slices.Contains(ids, one) != (err == nil) {
					t.Errorf("%s: find %s: %v; want it found: %v", after, one, err, slices.Contains(ids, one))
				}
			}
		}
		expect("after an hour", later.ID, st.ID)
		time.Sleep(staging.Lifetime - time.Hour)
		expect("after 24 hours", later.ID, st.ID)
		time.Sleep(time.Microsecond)
		expect("a microsecond later", later.ID)
		if left := h.staged(t); len(left) != 2 { // an apply may have found it in time
			t.Errorf("left %v; want 2", left)
		}
		time.Sleep(time.Hour)
		expect("after 25 hours")
		if left := h.staged(t); len(left) != 1 || left[0] != later.ID {
			t.Errorf("left %v; want %s alone", left, later.ID)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if left := h.staged(t); len(left) != 0 {
			t.Errorf("left %v; want none", left)
		}
		cancel()
		check(t, <-swept)
	})
}

func TestList(t *testing.T) {
	h := newHome(t)
	if all, err := h.area.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("none: %+v, %v; want none", all, err)
	}
	h.write(t, "user_data/import/p/ecosystem.json", descriptor("p"))
	h.write(t, "user_data/import/p/a/b", "123")
	st, err := h.area.ImportPath(t.Context(), "user_data/import/p", "")
	check(t, err)
	gone, err := h.area.ImportPath(t.Context(), "user_data/import/p", "")
	check(t, err)
	check(t, os.RemoveAll(h.path("user_data/pack_staging/"+gone.ID)))
	all, err := h.area.List(t.Context())
	check(t, err)
	if want := []staging.Listed{{Staging: st, Files: 2, Bytes: int64(len(descriptor("p")) + 3)}}; !reflect.DeepEqual(all, want) {
		t.Errorf("got %+v, want %+v", all, want)
	}
}

func TestParseID(t *testing.T) {
	for _, bad := range []string{"", "abc123", "0123456789abcdeF", "0123456789abcde\n", "0123456789abcdef0", "../../../../../x", "0123456789abcd/f"} {
		if _, err := staging.ParseID(bad); fault.Of(err).Message != "Invalid staging_id (16 hex digits, as import answers)" {
			t.Errorf("ParseID(%q): %v; want \"Invalid staging_id (16 hex digits, as import answers)\"", bad, err)
		}
	}
	if id, err := staging.ParseID("0123456789abcdef"); err != nil || id != "0123456789abcdef" {
		t.Errorf("ParseID gives %q, %v; want 0123456789abcdef", id, err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
