package staging_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
)

// TestImportWarns has imports that do something else than what may have been meant: it is told, and still told when the staging is
// looked at later.
func TestImportWarns(t *testing.T) {
	h := newHome(t)
	ecosystem := []string{
		"eco/default/ecosystem.json", descriptor("default"), "eco/lib/backend/ecosystem.json", descriptor("lib"),
		"eco/packs/example/ecosystem.json", strings.TrimSuffix(descriptor("example"), "}") + `, "entrypoint": "main.py", "restrat": "always"}`,
		"eco/README", "", "eco/.git/config", "",
	}
	h.write(t, "user_data/import/eco.zip", zipped(t, ecosystem...))
	finder, err := os.ReadFile("../archive/testdata/writers/finder.zip")
	check(t, err)
	h.write(t, "user_data/import/finder.zip", string(finder))
	for path, want := range map[string]struct{ staging, pack []string }{
		"user_data/import/eco.zip": {
			[]string{"left out: 2 packs beside packs/: 'default', 'lib'. Move them into packs/, or import each by itself", "left out: what lies beside packs/ and is no pack: '.git', 'README'"},
			[]string{"ecosystem.json: 'restrat' is not known (restart?)", "entrypoint main.py is not in the pack"},
		},
		"user_data/import/finder.zip": {
			[]string{"__MACOSX/ is left out: 2 files that macOS adds to archives; no pack needs them"},
			[]string{"no entrypoint: a container of it will idle"},
		},
	} {
		st, err := h.area.ImportPath(t.Context(), path, "")
		check(t, err)
		kept, payload, err := h.area.FindPayload(t.Context(), st.ID)
		check(t, err)
		payload.Close()
		for when, got := range map[string]struct{ staging, pack []string }{"import": {st.Warnings, st.Packs[0].Warnings}, "later": {kept.Warnings, kept.Packs[0].Warnings}} {
			if !slices.Equal(got.staging, want.staging) || !slices.Equal(got.pack, want.pack) {
				t.Errorf("%s, %s:\ngot  %q %q\nwant %q %q", path, when, got.staging, got.pack, want.staging, want.pack)
			}
		}
	}
}

// A zip archive is known by its content where its name doesn't tell.
func TestImportSniffs(t *testing.T) {
	h := newHome(t)
	data := zipped(t, "p/ecosystem.json", descriptor("p"))
	notes := func() (string, error) { return "", nil }
	for _, name := range []string{"zipball", "main", "", "p-1.0", "x.PACK"} {
		st, err := h.area.ImportUpload(t.Context(), name, strings.NewReader(data), notes)
		if err != nil || st.InputType != staging.Zip {
			t.Errorf("upload called %q: got %+v, %v; want input type zip", name, st, err)
		}
		if name == "" {
			continue
		}
		h.write(t, "user_data/import/"+name, data)
		if st, err := h.area.ImportPath(t.Context(), "user_data/import/"+name, ""); err != nil || st.InputType != staging.Zip {
			t.Errorf("path to %q: got %+v, %v; want input type zip", name, st, err)
		}
	}
	for name, want := range map[string]string{
		"backup.tgz": "Unsupported input: backup.tgz (want a folder, .zip or .rumipack)",
		"":           "Unsupported input: a file without a name that is no zip archive (want a folder, .zip or .rumipack)",
	} {
		if _, err := h.area.ImportUpload(t.Context(), name, strings.NewReader("\x1f\x8b"), notes); err == nil || fault.Of(err).Message != want {
			t.Errorf("upload called %q: got %v, want %s", name, err, want)
		}
	}
}

// What can't be read is named as the operator named it, with the command that mends it.
func TestImportNamesWhatCannotBeRead(t *testing.T) {
	h := newHome(t)
	h.write(t, "user_data/import/deep/ecosystem.json", descriptor("deep"))
	h.write(t, "user_data/import/deep/a/b.key", "")
	check(t, os.Chmod(h.path("user_data/import/deep/a/b.key"), 0))
	asNobody(t, h.dir)
	_, err := h.area.ImportPath(t.Context(), "user_data/import/deep", "")
	if want := "Source can't be read: user_data/import/deep/a/b.key (permission denied;"; err == nil || !strings.HasPrefix(fault.Of(err).Message, want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// asNobody lets the test's thread read files as a user that is not root, who reads everything; dir is made that user's.
func asNobody(t *testing.T, dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		return
	}
	const nobody = 65534
	check(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, nobody, nobody))
	}))
	for up := filepath.Dir(dir); strings.HasPrefix(up, filepath.Clean(os.TempDir())+"/"); up = filepath.Dir(up) {
		check(t, os.Chmod(up, 0o755))
	}
	runtime.LockOSThread()
	check(t, syscall.Setfsuid(nobody))
	t.Cleanup(func() {
		check(t, syscall.Setfsuid(0))
		runtime.UnlockOSThread()
	})
}

// What a killed import has left goes at once, however young; what an import is at stays.
func TestKilledImportsAreClearedAtOnce(t *testing.T) {
	h := newHome(t)
	h.write(t, "user_data/pack_staging/.importing-00000000000000aa/upload", "left by one that was killed")
	h.write(t, "user_data/pack_staging/.importing-00000000000000bb/upload", "of one that another process is at")
	held, err := os.Open(h.path("user_data/pack_staging/.importing-00000000000000bb"))
	check(t, err)
	defer held.Close()
	check(t, syscall.Flock(int(held.Fd()), syscall.LOCK_EX))
	h.write(t, "user_data/import/p/ecosystem.json", descriptor("p"))
	st, err := h.area.ImportPath(t.Context(), "user_data/import/p", "")
	check(t, err)
	if got, want := h.staged(t), []string{".importing-00000000000000bb", st.ID}; !slices.Equal(got, want) {
		t.Errorf("after an import: got %v, want %v", got, want)
	}
	check(t, held.Close())
	check(t, h.area.Sweep(t.Context()))
	if got, want := h.staged(t), []string{st.ID}; !slices.Equal(got, want) {
		t.Errorf("after a sweep: got %v, want %v", got, want)
	}
}

// full is content that the disk has no space for.
type full struct{}

func (full) Read([]byte) (int, error) { return 0, errors.Join(errors.New("write"), syscall.ENOSPC) }

func TestFullDiskSaysWhatTakesRoom(t *testing.T) {
	h := newHome(t)
	upload := func() string {
		_, err := h.area.ImportUpload(t.Context(), "p.zip", full{}, func() (string, error) { return "", nil })
		if f := fault.Of(err); err == nil || f.Kind != fault.KindUnavailable || f.Code != "no_space" {
			t.Fatalf("got %v, want no_space", err)
		}
		return fault.Of(err).Message
	}
	if got, want := upload(), "No space left for imports: no staging takes any; make room on the disk of user_data/pack_staging"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	h.write(t, "user_data/import/p/ecosystem.json", descriptor("p"))
	h.write(t, "user_data/import/p/large", strings.Repeat("x", 3<<20))
	_, err := h.area.ImportPath(t.Context(), "user_data/import/p", "")
	check(t, err)
	if got, want := upload(), "No space left for imports: 1 stagings take 4 MiB. See GET /api/packs/staging, and DELETE /api/packs/staging/STAGING_ID those that aren't needed"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
