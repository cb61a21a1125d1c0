package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// file is the open file of one category and day, with its group commit: writers that come while a sync runs wait for
// the next one together, so the number of syncs doesn't grow with the number of writers.
type file struct {
	day string
	f   *os.File

	mu       sync.Mutex
	turn     sync.Cond
	torn     bool  // the file doesn't end with a newline: the next line starts with one
	written  int64 // lines written, which is also the last ticket given out
	synced   int64 // every ticket up to this one is decided: on the disk, or in failed
	failed   map[int64]error
	syncing  bool
	users    int // writers that still need the descriptor
	retired  bool
	syncFile func(*os.File) error
}

func openFile(path, day string) (*file, error) {
	const flags = os.O_WRONLY | os.O_APPEND | unix.O_NOFOLLOW | unix.O_CLOEXEC
	f, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, os.ErrNotExist) {
		if f, err = os.OpenFile(path, flags|os.O_CREATE, 0o640); err == nil {
			err = syncDir(filepath.Dir(path)) // or the name of a synced file could be lost
		}
	}
	if err != nil {
		if f != nil {
			_ = f.Close()
		}
		return nil, err
	}
	torn, err := endsInHalfALine(path)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	file := &file{day: day, f: f, torn: torn, failed: map[int64]error{}, syncFile: datasync}
	file.turn.L = &file.mu
	return file, nil
}

// tornAfter is how long a last line must lack its end to count as cut short: a write that is under way takes
// microseconds, unless its process isn't run meanwhile.
const tornAfter = 250 * time.Millisecond

// endsInHalfALine says whether a crash or a full disk cut the last line short. A line that another process is in the
// middle of writing is waited for; a wrong yes would cost an empty line.
func endsInHalfALine(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	for waited := time.Duration(0); ; waited += tornAfter / 50 {
		end, err := f.Seek(0, io.SeekEnd)
		if err != nil || end == 0 {
			return false, err
		}
		var last [1]byte
		if _, err := f.ReadAt(last[:], end-1); err != nil {
			return false, err
		}
		if last[0] == '\n' || waited >= tornAfter {
			return last[0] != '\n', nil
		}
		time.Sleep(tornAfter / 50)
	}
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func datasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err == nil || !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// gone says whether somebody removed the file's name: what is appended then could never be read.
func (f *file) gone() bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.f.Fd()), &st) == nil && st.Nlink == 0
}

// write appends one whole line and gives the ticket to sync or release with.
func (f *file) write(line []byte) (ticket int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := f.f.Write(line)
	switch {
	case n == len(line):
		f.torn = false
	case n > 0:
		f.torn = true
	}
	if err != nil {
		return 0, err
	}
	f.written++
	f.users++
	return f.written, nil
}

// sync returns when the line of ticket is on the disk, or failed to get there, and releases it.
func (f *file) sync(ticket int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.done()
	for f.synced < ticket {
		if f.syncing {
			f.turn.Wait()
			continue
		}
		f.syncing = true
		from, to := f.synced+1, f.written
		f.mu.Unlock()
		err := f.syncFile(f.f)
		f.mu.Lock()
		if err != nil {
			// The kernel reports a lost page once: every line that this sync was for counts as lost.
			for t := from; t <= to; t++ {
				f.failed[t] = fmt.Errorf("sync %s: %w", f.f.Name(), err)
			}
		}
		f.syncing, f.synced = false, to
		f.turn.Broadcast()
	}
	err := f.failed[ticket]
	delete(f.failed, ticket)
	return err
}

// release ends the use of a ticket whose line needs no sync.
func (f *file) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done()
}

func (f *file) flush() error {
	if err := f.syncFile(f.f); err != nil {
		return fmt.Errorf("sync %s: %w", f.f.Name(), err)
	}
	return nil
}

// retire says that no more lines will come: the last user closes the descriptor.
func (f *file) retire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retired = true
	f.closeWhenUnused()
}

func (f *file) done() {
	f.users--
	f.closeWhenUnused()
}

func (f *file) closeWhenUnused() {
	if f.retired && f.users == 0 {
		_ = f.f.Close() // nothing is buffered here: a late error could only be the sync's
	}
}
