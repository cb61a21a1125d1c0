// Package mount decides which folders of the host a handler's container may see, and makes sure that it sees those and no
// others.
//
// A grant names a folder by its path, and so does the order to the engine, which walks that path again, as root, on the
// host, following links. Whoever may write in a folder on the way can put a link there in between: another handler whose
// grant lets it write in a folder around it, or whoever else uses the operator's folders. No check beforehand helps against
// that. So a folder is opened here without following a link, kept open so that its inode can't become another's, and
// compared with what the container really got, before the first line of the handler is loaded: Found.Is. What fails that
// has shown the folder to our own code only, and is removed.
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

// Setting names the operator's roots.
const Setting = "RUMI_CAPABILITY_MOUNT_ROOTS"

// system are the host's own folders: neither they, nor what is in them, nor what they are in is anybody's to see.
var system = strings.Fields(`/bin /boot /dev /etc /lib /lib32 /lib64 /libx32 /proc /run /sbin /sys /usr
	/var/lib/containerd /var/lib/docker /var/run`)

// Config says which folders there are.
type Config struct {
	Shared string   // where sources without a slash in front lie
	Roots  []string // in which others may lie; at the same place on the host as here
	// Own are Rumi's folders and sockets, as this process sees them; handlers see nothing of them, Shared aside.
	Own []string
	// UserData is one of Own that lies in user_data: all of that is Rumi's, and ecosystem beside it.
	UserData string
	// HostPath is where the host has a path.
	HostPath func(ctx context.Context, path string) (string, error)
}

// Folders finds what grants name.
type Folders struct{ Config }

// New checks the operator's roots.
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

// Found is a folder that a container may see.
type Found struct {
	sandbox.Mount
	folder   *os.File // open, so that the inode stays its own
	dev, ino uint64
}

// Is says whether a folder in a container is this one.
func (f *Found) Is(dev, ino uint64) bool { return f.dev == dev && f.ino == ino }

// Close lets go of the folder.
func (f *Found) Close() { _ = f.folder.Close() } // read-only: never fails

// CheckGrant is a check of grant.Config: are there such folders, and may they be seen?
func (f *Folders) CheckGrant(ctx context.Context, g *grant.Grant) error {
	found, err := f.Find(ctx, g.Terms.Mounts, false)
	closeAll(found)
	return err
}

// Find opens the folders of a grant, which is well-formed. Where readOnly is set none may be written in. What may not be
// seen, or isn't there, is a fault of KindInvalid.
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
		if err := f.foreign(ctx, m.Source); err != nil {
			return nil, err
		}
	} else if !strings.Contains(rest, "/") {
		if err := f.share(rest); err != nil {
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

// root is the innermost of the roots that a path lies in, and the rest of the path.
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

// foreign refuses a path that is, holds or lies in what is the system's or Rumi's own, by what the host calls them.
func (f *Folders) foreign(ctx context.Context, source string) error {
	at, err := f.HostPath(ctx, source)
	if err != nil {
		return unmounted(source, err)
	}
	theirs := append([]string(nil), system...)
	for _, own := range f.Own {
		host, err := f.HostPath(ctx, own)
		if err != nil {
			continue // in no mount: nobody else has it
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

// share makes a folder that packs share, unless it is there. Whatever a handler makes in it, this process and the group of
// user_data may change; on a file system without access control lists everybody may, which the folder around it narrows.
func (f *Folders) share(name string) error {
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

// inodes are those of Own: they are known by whatever path leads there.
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

// open walks from a root into a folder, one name at a time: no link is followed, and none of own is passed. Links on the
// way to the root are the operator's.
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
