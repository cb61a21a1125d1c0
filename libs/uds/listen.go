package uds

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// SocketName is the socket's name inside its directory.
	SocketName = "rumi.sock"

	// DefaultMode is a socket's mode where none is configured.
	DefaultMode fs.FileMode = 0o660

	tempName = ".rumi.sock.new" // of a socket until it has its mode and listens
	backlog  = 4096             // the kernel cuts it to net.core.somaxconn
)

// ErrLocked is a socket that another replica serves. Trying again later is right: the kernel drops the lock when its holder ends.
var ErrLocked = errors.New("listen: another replica serves this socket")

// DirName is the name of the directory that holds the socket of a pack or principal: the first 32 hex digits of the
// SHA-256 of its id. It has a fixed length (a socket's path may have 107 bytes) and nothing of the id in it.
func DirName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:16])
}

// Config says where a socket lies and who may connect.
type Config struct {
	Dir  string      // holds the directories of all sockets; made if it is missing
	Name string      // the socket's own directory in Dir, usually DirName(id)
	Mode fs.FileMode // permission bits of the socket; 0 means DefaultMode
	GID  int         // group of the socket and of its directory; negative leaves the process's own
}

// Listener is a listening socket that this process alone serves.
type Listener struct {
	*net.UnixListener

	path   string
	dir    dirID // the socket's own directory
	lock   *lock
	once   sync.Once
	closed error
}

// Listen makes <Dir>/<Name>/rumi.sock and listens on it. The directory has mode 0750 (0751 where the mode lets
// everybody connect). A socket left by a dead process is replaced; anything else at its path, a link first of all,
// is an error and stays as it is. ErrLocked says that another process has the lock, <Dir>/<Name>.lock.
func Listen(cfg Config) (*Listener, error) {
	lk, err := newLock(cfg)
	if err != nil {
		return nil, err
	}
	l, err := listen(cfg, lk)
	if err != nil {
		lk.close()
	}
	return l, err
}

// listen is Listen with a lock that the caller keeps on an error, so that each further try costs one system call.
func listen(cfg Config, lk *lock) (*Listener, error) {
	if cfg.Mode == 0 {
		cfg.Mode = DefaultMode
	}
	if err := lk.try(); err != nil {
		return nil, err
	}
	dir, err := openDir(cfg)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	at, err := dirIDOf(dir)
	if err != nil {
		return nil, err
	}
	inner, err := bind(dir, cfg)
	if err != nil {
		return nil, err
	}
	return &Listener{UnixListener: inner, path: filepath.Join(cfg.Dir, cfg.Name, SocketName), dir: at, lock: lk}, nil
}

// dirID identifies a directory, by device and inode. Keeping it open would cost a descriptor for each of thousands of sockets.
type dirID struct{ dev, ino uint64 }

func dirIDOf(dir *os.File) (dirID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return dirID{}, fmt.Errorf("inspect socket directory: %w", err)
	}
	return dirID{uint64(st.Dev), st.Ino}, nil
}

