package pack_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/pack/packtest"
)

// Whatever stands where the packs of the old place are expected keeps nobody from the others. Where nobody can say whether it holds
// packs, that is told; nothing hangs.
func TestLegacyFolderIsNoFolder(t *testing.T) {
	for _, name := range packtest.Names() {
		t.Run(name, func(t *testing.T) {
			dir := readable(t)
			write(t, dir, "good/ecosystem.json", `{"pack_id": "good", "pack_identity": "i"}`)
			packtest.Obstacles[name](t, filepath.Join(dir, pack.LegacyDir))
			root := open(t, dir)
			wantUnread := name == "dead mount" || packtest.NeedsRights(name)
			within(t, func() {
				packtest.AsNobody(t, func() {
					var cache pack.Cache
					for _, list := range []func(*os.Root) ([]pack.Found, []pack.UnreadableDir){pack.Installed, cache.Installed} {
						all, unread := list(root)
						if len(all) != 1 || all[0].ID != "good" || all[0].Err != nil {
							t.Errorf("installed are %+v, want good", all)
						}
						if wantUnread != (len(unread) == 1 && unread[0].Path == pack.LegacyDir) {
							t.Errorf("unread is %v; want %s alone: %v", unread, pack.LegacyDir, wantUnread)
						}
					}
					for _, find := range []func(*os.Root, pack.ID) (pack.Found, error){pack.Find, cache.Find} {
						if found, err := find(root, "good"); err != nil || found.Err != nil {
							t.Errorf("Find(good) = %+v, %v; want it without an error", found, err)
						}
						for _, none := range []pack.ID{"somewhere", "missing"} {
							found, err := find(root, none)
							if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, pack.ErrUnreadable) != wantUnread {
								t.Errorf("Find(%s) = %+v, %v, want fs.ErrNotExist, unread %v", none, found, err, wantUnread)
							}
						}
					}
					ids, unread := pack.PossibleIDs(root)
					if !slices.Contains(ids, "good") || wantUnread != (len(unread) == 1) {
						t.Errorf("names are %v, unread %v; want good among them, and one unread: %v", ids, unread, wantUnread)
					}
				})
			})
			if ignored, _ := pack.ListIgnored(root); !wantUnread != slices.ContainsFunc(ignored, func(i pack.Ignored) bool { return i.Path == pack.LegacyDir }) {
				t.Errorf("the ignored are %v, want %s among them: %v", ignored, pack.LegacyDir, wantUnread)
			}
		})
	}
}

// In an ecosystem folder full of odd entries every pack that can't be used has its own error, what is no pack has a reason, and the
// others are found.
func TestOddEntries(t *testing.T) {
	dir := readable(t)
	write(t, dir, "good/ecosystem.json", `{"pack_id": "good", "pack_identity": "i"}`)
	odd := packtest.Fill(t, dir)
	root := open(t, dir)
	var broken, ignored []string
	within(t, func() {
		packtest.AsNobody(t, func() {
			all, unread := pack.Installed(root)
			if len(unread) != 0 {
				t.Errorf("unread is %v; want none", unread)
			}
			for _, found := range all {
				again, err := pack.Find(root, found.ID)
				if err != nil || (again.Err == nil) != (found.Err == nil) {
					t.Errorf("Find(%s) = %+v, %v; want it with the error %v", found.ID, again, err, found.Err)
				}
				if found.Err != nil {
					broken = append(broken, string(found.ID))
				} else if found.ID != "good" {
					t.Errorf("%s is a pack; want good alone", found.ID)
				}
			}
			listed, more := pack.ListIgnored(root)
			for _, entry := range listed {
				if entry.Reason == "" {
					t.Errorf("%s is ignored without a reason; want a reason", entry.Path)
				}
				ignored = append(ignored, entry.Path)
			}
			if more != 0 {
				t.Errorf("%d more are ignored; want 0", more)
			}
		})
	})
	slices.Sort(ignored)
	if !slices.Equal(broken, odd.Broken) {
		t.Errorf("broken are %v\nwant %v", broken, odd.Broken)
	}
	if !slices.Equal(ignored, odd.Ignored) {
		t.Errorf("ignored are %v\nwant %v", ignored, odd.Ignored)
	}
}

// The reasons say what to do.
func TestReasonsOfIgnoredEntries(t *testing.T) {
	dir := t.TempDir()
	packtest.Fill(t, dir)
	ignored, _ := pack.ListIgnored(open(t, dir))
	reasons := map[string]string{}
	for _, entry := range ignored {
		reasons[entry.Path] = entry.Reason
	}
	for path, want := range map[string]string{
		"odd name":       "pack_id",
		"odd_nested":     `Move "odd_nested/odd_nested" to the ecosystem folder`,
		"odd_case":       `"Ecosystem.json"; rename it to ecosystem.json`,
		"odd_backend":    `"Backend" must be called backend`,
		"odd_link":       "links are never followed",
		"odd_empty":      "no ecosystem.json",
		"ecosystem.json": "pack_id",
	} {
		if !strings.Contains(reasons[path], want) {
			t.Errorf("%s: %q, want %q in it", path, reasons[path], want)
		}
	}
}

// However many entries are no packs, the list of them is bounded and says how many there are.
func TestIgnoredEntriesAreBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range pack.MaxIgnored + 7 {
		if err := os.Mkdir(filepath.Join(dir, "no pack "+strings.Repeat("x", i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if ignored, more := pack.ListIgnored(open(t, dir)); len(ignored) != pack.MaxIgnored || more != 7 {
		t.Errorf("listed are %d and %d more, want %d and 7", len(ignored), more, pack.MaxIgnored)
	}
}

// An ecosystem folder that can't be read is told as such, and no pack is taken for missing or for installed because of it.
func TestEcosystemThatCannotBeRead(t *testing.T) {
	for name, mode := range map[string]os.FileMode{"closed": 0, "not searchable": 0o444, "not listable": 0o111} {
		t.Run(name, func(t *testing.T) {
			dir := readable(t)
			write(t, dir, "good/ecosystem.json", `{"pack_id": "good", "pack_identity": "i"}`)
			root := open(t, dir)
			if err := os.Chmod(dir, mode); err != nil {
				t.Fatal(err)
			}
			packtest.AsNobody(t, func() {
				if all, unread := pack.Installed(root); len(all) != 0 || len(unread) == 0 || unread[0].Path != "." {
					t.Errorf("installed are %v, unread %v; want none installed, and the folder itself unread", all, unread)
				}
				if _, err := pack.Find(root, "missing"); !errors.Is(err, pack.ErrUnreadable) {
					t.Errorf("Find(missing): %v, want ErrUnread", err)
				}
			})
		})
	}
}

// readable is a folder in which everybody may look, as ecosystem/ is.
func readable(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
	return dir
}

// within fails a test whose reader hangs.
func within(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it hangs")
	}
}
