package mount

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
)

func TestRoots(t *testing.T) {
	for _, root := range []string{"/srv/files", "/home/op", "/mnt", "/var/lib/files"} {
		if _, err := New(Config{Roots: []string{root}}); err != nil {
			t.Errorf("%s: %v", root, err)
		}
	}
	for _, root := range []string{"/", "/etc", "/etc/ssl", "/var", "/var/lib", "/var/lib/docker/volumes", "/run", "/var/run/x", "/proc/1/root", "srv", "/srv/", "/srv/../etc", ""} {
		if _, err := New(Config{Roots: []string{root}}); err == nil || !strings.HasPrefix(err.Error(), Setting) {
			t.Errorf("the root %q: got %v, want an error that names %s", root, err, Setting)
		}
	}
}

// home is a Rumi home, an operator's folder beside it, and an alias of the home within that.
func home(t *testing.T) (*Folders, string) {
	t.Helper()
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"home/user_data/capabilities", "home/user_data/shared/old", "home/user_data/settings", "home/user_data/secrets",
		"home/ecosystem/p", "home/files", "op/docs/deep", "op/docs2"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"op/link": "docs", "op/docs/up": "../..", "home/user_data/shared/link": "../settings", "op/etc": "/etc"} {
		if err := os.Symlink(to, filepath.Join(base, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, fifo := range []string{"op/fifo"} {
		if err := unix.Mkfifo(filepath.Join(base, fifo), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(base, "op/file"), nil, 0o644), unix.Mkfifo(filepath.Join(base, "op/docs/fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	f, err := New(Config{
		Shared: filepath.Join(base, "home/user_data/shared"), Roots: []string{filepath.Join(base, "op"), filepath.Join(base, "home")},
		UserData: filepath.Join(base, "home/user_data/capabilities"),
		Own:      []string{filepath.Join(base, "home/user_data/capabilities"), filepath.Join(base, "run/sockets"), filepath.Join(base, "op/docs2")},
		HostPath: func(_ context.Context, path string) (string, error) {
			if strings.HasPrefix(path, filepath.Join(base, "op/unseen")) {
				return "", errors.New("lies in no mount")
			}
			return path, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return f, base
}

func TestWhatMayBeSeen(t *testing.T) {
	f, base := home(t)
	for _, source := range []string{"old", "new", base + "/op/docs", base + "/op/docs/deep", base + "/home/files"} {
		found, err := f.Find(t.Context(), []grant.Mount{{Source: source}}, false)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		var is unix.Stat_t
		if err := unix.Stat(found[0].Source, &is); err != nil || !found[0].Is(is.Dev, is.Ino) || found[0].Is(is.Dev, is.Ino+1) || found[0].Writable {
			t.Errorf("%s: found %+v (%v), want it read-only, with the file's own identity", source, found[0], err)
		}
		closeAll(found)
	}
	for source, text := range map[string]string{
		"none/sub": "there is no folder", base + "/op/none": "there is no folder",
		"link": "or a link leads there", "link/x": "or a link leads there", base + "/op/link": "or a link leads there", base + "/op/link/deep": "or a link leads there",
		base + "/op/docs/up/home": "or a link leads there", base + "/op/etc": "or a link leads there", base + "/op/file": "is no folder",
		base + "/op/docs/fifo": "is no folder",
		base + "/home":         "Rumi's own", base + "/home/user_data": "Rumi's own", base + "/home/user_data/settings": "Rumi's own",
		base + "/home/user_data/capabilities": "Rumi's own", base + "/home/ecosystem/p": "Rumi's own", base + "/home/ecosystem": "Rumi's own",
		base + "/op/docs2": "Rumi's own", base + "/op": "Rumi's own",
		base + "/op/unseen": "mount it there at its own path",
		"/srv":              "lies in none of the folders", base: "lies in none of the folders", base + "/opposite": "lies in none of the folders", "/": "lies in none of the folders",
	} {
		if found, err := f.Find(t.Context(), []grant.Mount{{Source: source}}, false); !fault.Is(err, fault.KindInvalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: found %v, %v; want %q", source, found, err, text)
		}
	}
}

func TestFoldersThatAreSharedCanBeUsedByHandlers(t *testing.T) {
	f, base := home(t)
	yes := false
	found, err := f.Find(t.Context(), []grant.Mount{{Source: "fresh", ReadOnly: &yes}, {Source: "old", Target: "/data", ReadOnly: &yes}}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(found)
	if found[0].Target != "/mnt/fresh" || !found[0].Writable || found[1].Target != "/data" {
		t.Errorf("found %+v and %+v, want a writable /mnt/fresh and /data", found[0], found[1])
	}
	info, err := os.Stat(base + "/home/user_data/shared/fresh")
	if err != nil || info.Mode().Perm()&0o070 != 0o070 {
		t.Errorf("the folder that was made is %v (%v), want it with rwx for its group", info, err)
	}
	readOnly, err := f.Find(t.Context(), []grant.Mount{{Source: "old", ReadOnly: &yes}}, true)
	if err != nil || readOnly[0].Writable {
		t.Errorf("the folder that is only read is %+v, %v; want it not writable", readOnly, err)
	}
	closeAll(readOnly)
}

// A folder that is put in the place of another is another, also where it takes the other's inode.
func TestAnotherFolderIsNotTheSame(t *testing.T) {
	f, base := home(t)
	found, err := f.Find(t.Context(), []grant.Mount{{Source: "old"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(found)
	path := filepath.Join(base, "home/user_data/shared/old")
	for range 50 {
		if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o755)); err != nil {
			t.Fatal(err)
		}
		var is unix.Stat_t
		if err := unix.Stat(path, &is); err != nil || found[0].Is(is.Dev, is.Ino) {
			t.Fatalf("the new folder passes for the old one: %v", err)
		}
	}
}
