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
	id       fileID
	torn     bool // it doesn't end with a newline: the next line starts with one
	syncFile func(*os.File) error
}

func openFile(path string, day int64) (*file, error) {
	const flags = os.O_WRONLY | os.O_APPEND | unix.O_NOFOLLOW | unix.O_CLOEXEC
	f, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, os.ErrNotExist) {
		f, err = os.OpenFile(path, flags|os.O_CREATE, 0o640)
	}
	if err == nil {
		// Without this a power cut could lose the file's name, and with it lines that Write has promised. It is done even if the
		// file was there: another process may have made it a moment ago, and not have synced the folder yet.
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		if f != nil {
			_ = f.Close()
		}
		return nil, err
	}
	torn, err := endsTorn(path)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("inspect %s: %w", path, err)
	}
	return &file{day: day, f: f, id: idOf(&st), torn: torn, syncFile: datasync}, nil
}

// fileID identifies a file whatever its name is, by device and inode.
type fileID struct{ dev, ino uint64 }

func idOf(st *unix.Stat_t) fileID { return fileID{st.Dev, st.Ino} }

// makeFiles makes the files of a day that nothing was written to as yet: what reads the log of a category, as the operations guide
// does, finds an empty file rather than none. prefixes are the paths of the categories' files without the day.
func makeFiles(prefixes []string, day int64) {
	for _, prefix := range prefixes {
		f, err := os.OpenFile(prefix+dayName(day), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o640)
		if err == nil {
			_ = f.Close()
		} // else it is there, or Write will report why it can't be
	}
}

func dayName(day int64) string {
	return time.Unix(day*secondsADay, 0).UTC().Format(time.DateOnly) + ".jsonl"
}

// tornTimeout is how long a last line must lack its end to count as cut short: a write that is under way takes
// microseconds, unless its process isn't run meanwhile.
const tornTimeout = 250 * time.Millisecond

// endsTorn says whether a crash or a full disk cut the last line short. The race: another process may be in the middle of
// writing that line; so it looks again for tornTimeout. A wrong yes costs no more than an empty line.
func endsTorn(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	for waited := time.Duration(0); ; waited += tornTimeout / 50 {
		end, err := f.Seek(0, io.SeekEnd)
		if err != nil || end == 0 {
			return false, err
		}
		var last [1]byte
		if _, err := f.ReadAt(last[:], end-1); err != nil {
			return false, err
		}
		if last[0] == '\n' || waited >= tornTimeout {
			return last[0] != '\n', nil
		}
		time.Sleep(tornTimeout / 50)
	}
}

// syncDir brings the names in a folder to the disk.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// datasync is fdatasync(2), begun again after a signal.
func datasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err == nil || !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// moved says whether the file was removed, or renamed as log rotation does. Lines that are appended after that would be missing
// where readers look, and lost when the renamed file is compressed and removed.
func (f *file) moved() bool {
	var st unix.Stat_t
	switch err := unix.Lstat(f.f.Name(), &st); {
	case err == nil:
		return idOf(&st) != f.id
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return true
	}
	return false // unknown: go on writing to the open file
}

// write appends lines by one system call. On an error, such as a full disk, whole says how many bytes of whole lines were written
// nevertheless.
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