// unlink removes the socket from the directory that it was made in. If another directory is at the path by now, its socket is
// another process's, and stays.
func (l *Listener) unlink() error {
	fd, err := unix.Open(filepath.Dir(l.path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove socket: %w", err)
	}
	dir := os.NewFile(uintptr(fd), filepath.Dir(l.path))
	defer dir.Close()
	if at, err := dirIDOf(dir); err != nil || at != l.dir {
		return err
	}
	if err := unix.Unlinkat(fd, SocketName, 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove socket: %w", err)
	}
	return nil
}

// openDir makes and opens the socket's own directory, following no link.
func openDir(cfg Config) (*os.File, error) {
	path := filepath.Join(cfg.Dir, cfg.Name)
	if err := os.Mkdir(path, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make socket directory: %w", err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open socket directory %s (it must be a directory, not a link): %w", path, err)
	}
	dir := os.NewFile(uintptr(fd), path)
	mode := fs.FileMode(0o750)
	if cfg.Mode&0o007 != 0 {
		mode |= 0o001 // a socket for everybody needs a directory that everybody may pass through
	}
	if err := applyMode(fd, "", mode, cfg.GID); err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// bind makes the socket under a temporary name, gives it its group and mode, listens, and only then renames it. The race that
// this closes: bind(2) makes a socket with the mode that the umask leaves, so between bind and chmod a client could
// connect that the mode keeps out. It can't connect before the socket has its name.
func bind(dir *os.File, cfg Config) (*net.UnixListener, error) {
	dirfd := int(dir.Fd())
	var st unix.Stat_t
	switch err := unix.Fstatat(dirfd, SocketName, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil && st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return nil, fmt.Errorf("listen on %s/%s: something that is not a socket lies there; find out what it is, then remove it", dir.Name(), SocketName)
	case err != nil && err != unix.ENOENT:
		return nil, fmt.Errorf("look for a stale socket in %s: %w", dir.Name(), err)
	}
	if err := unix.Unlinkat(dirfd, tempName, 0); err != nil && err != unix.ENOENT {
		return nil, fmt.Errorf("remove a half-made socket in %s: %w", dir.Name(), err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), dir.Name())
	defer file.Close()
	// Through the descriptor the path is short, whatever the length of Dir, and is the directory that was checked.
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(dirfd) + "/" + tempName}); err != nil {
		return nil, fmt.Errorf("bind socket in %s: %w", dir.Name(), err)
	}
	if err := applyMode(dirfd, tempName, cfg.Mode, cfg.GID); err != nil {
		return nil, err
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, fmt.Errorf("listen in %s: %w", dir.Name(), err)
	}
	if err := unix.Renameat(dirfd, tempName, dirfd, SocketName); err != nil {
		return nil, fmt.Errorf("move socket into place in %s: %w", dir.Name(), err)
	}
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", dir.Name(), err)
	}
	return l.(*net.UnixListener), nil
}

// applyMode sets group and mode of name in dirfd, or of dirfd itself where name is "". What is right already isn't touched: a
// directory may belong to another user, who made it right, and changing it would fail.
func applyMode(dirfd int, name string, mode fs.FileMode, gid int) error {
	var st unix.Stat_t
	var err error
	if name == "" {
		err = unix.Fstat(dirfd, &st)
	} else {
		err = unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("read socket mode: %w", err)
	}
	if gid >= 0 && st.Gid != uint32(gid) {
		if name == "" {
			err = unix.Fchown(dirfd, -1, gid)
		} else {
			err = unix.Fchownat(dirfd, name, -1, gid, unix.AT_SYMLINK_NOFOLLOW)
		}
		if err != nil {
			return fmt.Errorf("give the socket to group %d (is this process a member?): %w", gid, err)
		}
	}
	if st.Mode&0o777 == uint32(mode.Perm()) {
		return nil
	}
	if name == "" {
		err = unix.Fchmod(dirfd, uint32(mode.Perm()))
	} else {
		err = unix.Fchmodat(dirfd, name, uint32(mode.Perm()), 0)
	}
	if err != nil {
		return fmt.Errorf("set socket mode %o: %w", mode.Perm(), err)
	}
	return nil
}

// Path is where clients find the socket.
func (l *Listener) Path() string { return l.path }

// Close removes the socket, stops listening and lets another replica take over. The directory stays: containers
// have it mounted, and see there the next socket.
func (l *Listener) Close() error {
	l.once.Do(func() {
		l.closed = errors.Join(l.unlink(), l.UnixListener.Close())
		l.lock.close()
	})
	return l.closed
}

// abandon is Close for a folder that is no longer ours: nothing in it is removed.
func (l *Listener) abandon() error {
	l.once.Do(func() {
		l.closed = l.UnixListener.Close()
		l.lock.close()
	})
	return l.closed
}

// Remove is Close for a pack that was uninstalled: it removes the directory and the lock file, too. If there are other files in the
// directory, they and the directory stay, and the error says so.
func (l *Listener) Remove() error {
	l.once.Do(func() {
		l.closed = errors.Join(l.unlink(), l.UnixListener.Close())
		if err := os.Remove(filepath.Dir(l.path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.closed = errors.Join(l.closed, fmt.Errorf("remove socket directory: %w", err))
		}
		l.lock.remove()
	})
	return l.closed
}
