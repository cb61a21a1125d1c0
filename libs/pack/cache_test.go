package pack_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
)

// Whatever is done to an ecosystem folder, a Cache finds what Find and Installed do. Each step is taken with descriptors that
// changed just now and with those that have rested, which are remembered.
func TestACacheFindsWhatIsThere(t *testing.T) {
	for name, rest := range map[string]time.Duration{"at once": 0, "after a rest": 60 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			var cache pack.Cache
			write := func(path, text string) {
				t.Helper()
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			move := func(from, to string) {
				t.Helper()
				if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
					t.Fatal(err)
				}
			}
			descriptor := func(version string) string {
				return `{"pack_id": "p", "pack_identity": "github:a/p", "version": "` + version + `"}`
			}
			for i, step := range []func(){
				func() {},
				func() { write("packs/p/backend/ecosystem.json", descriptor("1")) },
				func() { write("packs/p/backend/ecosystem.json", descriptor("2")) }, // of the same size
				func() { write("packs/p/ecosystem.json", descriptor("3")) },         // goes before backend/
				func() { write("p/ecosystem.json", descriptor("4")) },               // goes before packs/
				func() { write("p/ecosystem.json", "{") },
				func() { write("p/ecosystem.json", descriptor("5")) },
				func() { move("p", "q") },
				func() { move("packs/p", "p") },
				func() { move("p/ecosystem.json", "p/x") }, // now that in backend/
				func() {
					move("p", "r")
					if err := os.Symlink("r", filepath.Join(dir, "p")); err != nil {
						t.Fatal(err)
					}
				},
				func() {
					if err := os.Remove(filepath.Join(dir, "p")); err != nil {
						t.Fatal(err)
					}
					move("r", "p")
				},
				func() { write("packs/p/ecosystem.json", descriptor("6")); move("p", "q2") },
				func() { // a link at the old place is not followed, also to what was found there before
					move("packs", "elsewhere")
					if err := os.Symlink("elsewhere", filepath.Join(dir, "packs")); err != nil {
						t.Fatal(err)
					}
				},
			} {
				step()
				for range 3 {
					time.Sleep(rest)
					want, wantUnread := pack.Installed(root)
					got, unread := cache.Installed(root)
					if !reflect.DeepEqual(unread, wantUnread) || !reflect.DeepEqual(got, want) {
						t.Fatalf("step %d: %+v, %v, want %+v, %v", i, got, unread, want, wantUnread)
					}
					one, wantErr := pack.Find(root, "p")
					found, err := cache.Find(root, "p")
					if (err == nil) != (wantErr == nil) || found.Descriptor.Version != one.Descriptor.Version || found.Dir != one.Dir {
						t.Fatalf("step %d: %+v, %v, want %+v, %v", i, found, err, one, wantErr)
					}
				}
			}
		})
	}
}
