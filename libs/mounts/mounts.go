// Package mounts notices that what a container has mounted by its path was replaced on the host. The engine resolves the
// paths of bind mounts when it starts a container. A folder or file that is moved, removed or replaced afterwards stays
// mounted: the process goes on with what nobody else sees any more, while the engine, asked to mount a part of it into
// another container, takes what lies at the path by then.
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

// watchEvery is how soon Watch sees a loss.
const watchEvery = time.Second

// Set is the bind mounts of a process as they were when it was read.
type Set struct {
	proc    string
	folders map[string]mount // by mount point
	files   map[string]mount
}

// mount is one line of mountinfo, as far as it tells mounts apart.
type mount struct {
	id   string // of the mount; another one when it was mounted anew
	root string // the path that is mounted, in its file system; "…//deleted" once it has none
}

// Read notes what is mounted at the given folders and below them. proc is where procfs is, "/proc".
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

func within(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(path.Clean(dir), "/")+"/")
}

// table reads mountinfo; proc(5): "36 35 98:0 /root /mount/point options… - type source options", with a space, tab, line
// feed and backslash written as octal numbers. Both sides of each comparison are, so only names that are shown differ.
func (s *Set) table() (map[string]mount, error) {
	text, err := os.ReadFile(filepath.Join(s.proc, "self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	table := map[string]mount{}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) >= 6 {
			table[fields[4]] = mount{fields[0], fields[3]} // of several at one point the last is the one that is seen
		}
	}
	return table, nil
}

// Folders gives the mounted folders that were moved, removed or replaced on the host since Read, in the order of their names.
func (s *Set) Folders() ([]string, error) { return s.lost(s.folders) }

// Files gives the files likewise. One that was replaced by rename, as editors and configuration tools do, counts.
func (s *Set) Files() ([]string, error) { return s.lost(s.files) }

// HasFiles says whether there are mounts of single files.
func (s *Set) HasFiles() bool { return len(s.files) > 0 }

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

// LostError says which mounted folders are not at their paths on the host any more.
type LostError struct{ Folders []string }

func (e *LostError) Error() string {
	return fmt.Sprintf("moved, removed or replaced on the host while it was mounted: %s; a restart mounts what lies there now", strings.Join(e.Folders, ", "))
}

// Watch looks each second until ctx ends, and returns a LostError as soon as a folder is lost: the process must end then,
// to be restarted with what lies at the path. (It must not for a file: where one is only removed, the engine would make a
// folder of its name.)
func (s *Set) Watch(ctx context.Context) error {
	if len(s.folders) == 0 {
		return nil
	}
	return periodic.RunErr(ctx, watchEvery, func(context.Context) error {
		switch lost, err := s.Folders(); {
		case err != nil:
			return err
		case len(lost) > 0:
			return &LostError{lost}
		}
		return nil
	})
}
