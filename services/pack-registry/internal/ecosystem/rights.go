package ecosystem

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/pack"
)

// Bounds of what a scan looks for in packs that are in order as far as approval is concerned.
const (
	maxRightsNames = 20_000 // names that are looked at in all packs together; the packs' own folders are looked at in any case
	maxRights      = 50     // packs that are told of one by one
)

// missingRights are the warnings about packs that were copied into the ecosystem folder so that they can't be read, replaced or
// removed later: copying programs take the source's modes along, and with them cut what the folder's access list would give.
func (e *Ecosystem) missingRights(all []pack.Found) (warnings []string) {
	left, more := maxRightsNames, 0
	for _, found := range all {
		if found.Err != nil {
			continue // told of as an error
		}
		r := rights{left: &left}
		r.folder(e.root, found.Dir)
		if r.unread == 0 && r.unchanged == 0 {
			continue
		}
		if len(warnings) == maxRights {
			more++
			continue
		}
		var what string
		switch {
		case r.unread > 0:
			what = fmt.Sprintf("%s can't be read by Rumi (%d of its names), so it can't be approved", r.first, r.unread)
		default:
			what = fmt.Sprintf("%s can't be changed by Rumi (%d of its folders), so uninstall and apply leave its old files behind", r.first, r.unchanged)
		}
		warnings = append(warnings, fmt.Sprintf("%s: ecosystem/%s. %s", found.ID, what, pack.GrantCommand(e.root, found.Dir, r.first)))
	}
	if more > 0 {
		warnings = append(warnings, fmt.Sprintf("%d more packs can't be read or changed by Rumi in part", more))
	}
	return warnings
}

// rights counts what this process may not do in a pack's folder.
type rights struct {
	left      *int // names that may still be looked at
	first     string
	unread    int // files and folders
	unchanged int // folders
}

func (r *rights) note(count *int, name string) {
	if *count++; r.unread+r.unchanged == 1 || count == &r.unread && r.unread == 1 {
		r.first = name
	}
}

// folder looks at a folder and at what is in it; name is relative to root, the ecosystem folder.
func (r *rights) folder(root *os.Root, name string) {
	dir, err := root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		r.note(&r.unread, name)
		return
	}
	defer dir.Close()
	fd := int(dir.Fd())
	if !r.may(fd, ".", unix.W_OK|unix.X_OK) && !owned(dir) {
		r.note(&r.unchanged, name)
	}
	entries, _ := dir.ReadDir(-1) // what can't be looked at at all is the reader's to tell
	for _, entry := range entries {
		if *r.left--; *r.left < 0 {
			return
		}
		switch {
		case entry.IsDir():
			r.folder(root, name+"/"+entry.Name())
		case entry.Type().IsRegular() && !r.may(fd, entry.Name(), unix.R_OK):
			r.note(&r.unread, name+"/"+entry.Name())
		}
	}
}

// may says whether this process may do something to a name in a folder.
func (r *rights) may(dir int, name string, mode uint32) bool {
	err := unix.Faccessat(dir, name, mode, unix.AT_EACCESS)
	return err != unix.EACCES && err != unix.EPERM
}

// owned says whether a folder belongs to this process's user, which can open it up.
func owned(dir *os.File) bool {
	info, err := dir.Stat()
	if err != nil {
		return false
	}
	return ownerOf(info) == os.Geteuid()
}

func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
