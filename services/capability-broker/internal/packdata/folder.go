package packdata

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

// Prepare makes the folder of a pack's data under root, if it isn't there, sets its owner and mode, and returns its path.
// This process owns the folder, the pack (uid sandbox.UID) may write in it, and the group of root, the operator's, may read.
//
// That takes a POSIX ACL. On a file system without ACLs the folder gets mode 0777; then root itself (0750) keeps everybody
// but the operator's group out.
//
// Two attacks are answered here. A link in the folder's stead would have the ACL set, and the container's /data mounted,
// elsewhere on the host: the folder is opened with O_NOFOLLOW and changed by its descriptor. And a pack that owned the folder
// could take this process's rights away: it owns nothing but what it makes inside.
func Prepare(root, packID string) (dir string, err error) {
	dir = filepath.Join(root, packID)
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make data folder: %w", err)
	}
	folder, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", fmt.Errorf("open data folder: %w", err)
	}
	defer folder.Close()
	if err := shareWithPack(folder); err != nil {
		return "", fmt.Errorf("set the permissions of the data folder: %w", err)
	}
	return dir, nil
}

// shareWithPack sets the ACL of folder itself and the default ACL that files made in it inherit. The default ACL gives this
// process and the operator's group access to what the pack makes, whatever the pack's umask is.
//
// The operator's group is named in the default ACL by its number: the kernel clears a folder's set-group-id bit when
// somebody outside the folder's group sets an ACL, so new files can't be relied upon to inherit the group.
func shareWithPack(folder *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(folder.Fd()), &st); err != nil {
		return err
	}
	_, err := acl.SetAccess(folder, acl.List{Owner: 7, Group: 5, Users: map[int]uint16{sandbox.UID: 7}})
	if err == nil {
		_, err = acl.SetDefault(folder, acl.List{
			Owner: 7, Group: 5,
			Users:  map[int]uint16{os.Geteuid(): 7, sandbox.UID: 7},
			Groups: map[int]uint16{int(st.Gid): 5},
		})
	}
	if errors.Is(err, acl.ErrUnsupported) {
		return folder.Chmod(0o777)
	}
	return err
}
