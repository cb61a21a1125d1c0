// Package acl reads and writes POSIX access control lists of folders as Linux keeps them, in two extended attributes.
//
// The format is that of include/uapi/linux/posix_acl_xattr.h: a little-endian version (2), then entries of tag, permission
// and id, sorted by tag and id.
package acl

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrUnsupported is the error of SetAccess and SetDefault on a file system without access control lists. Compare it with errors.Is.
var ErrUnsupported = errors.New("the file system keeps no access control lists")

// List is an access control list. Permissions are rwx bits, 0 to 7. The mask can't be chosen. It is always rwx, because the kernel
// allows a named user or a group no more than the mask does: with a smaller mask the entries would promise more than they give.
type List struct {
	Owner, Group, Other uint16
	Users, Groups       map[int]uint16 // named users and groups, by id
}

// The attributes of a folder: the list that protects the folder itself, and the list that new files and folders in it get.
const (
	accessAttribute  = "system.posix_acl_access"
	defaultAttribute = "system.posix_acl_default"
)

// Tags of entries and the id of those that have none.
const (
	version = 2

	tagOwner = 0x01
	tagUser  = 0x02
	tagGroup = 0x04
	tagNamed = 0x08 // a named group
	tagMask  = 0x10
	tagOther = 0x20

	noID = ^uint32(0)
)

type entry struct {
	Tag, Perm uint16
	ID        uint32
}

// SetAccess replaces the list of an open file or folder by l. changed says whether it was another one before. The kernel changes the mode
// bits, too: afterwards the group's bits show the mask, so rwx.
func SetAccess(f *os.File, l List) (changed bool, err error) { return set(f, accessAttribute, l) }

// SetDefault replaces the default list of an open folder by l: the list that each new file and folder in it gets. It counts whichever user
// makes the file, and the umask doesn't apply then. changed says whether the default list was another one before.
func SetDefault(f *os.File, l List) (changed bool, err error) { return set(f, defaultAttribute, l) }

func set(f *os.File, attribute string, l List) (bool, error) {
	want := l.encode()
	have := make([]byte, 64<<10) // the kernel's bound on any extended attribute
	n, err := unix.Fgetxattr(int(f.Fd()), attribute, have)
	if err == nil && bytes.Equal(have[:n], want) {
		return false, nil
	}
	if err := unix.Fsetxattr(int(f.Fd()), attribute, want, 0); err != nil {
		if errors.Is(err, unix.ENOTSUP) {
			err = ErrUnsupported
		}
		return false, fmt.Errorf("set %s of %s: %w", attribute, f.Name(), err)
	}
	return true, nil
}

func (l List) encode() []byte {
	entries := []entry{{tagOwner, l.Owner, noID}, {tagGroup, l.Group, noID}, {tagMask, 7, noID}, {tagOther, l.Other, noID}}
	for id, perm := range l.Users {
		entries = append(entries, entry{tagUser, perm, uint32(id)})
	}
	for id, perm := range l.Groups {
		entries = append(entries, entry{tagNamed, perm, uint32(id)})
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.ID, b.ID))
	})
	out := binary.LittleEndian.AppendUint32(nil, version)
	for _, e := range entries {
		out = binary.LittleEndian.AppendUint16(out, e.Tag)
		out = binary.LittleEndian.AppendUint16(out, e.Perm)
		out = binary.LittleEndian.AppendUint32(out, e.ID)
	}
	return out
}
