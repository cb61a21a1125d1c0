// Package mounts notices that a folder or file that this container has mounted was moved, removed or replaced on the host.
//
// The engine resolves the paths of bind mounts when it starts a container. If an operator then moves the folder and makes another
// one at its path, say to restore a backup, this process keeps the old one, which no other process sees any more. But when it asks the
// engine to mount a part of it into a pack's container, the engine takes the new one. So packs would run with other files
// than those that were checked. The service must end then, to be started again with what is at the path now.
package mounts

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/periodic"
)

// watchInterval is the time between two checks of Watch.
const watchInterval = time.Second

// Set is the bind mounts of this process as Read found them.
type Set struct {
	proc    string
	folders map[string]mount // by mount point
	files   map[string]mount
}

// mount identifies what is mounted at a mount point.
type mount struct {
	id   string // of the mount; another one when it was mounted anew
	root string // the path that is mounted, in its file system; "…//deleted" once it has none
}

// Read remembers what is mounted at the given folders and below them. proc is where procfs is, "/proc".
func Read(proc string, dirs ...string) (*Set, error) {
	s := &Set{proc: proc, folders: map[string]mount{}, files: map[string]mount{}}
	table, err := s.table()
	if err != nil {
		return nil, err
	}
	for point, m := range table {
		if !slices.ContainsFunc(dirs, func(dir string) bool { return within(point, dir) }) {
			continue
		}
		if info, err := os.Stat(point); err == nil && !info.IsDir() {
			s.files[point] = m
		} else {
			s.folders[point] = m
		}
	}
	return s, nil
}

// within says whether the path name is dir or below it.
func within(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(path.Clean(dir), "/")+"/")
}

// table reads mountinfo; proc(5): "36 35 98:0 /root /mount/point options… - type source options", with a space, tab, line
// feed and backslash written as octal numbers. They stay encoded: both sides of each
// comparison are, and so are the names in messages.
func (s *Set) table() (map[string]mount, error) {
	text, err := os.ReadFile(filepath.Join(s.proc, "self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	table := map[string]mount{}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) >= 6 {
			table[fields[4]] = mount{fields[0], fields[3]} // of several mounts at one point the last hides the others
		}
	}
	return table, nil
}

// Folders returns the mount points of folders that were moved, removed or replaced on the host since Read, sorted.
func (s *Set) Folders() ([]string, error) { return s.lost(s.folders) }

// Files is Folders for single files. Editors and configuration tools replace a file by rename, so an edit counts.
func (s *Set) Files() ([]string, error) { return s.lost(s.files) }

// HasFiles says whether there are mounts of single files.
func (s *Set) HasFiles() bool { return len(s.files) > 0 }

// lost returns the mount points that lead to something else than before: the mount is the same, but its root has moved.
func (s *Set) lost(noted map[string]mount) ([]string, error) {
	table, err := s.table()
	if err != nil {
		return nil, err
	}
	var lost []string
	for point, was := range noted {
		if is, there := table[point]; there && is.id == was.id && is.root != was.root {
			lost = append(lost, point)
		}
	}
	slices.Sort(lost)
	return lost, nil
}

// LostError names mounted folders that are not at their paths on the host any more.
type LostError struct{ Folders []string }

func (e *LostError) Error() string {
	return fmt.Sprintf("moved, removed or replaced on the host while it was mounted: %s; a restart mounts what lies there now", strings.Join(e.Folders, ", "))
}

// Watch looks each second until ctx ends. As soon as a folder is lost it returns a *LostError: the process must end then, to be
// restarted with what is at the path now. Lost files don't end it: if one was only removed, the engine would make a folder of
// its name at the restart.
func (s *Set) Watch(ctx context.Context) error {
	if len(s.folders) == 0 {
		return nil
	}
	return periodic.RunErr(ctx, watchInterval, func(context.Context) error {
		switch lost, err := s.Folders(); {
		case err != nil:
			return err
		case len(lost) > 0:
			return &LostError{lost}
		}
		return nil
	})
}
