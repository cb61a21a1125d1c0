// Package mount decides which folders of the host a handler's container may see, and makes sure that it sees those and no others.
//
// The attack is a race. A grant names a folder by its path, and the engine's API takes a path, too: it walks that path again, as root, on the
// host, and follows links. Whoever may write in a folder on the way can replace a folder by a link between the check and that walk: another
// handler, whose grant lets it write in a folder around this one, or anybody who uses the operator's folders. The link could lead to /etc.
// No check beforehand helps.
//
// So the check comes afterwards. A folder is opened here without following a link, and kept open, so that its inode number can't be given
// to another folder. When the container has started, and before the first line of the handler is loaded, the worker in it (our own code)
// says what device and inode its mount has, and Found.Is compares. Where they differ the container is removed: it has shown the wrong folder
// to our code only.
package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/acl"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
)

// Setting is the environment variable that lists the operator's roots, for error texts.
const Setting = "RUMI_CAPABILITY_MOUNT_ROOTS"

// system are the host's own folders. No handler may see them, what is in them, or a folder that holds them.
var system = strings.Fields(`/bin /boot /dev /etc /lib /lib32 /lib64 /libx32 /proc /run /sbin /sys /usr
	/var/lib/containerd /var/lib/docker /var/run`)

// Config says which folders handlers may be granted, and which not.
type Config struct {
	Shared string   // holds the folders of mounts whose source has no slash in front
	Roots  []string // the operator's, in which other sources must be; each has the same path here as on the host
	// Own are Rumi's folders and sockets, as this process sees them. Handlers see nothing of them, except Shared.
	Own []string
	// UserData is the one of Own whose parent on the host is user_data: all of user_data is Rumi's, and so is ecosystem beside it.
	UserData string
	// HostPath returns the path on the host of a path in this process.
	HostPath func(ctx context.Context, path string) (string, error)
}

// Folders finds the folders that grants name. It is safe for concurrent use.
type Folders struct{ Config }

// New makes Folders, and refuses roots that would let handlers see what is the system's.
func New(cfg Config) (*Folders, error) {
	for _, root := range cfg.Roots {
		if !path.IsAbs(root) || path.Clean(root) != root {
			return nil, fmt.Errorf("%s: %q is not a clean absolute path", Setting, root)
		}
		for _, own := range system {
			if overlap(root, own) {
				return nil, fmt.Errorf("%s: %s is, holds or lies in the system's %s", Setting, root, own)
			}
		}
	}
	return &Folders{cfg}, nil
}

func inside(p, folder string) bool {
	return p == folder || folder == "/" || strings.HasPrefix(p, folder+"/")
}

func overlap(a, b string) bool { return inside(a, b) || inside(b, a) }

// Found is a folder that a container may see, as it was when it was checked. Close it once the container has been compared with it.
type Found struct {
	sandbox.Mount
	folder   *os.File // open, so that the inode can't be reused
	dev, ino uint64
}

// Is says whether a folder in a container, with that device and inode, is this one.
func (f *Found) Is(dev, ino uint64) bool { return f.dev == dev && f.ino == ino }

// Close closes the folder.
func (f *Found) Close() { _ = f.folder.Close() } // read-only: never fails

// CheckGrant is a check of grant.Config: it refuses a grant of folders that aren't there or that no handler may see.
func (f *Folders) CheckGrant(ctx context.Context, g *grant.Grant) error {
	found, err := f.Find(ctx, g.Terms.Mounts, false)
	closeAll(found)
	return err
}

// Find opens the folders of a grant, which is well-formed. With readOnly none of them will be writable, whatever the grant says. A folder that
// isn't there, or that no handler may see, is a fault of KindInvalid. The caller closes what is returned.
func (f *Folders) Find(ctx context.Context, mounts []grant.Mount, readOnly bool) (list []*Found, err error) {
	defer func() {
		if err != nil {
			closeAll(list)
			list = nil
		}
	}()
	for _, m := range mounts {
		found, err := f.find(ctx, m)
		if err != nil {
			return list, err
		}
		found.Target, found.Writable = m.TargetPath(), m.Writable() && !readOnly
		list = append(list, found)
	}
	return list, nil
}

func closeAll(list []*Found) {
	for _, found := range list {
		found.Close()
	}
}

func (f *Folders) find(ctx context.Context, m grant.Mount) (*Found, error) {
	root, rest := f.Shared, m.Source
	if path.IsAbs(m.Source) {
		var err error
		if root, rest, err = f.root(m.Source); err != nil {
			return nil, err
		}
		if err := f.notPrivate(ctx, m.Source); err != nil {
			return nil, err
		}
	} else if !strings.Contains(rest, "/") {
		if err := f.makeShared(rest); err != nil {
			return nil, err
		}
	}
	own, err := f.inodes()
	if err != nil {
		return nil, err
	}
	folder, err := open(root, rest, own)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault.Invalid("Invalid mounts: there is no folder %s", m.Source).With("invalid_mounts").Because(err)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return nil, fault.Invalid("Invalid mounts: %s is no folder, or a link leads there", m.Source).With("invalid_mounts").Because(err)
	case errors.Is(err, errOwn):
		return nil, private(m.Source)
	case err != nil:
		return nil, fmt.Errorf("open folder to mount: %w", err)
	}
	found := &Found{Mount: sandbox.Mount{Source: path.Join(root, rest)}, folder: folder}
	if found.dev, found.ino, err = identity(folder); err != nil {
		found.Close()
		return nil, err
	}
	return found, nil
}

