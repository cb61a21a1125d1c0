package uds

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/flock"
)

// MarkName is the file of a folder of sockets that holds the id of the Rumi home to which the folder belongs. A process
// that serves sockets in the folder, or mounts them, holds a shared lock (flock) on the file for as long as it runs. While any
// process holds one, no other home takes the folder over.
const MarkName = ".rumi-home"

// ErrForeign is a folder of sockets that belongs to another Rumi home. Names in it are derived from pack ids alone, so
// serving or mounting a socket there would give one home's packs the rights of another's.
var ErrForeign = errors.New("belongs to another Rumi home")

// Owner watches that a folder of sockets belongs to this process's home. It is safe for concurrent use.
type Owner struct {
	dir, home string

	mu       sync.Mutex
	mark     *os.File    // with a shared lock; nil while the folder isn't ours
	markStat unix.Stat_t // of the mark when it was read
	term     int         // how often the folder became ours
}

// NewOwner is the owner of dir for the given home id.
func NewOwner(dir, home string) *Owner { return &Owner{dir: dir, home: home} }

// Check is nil while the folder bears the mark of this home. A folder without a mark is marked as this home's. Check costs
// one system call where nothing has changed, so that it can be asked before each use: the folder may be replaced at any
// time, by a reboot or by another home.
func (o *Owner) Check() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	path := filepath.Join(o.dir, MarkName)
	if o.mark != nil {
		var there unix.Stat_t
		if unix.Lstat(path, &there) == nil && same(&o.markStat, &there) {
			return nil
		}
		o.mark.Close()
		o.mark = nil
	}
	mark, err := openMark(path)
	if errors.Is(err, unix.ENOENT) {
		if err = WriteMark(o.dir, o.home); err == nil || errors.Is(err, os.ErrExist) {
			mark, err = openMark(path)
		}
	}
	if err != nil {
		return fmt.Errorf("read the owner of %s: %w", o.dir, err)
	}
	if err := o.checkHome(mark); err != nil {
		mark.Close()
		return err
	}
	o.mark = mark
	o.term++
	return nil
}

// Term counts how often the folder became this home's. Sockets that were made in it during an earlier term may have been removed.
func (o *Owner) Term() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.term
}

func same(a, b *unix.Stat_t) bool {
	return a.Dev == b.Dev && a.Ino == b.Ino && a.Mtim == b.Mtim && a.Size == b.Size
}

// checkHome takes the shared lock before it reads, so that what was read stays true while the lock is held.
func (o *Owner) checkHome(mark *os.File) error {
	if err := flock.TryOpen(mark, flock.Shared); err != nil {
		return fmt.Errorf("%s is just changing its owner: %w", o.dir, err)
	}
	if err := unix.Fstat(int(mark.Fd()), &o.markStat); err != nil {
		return fmt.Errorf("read the owner of %s: %w", o.dir, err)
	}
	home, err := readMark(mark)
	if err != nil {
		return fmt.Errorf("read the owner of %s: %w", o.dir, err)
	}
	if home != o.home {
		return fmt.Errorf("%s %w (%s; this one is %s)", o.dir, ErrForeign, home, o.home)
	}
	return nil
}

// Close gives up the lock. The mark stays.
func (o *Owner) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mark != nil {
		o.mark.Close()
		o.mark = nil
	}
}

func openMark(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

func readMark(mark *os.File) (string, error) {
	data, err := io.ReadAll(io.NewSectionReader(mark, 0, 128))
	if err != nil {
		return "", err
	}
	if len(data) < 2 || data[len(data)-1] != '\n' {
		return "", fmt.Errorf("%s is damaged; run: docker compose up --detach", mark.Name())
	}
	return string(data[:len(data)-1]), nil
}

// ReadMark is the home id in the mark of dir; errors.Is(err, fs.ErrNotExist) where there is none.
func ReadMark(dir string) (string, error) {
	mark, err := openMark(filepath.Join(dir, MarkName))
	if err != nil {
		return "", &os.PathError{Op: "open", Path: filepath.Join(dir, MarkName), Err: err}
	}
	defer mark.Close()
	return readMark(mark)
}

// Vacate locks the mark of dir exclusively, which succeeds only while no process serves the folder or mounts from it; else the
// error is ErrLocked. The caller closes the result after it has replaced the mark.
func Vacate(dir string) (io.Closer, error) {
	mark, err := openMark(filepath.Join(dir, MarkName))
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(dir, MarkName), Err: err}
	}
	switch err := flock.TryOpen(mark, flock.Exclusive); {
	case errors.Is(err, flock.ErrLocked):
		mark.Close()
		return nil, ErrLocked
	case err != nil:
		mark.Close()
		return nil, fmt.Errorf("lock the mark of %s: %w", dir, err)
	}
	return mark, nil
}

// WriteMark marks dir, which must be there, as the given home's. It replaces no mark: errors.Is(err, fs.ErrExist) where
// there is one.
func WriteMark(dir, home string) error {
	if err := atomicfile.WritePath(filepath.Join(dir, MarkName), []byte(home+"\n"), 0o644, atomicfile.NoReplace()); err != nil {
		return fmt.Errorf("mark socket folder: %w", err)
	}
	return nil
}
