package mounts

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// container is a procfs whose mountinfo a test writes, and a folder that stands for /rumi.
func container(t *testing.T) (proc, home string, write func(lines ...string)) {
	t.Helper()
	proc, home = t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(proc, "self"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(home, "packs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return proc, home, func(lines ...string) {
		t.Helper()
		text := strings.ReplaceAll(strings.Join(lines, "\n")+"\n", "HOME", home)
		if err := os.WriteFile(filepath.Join(proc, "self/mountinfo"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	rootLine  = "214 190 0:51 / / ro,relatime - overlay overlay rw"
	hostsLine = "230 214 254:0 /var/lib/docker/containers/x/hosts /etc/hosts rw - ext4 /dev/vda rw"
	packsLine = "235 214 254:0 /srv/rumi/packs HOME/packs rw,relatime - ext4 /dev/vda rw"
	keyLine   = "236 214 254:0 /srv/rumi/key HOME/key ro,relatime - ext4 /dev/vda rw"
)

func TestLost(t *testing.T) {
	for _, c := range []struct {
		name           string
		after          []string
		folders, files []string // below the home
	}{
		{"nothing happened", []string{rootLine, hostsLine, packsLine, keyLine}, nil, nil},
		{"folder removed", []string{rootLine, hostsLine, strings.Replace(packsLine, "rumi/packs", "rumi/packs//deleted", 1), keyLine}, []string{"packs"}, nil},
		{"folder moved", []string{rootLine, hostsLine, strings.Replace(packsLine, "rumi/packs", "rumi/packs.away", 1), keyLine}, []string{"packs"}, nil},
		{"home moved", []string{rootLine, hostsLine, strings.Replace(packsLine, "srv/rumi", "srv/old", 1), strings.Replace(keyLine, "srv/rumi", "srv/old", 1)}, []string{"packs"}, []string{"key"}},
		{"file replaced by rename", []string{rootLine, hostsLine, packsLine, strings.Replace(keyLine, "rumi/key", "rumi/key//deleted", 1)}, nil, []string{"key"}},
		{"file of nobody's concern replaced", []string{rootLine, strings.Replace(hostsLine, "/hosts ", "/hosts//deleted ", 1), packsLine, keyLine}, nil, nil},
		{"unmounted in here", []string{rootLine, hostsLine, keyLine}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			proc, home, write := container(t)
			write(rootLine, hostsLine, packsLine, keyLine)
			s, err := Read(proc, home)
			if err != nil {
				t.Fatal(err)
			}
			write(c.after...)
			for i := range c.folders {
				c.folders[i] = filepath.Join(home, c.folders[i])
			}
			for i := range c.files {
				c.files[i] = filepath.Join(home, c.files[i])
			}
			if got, err := s.Folders(); err != nil || !slices.Equal(got, c.folders) {
				t.Errorf("Folders gave %q, %v; want %q", got, err, c.folders)
			}
			if got, err := s.Files(); err != nil || !slices.Equal(got, c.files) {
				t.Errorf("Files gave %q, %v; want %q", got, err, c.files)
			}
		})
	}
}

func TestWatchEndsWithAFolder(t *testing.T) {
	proc, home, write := container(t)
	write(rootLine, packsLine)
	s, err := Read(proc, home)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		go func() { ended <- s.Watch(t.Context()) }()
		synctest.Wait()
		write(rootLine, strings.Replace(packsLine, "rumi/packs", "rumi/packs//deleted", 1))
		var lost *LostError
		if err := <-ended; !errors.As(err, &lost) || !slices.Equal(lost.Folders, []string{filepath.Join(home, "packs")}) {
			t.Fatalf("Watch ended with %v, want a LostError of packs", err)
		}
	})
}