func private(source string) error {
	return fault.Invalid("Invalid mounts: %s holds or lies in what is Rumi's own or the system's", source).With("invalid_mounts")
}

// root returns the innermost of the roots that hold a path, and the rest of the path.
func (f *Folders) root(source string) (root, rest string, err error) {
	for _, r := range f.Roots {
		if inside(source, r) && len(r) > len(root) {
			root = r
		}
	}
	if root == "" {
		return "", "", fault.Invalid("Invalid mounts: %s lies in none of the folders that %s names; a name without a slash in front is a folder of user_data/shared", source, Setting).With("invalid_mounts")
	}
	return root, strings.TrimPrefix(strings.TrimPrefix(source, root), "/"), nil
}

// notPrivate refuses a path that is, holds or lies in a folder of the system's or Rumi's own. It compares paths of the host: in this
// process's container Rumi's folders may be mounted elsewhere.
func (f *Folders) notPrivate(ctx context.Context, source string) error {
	at, err := f.HostPath(ctx, source)
	if err != nil {
		return unmounted(source, err)
	}
	theirs := append([]string(nil), system...)
	for _, own := range f.Own {
		host, err := f.HostPath(ctx, own)
		if err != nil {
			continue // no mount leads there: the folder is in this container only, so it can't be mounted into another one
		}
		if theirs = append(theirs, host); own == f.UserData {
			userData := path.Dir(host)
			theirs = append(theirs, userData, path.Join(path.Dir(userData), "ecosystem"))
		}
	}
	for _, p := range theirs {
		if overlap(at, p) {
			return private(source)
		}
	}
	return nil
}

func unmounted(source string, err error) error {
	if _, ok := errors.AsType[*fault.Fault](err); ok {
		return err
	}
	return fault.Invalid("Invalid mounts: capability-broker doesn't see %s; mount it there at its own path", source).With("invalid_mounts").Because(err)
}

// makeShared makes a folder that packs share, unless it is there. Its default access control list lets this process and the group of user_data
// change whatever a handler makes in it. On a file system without such lists everybody may write in it; the mode of Shared itself keeps
// other users of the host out.
func (f *Folders) makeShared(name string) error {
	made := path.Join(f.Shared, name)
	if err := os.Mkdir(made, 0o770); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return fmt.Errorf("make shared folder: %w", err)
	}
	folder, err := os.OpenFile(made, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("make shared folder: %w", err)
	}
	defer folder.Close()
	var is unix.Stat_t
	if err := unix.Fstat(int(folder.Fd()), &is); err != nil {
		return fmt.Errorf("make shared folder: %w", err)
	}
	all := acl.List{Owner: 7, Group: 7, Users: map[int]uint16{os.Geteuid(): 7, sandbox.UID: 7}, Groups: map[int]uint16{int(is.Gid): 7}}
	if _, err = acl.SetAccess(folder, all); err == nil {
		_, err = acl.SetDefault(folder, all)
	}
	if errors.Is(err, acl.ErrUnsupported) {
		err = folder.Chmod(0o777)
	}
	if err != nil {
		return fmt.Errorf("make shared folder: %w", err)
	}
	return nil
}

type inode struct{ dev, ino uint64 }

// inodes are those of Own. By them a folder is recognised whatever path leads to it: a bind mount in one of the roots has another path.
func (f *Folders) inodes() (map[inode]bool, error) {
	known := make(map[inode]bool)
	for _, p := range f.Own {
		var is unix.Stat_t
		if err := unix.Stat(p, &is); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("inspect %s: %w", p, err)
		}
		known[inode{is.Dev, is.Ino}] = true
	}
	return known, nil
}

var errOwn = errors.New("a folder of Rumi's own")

// open walks from a root into a folder, one name at a time, without following a link and without passing a folder of own. Links on the way to
// the root were made by the operator, who names it.
func open(root, rest string, own map[inode]bool) (folder *os.File, err error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	fd, err := unix.Open(root, flags, 0)
	if err != nil {
		return nil, err
	}
	folder = os.NewFile(uintptr(fd), root)
	defer func() {
		if err != nil {
			_ = folder.Close()
			folder = nil
		}
	}()
	names := strings.Split(rest, "/")
	if rest == "" {
		names = nil
	}
	for {
		dev, ino, err := identity(folder)
		switch {
		case err != nil:
			return folder, err
		case own[inode{dev, ino}]:
			return folder, errOwn
		case len(names) == 0:
			return folder, nil
		}
		fd, err := unix.Openat(int(folder.Fd()), names[0], flags|unix.O_NOFOLLOW, 0)
		if err != nil {
			return folder, err
		}
		next := os.NewFile(uintptr(fd), path.Join(folder.Name(), names[0]))
		_ = folder.Close()
		folder, names = next, names[1:]
	}
}

func identity(f *os.File) (dev, ino uint64, err error) {
	var is unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &is); err != nil {
		return 0, 0, fmt.Errorf("inspect %s: %w", f.Name(), err)
	}
	return is.Dev, is.Ino, nil
}
