package backup

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/flock"
)

// walConnections is the byte of a database's shared-memory file that every process locks which has the database open: UNIX_SHM_DMS in SQLite's
// os_unix.c.
const walConnections = 128

// Running are the services that run on a home, as far as they can be seen from its files: those that have their database open, and the
// replicas of capability-broker. It is the kernel that knows this, by locks that end with their process, whichever container that is in.
func Running(home string) ([]string, error) {
	var running []string
	shared, err := filepath.Glob(filepath.Join(home, stateDir, "*", "*.db-shm"))
	if err != nil {
		return nil, err
	}
	for _, file := range shared {
		locked, err := lockedByAnother(file)
		if err != nil {
			return nil, err
		}
		if locked {
			running = append(running, path.Base(filepath.Dir(file)))
		}
	}
	alive, err := filepath.Glob(filepath.Join(home, "user_data/capabilities/replicas/*.alive"))
	if err != nil {
		return nil, err
	}
	for _, file := range alive {
		if held(file) {
			running = append(running, "capability-broker")
		}
	}
	slices.Sort(running)
	return slices.Compact(running), nil
}

// lockedByAnother asks the kernel whether any process holds the lock. It takes none.
func lockedByAnother(file string) (bool, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: 0, Start: walConnections, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, &fs.PathError{Op: "ask for locks of", Path: file, Err: err}
	}
	return lock.Type != unix.F_UNLCK, nil
}

// held says whether a process holds the flock(2) of a file.
func held(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(flock.TryOpen(f, flock.Shared), flock.ErrLocked)
}
