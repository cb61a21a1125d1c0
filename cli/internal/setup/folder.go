package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/acl"
)

// folder is a folder, and the owner, mode and access control lists that it must have.
type folder struct {
	path     string // relative to the root it is made in
	uid, gid int
	mode     uint32    // permission bits with set-group-id, as chmod(2) takes them
	access   *acl.List // its access control list; nil leaves it
	inherit  *acl.List // its default list: what files and folders made in it start with; nil leaves it
}

// ensure makes the folder if it is missing, and corrects its owner, mode and lists where they differ. It follows no link and changes
// nothing inside the folder. On a file system without access control lists it logs that and goes on.
func (d folder) ensure(root *os.Root, log *slog.Logger) error {
	made := true
	if err := root.Mkdir(d.path, 0o700); errors.Is(err, fs.ErrExist) {
		made = false
	} else if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	info, err := root.Lstat(d.path)
	if err != nil {
		return fmt.Errorf("inspect folder: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("make folder: %s is in the way; move it elsewhere (a link can be a mount instead)", path.Join(root.Name(), d.path))
	}
	f, err := root.OpenFile(d.path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	defer f.Close()

	mended, err := d.mend(f, log)
	if err != nil {
		return err
	}
	switch name := path.Join(root.Name(), d.path); {
	case made:
		log.Info("folder made", "path", name)
	case mended:
		log.Info("folder mended", "path", name, "uid", d.uid, "gid", d.gid, "mode", fmt.Sprintf("%04o", d.mode))
	}
	return nil
}

// mend corrects owner, lists and mode of the open folder.
func (d folder) mend(f *os.File, log *slog.Logger) (mended bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, fmt.Errorf("inspect %s: %w", f.Name(), err)
	}
	if int(st.Uid) != d.uid || int(st.Gid) != d.gid {
		if err := f.Chown(d.uid, d.gid); err != nil {
			return false, fmt.Errorf("change owner: %w", err)
		}
		mended = true
	}
	if d.inherit != nil {
		changed, err := acl.SetDefault(f, *d.inherit)
		mended = mended || changed
		if err := allowUnsupported(err, log); err != nil {
			return false, err
		}
	}
	if d.access != nil {
		changed, err := acl.SetAccess(f, *d.access)
		mended = mended || changed
		if err := allowUnsupported(err, log); err != nil {
			return false, err
		}
	}
	// The mode comes last, because setting a list changes the mode's group bits.
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, fmt.Errorf("inspect %s: %w", f.Name(), err)
	}
	if st.Mode&0o7777 != d.mode {
		if err := unix.Fchmod(int(f.Fd()), d.mode); err != nil {
			return false, fmt.Errorf("change mode of %s: %w", f.Name(), err)
		}
		mended = true
	}
	return mended, nil
}

// allowUnsupported logs that the file system has no access control lists, instead of failing.
func allowUnsupported(err error, log *slog.Logger) error {
	if errors.Is(err, acl.ErrUnsupported) {
		log.Warn("access control list not set; files that the operator copies in under a strict umask may have to be "+
			"opened to the group by hand", "error", err.Error())
		return nil
	}
	return err
}
