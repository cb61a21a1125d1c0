package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rumi-ai/rumi/libs/acl"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"golang.org/x/sys/unix"
)

// uninstalledName is the folder, beside those of the packs, that keeps the data of packs that are gone. No pack id
// begins with a dot.
const uninstalledName = ".uninstalled"

// prepareData makes the folder that a pack's container sees as /data: it belongs to this process, the pack (uid 65534)
// may write in it, and the group of root, the operator's, may read. That takes an ACL; on a file system without them
// everybody may write in it, which root (0750) narrows to the operator's group.
func prepareData(root, packID string) (string, error) {
	dir := filepath.Join(root, packID)
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make data folder: %w", err)
	}
	folder, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", fmt.Errorf("open data folder: %w", err)
	}
	defer folder.Close()
	if err := share(folder); err != nil {
		return "", fmt.Errorf("open data folder to the pack: %w", err)
	}
	return dir, nil
}

// share lets the pack write in folder, and this process and the operator's group at whatever the pack makes in it. The
// group is named, since a folder loses its set-group-id bit when a list is set by somebody outside its group.
func share(folder *os.File) error {
	var is unix.Stat_t
	if err := unix.Fstat(int(folder.Fd()), &is); err != nil {
		return err
	}
	_, err := acl.SetAccess(folder, acl.List{Owner: 7, Group: 5, Users: map[int]uint16{sandbox.UID: 7}})
	if err == nil {
		_, err = acl.SetDefault(folder, acl.List{
			Owner: 7, Group: 5,
			Users:  map[int]uint16{os.Geteuid(): 7, sandbox.UID: 7},
			Groups: map[int]uint16{int(is.Gid): 5},
		})
	}
	if errors.Is(err, acl.ErrUnsupported) {
		return folder.Chmod(0o777)
	}
	return err
}

// retireData moves the data of a pack that is uninstalled out of the way of a later pack of the same name. It says
// where to, "" where there was none.
func retireData(root, packID string, now time.Time) (string, error) {
	dir := filepath.Join(root, packID)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err := os.Remove(dir); err == nil {
		return "", nil // it was empty
	}
	parent := filepath.Join(root, uninstalledName, packID)
	if err := os.MkdirAll(parent, 0o750); err != nil {
		return "", fmt.Errorf("keep data of %s: %w", packID, err)
	}
	to := filepath.Join(parent, now.UTC().Format("20060102T150405.000000000Z"))
	if err := os.Rename(dir, to); err != nil {
		return "", fmt.Errorf("keep data of %s: %w", packID, err)
	}
	return to, nil
}
