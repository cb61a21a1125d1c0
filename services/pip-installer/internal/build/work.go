package build

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// work is the folder of one build. It can't be entered by others; in it are input, which the builder reads, and
// scratch, which it writes. A builder runs as nobody, so scratch is open to all who get that far: the builder.
type workDir struct {
	builder *Builder
	name    string // of the folder and of the container
	dir     string
	free    uint64 // bytes on its file system when it was made
}

func (w *workDir) input() string   { return filepath.Join(w.dir, "input") }
func (w *workDir) scratch() string { return filepath.Join(w.dir, "scratch") }

func (b *Builder) newWork(files map[string][]byte) (w *workDir, err error) {
	name := rand.Text()
	w = &workDir{builder: b, name: name, dir: filepath.Join(b.cfg.Dir, name)}
	if w.free, err = freeSpace(b.cfg.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(w.dir))
		}
	}()
	// Modes are set, not asked for: they must not depend on the umask.
	for dir, mode := range map[string]fs.FileMode{w.dir: 0o700, w.input(): 0o755, w.scratch(): 0o777} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if err := os.Chmod(dir, mode); err != nil {
			return nil, err
		}
	}
	for name, content := range files {
		path := filepath.Join(w.input(), name)
		if err := os.WriteFile(path, content, 0o444); err != nil {
			return nil, err
		}
		if err := os.Chmod(path, 0o444); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// remove removes the folder. What the builder wrote is nobody's, in folders that only nobody may change: where this
// process isn't root, another builder empties scratch first.
func (w *workDir) remove() error {
	err := os.RemoveAll(w.dir)
	if err == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := os.Lstat(w.input()); err != nil { // RemoveAll came that far: a mount needs something to mount
		if err := os.MkdirAll(w.input(), 0o755); err != nil {
			return err
		}
	}
	spec := w.builder.spec(w, []string{"sh", "-c", "chmod -R u+rwX /work/* /work/.[!.]* 2>/dev/null; find /work -mindepth 1 -delete"})
	spec.Name += "-clean"
	if exit, _, err := w.builder.container(ctx, spec); err != nil || exit.Code != 0 {
		return fmt.Errorf("empty work folder %s: status %d: %w", w.dir, exit.Code, err)
	}
	return os.RemoveAll(w.dir)
}

// watchDisk returns true as soon as the file system has lost maxDisk since the work began, false when ctx ends. It can't
// know who took it; a builder that is stopped for another's sake may be asked again.
func (w *workDir) watchDisk(ctx context.Context) bool {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
			if free, err := freeSpace(w.dir); err == nil && free+maxDisk < w.free {
				return true
			}
		}
	}
}

func freeSpace(path string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("ask for free space: %w", err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}
