package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rumi-ai/rumi/libs/acl"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"golang.org/x/sys/unix"
)

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
	if err := shareWithPack(folder); err != nil {
		return "", fmt.Errorf("open data folder to the pack: %w", err)
	}
	return dir, nil
}

// shareWithPack lets the pack write in folder, and this process and the operator's group at whatever the pack makes in it. The
// group is named, since a folder loses its set-group-id bit when a list is set by somebody outside its group.
func shareWithPack(folder *os.File) error {
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
