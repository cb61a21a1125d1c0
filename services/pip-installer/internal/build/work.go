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

// workDir is the folder of one build. Only this service can enter it. In it are input, which the builder reads, and scratch, to which it
// writes. A builder runs as the user nobody, so scratch is writable by everybody. Nobody else can get there, because of the folder above it.
type workDir struct {
	builder *Builder
	name    string // of the folder and of the container
	dir     string
	free    uint64 // bytes on its file system when it was made
}

func (w *workDir) input() string   { return filepath.Join(w.dir, "input") }
func (w *workDir) scratch() string { return filepath.Join(w.dir, "scratch") }

// newWork makes the folder of a build, with files in input.
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
	// Modes are set with chmod because those given to mkdir depend on the umask.
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

// remove removes the folder. The builder's files belong to the user nobody, in folders that only nobody may change. If this
// process isn't root, it runs another builder that empties scratch first.
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
	exit, _, err := w.builder.container(ctx, spec)
	if err != nil {
		return fmt.Errorf("empty work folder %s: %w", w.dir, err)
	}
	if exit.Code != 0 {
		return fmt.Errorf("empty work folder %s: the builder ended with status %d", w.dir, exit.Code)
	}
	return os.RemoveAll(w.dir)
}

// watchDisk returns true as soon as the file system's free space is maxDisk less than when the work began, and false when ctx
// ends. It can't know which process took the space: a build that is stopped because of another one may be repeated.
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
