package container

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

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
	var is unix.Stat_t
	if err := unix.Lstat(dir, &is); err != nil {
		return "", fmt.Errorf("look at data folder: %w", err)
	}
	if is.Mode&unix.S_IFMT != unix.S_IFDIR {
		return "", fmt.Errorf("make data folder: %s is no folder", dir)
	}
	err := unix.Lsetxattr(dir, "system.posix_acl_access", accessACL(), 0)
	if err == nil {
		err = unix.Lsetxattr(dir, "system.posix_acl_default", defaultACL(uint32(os.Geteuid()), is.Gid), 0)
	}
	if errors.Is(err, syscall.EOPNOTSUPP) {
		err = os.Chmod(dir, 0o777)
	}
	if err != nil {
		return "", fmt.Errorf("open data folder to the pack: %w", err)
	}
	return dir, nil
}

// Tags of ACL entries, acl(5) and linux/posix_acl.h.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	aclVersion = 2 // linux/posix_acl_xattr.h
	aclNoID    = ^uint32(0)
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

func accessACL() []byte {
	return encodeACL([]aclEntry{
		{aclUserObj, 7, aclNoID}, {aclUser, 7, sandbox.UID}, {aclGroupObj, 5, aclNoID}, {aclMask, 7, aclNoID}, {aclOther, 0, aclNoID},
	})
}

// defaultACL is what the pack's own files get: this process may remove them, the operator's group may read them. The
// group is named, since a folder loses its set-group-id bit when an ACL is set by somebody outside its group.
func defaultACL(uid, gid uint32) []byte {
	entries := []aclEntry{
		{aclUserObj, 7, aclNoID}, {aclUser, 7, uid}, {aclUser, 7, sandbox.UID}, {aclGroupObj, 5, aclNoID}, {aclGroup, 5, gid},
		{aclMask, 7, aclNoID}, {aclOther, 0, aclNoID},
	}
	slices.SortFunc(entries, func(a, b aclEntry) int {
		if a.tag != b.tag {
			return int(a.tag) - int(b.tag)
		}
		return int(int64(a.id) - int64(b.id))
	})
	return encodeACL(slices.Compact(entries))
}

func encodeACL(entries []aclEntry) []byte {
	out := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range entries {
		out = binary.LittleEndian.AppendUint16(out, e.tag)
		out = binary.LittleEndian.AppendUint16(out, e.perm)
		out = binary.LittleEndian.AppendUint32(out, e.id)
	}
	return out
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
