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

// folder is one folder with the owner and mode it must have.
type folder struct {
	path     string // relative to the root it is made in
	uid, gid int
	mode     uint32    // permission bits with set-group-id, as chmod(2) takes them
	access   *acl.List // nil for none beyond the mode
	inherit  *acl.List // what is made in it starts with; nil for nothing special
}

// ensure makes the folder where it is missing and mends its owner, mode and lists where they differ. It follows no link
// and leaves alone what lies in the folder. Where the file system keeps no access control lists it says so and goes on.
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
		if err := tolerate(err, log); err != nil {
			return false, err
		}
	}
	if d.access != nil {
		changed, err := acl.SetAccess(f, *d.access)
		mended = mended || changed
		if err := tolerate(err, log); err != nil {
			return false, err
		}
	}
	// Last, because a new list has changed the mode bits.
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

func tolerate(err error, log *slog.Logger) error {
	if errors.Is(err, acl.ErrUnsupported) {
		log.Warn("access control list not set; files that the operator copies in under a strict umask may have to be "+
			"opened to the group by hand", "error", err.Error())
		return nil
	}
	return err
}
