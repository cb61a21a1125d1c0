package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// file is the open file of one category and day. One goroutine at a time uses it.
type file struct {
	day      int64 // since 1970, UTC
	f        *os.File
	torn     bool // it doesn't end with a newline: the next line starts with one
	syncFile func(*os.File) error
}

func openFile(path string, day int64) (*file, error) {
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
	return &file{day: day, f: f, torn: torn, syncFile: datasync}, nil
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

// write appends lines, by one system call as long as there is room. On an error whole says how many bytes of whole
// lines were written all the same.
func (f *file) write(lines []byte) (whole int, err error) {
	if f.torn {
		if _, err := f.f.Write([]byte{'\n'}); err != nil {
			return 0, err
		}
		f.torn = false
	}
	n, err := f.f.Write(lines)
	if n == 0 {
		return 0, err
	}
	whole = bytes.LastIndexByte(lines[:n], '\n') + 1
	f.torn = whole < n
	return whole, err
}

// sync brings what was written to the disk.
func (f *file) sync() error {
	if err := f.syncFile(f.f); err != nil {
		return fmt.Errorf("sync %s: %w", f.f.Name(), err)
	}
	return nil
}

func (f *file) close() {
	_ = f.f.Close() // nothing is buffered here: a late error could only be the sync's
}
