package ecosystem

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/pack"
)

// Bounds of the search for missing rights.
const (
	maxRightsNames = 20_000 // names that are checked in all packs together; the packs' own folders are always checked
	maxRights      = 50     // packs that are reported one by one
)

// missingRights reports packs that were copied into the ecosystem folder with rights that are too narrow. Some can't be read,
// and so not approved (unread); others can't be replaced or removed later (warnings). The usual reason is a program that copies
// the source's modes, and so reduces the rights that the folder's default access list would give.
func (e *Ecosystem) missingRights(all []pack.Found) (unread []Refusal, warnings []string) {
	left, more := maxRightsNames, 0
	for _, found := range all {
		if found.Err != nil {
			continue // Scan reports its Err
		}
		r := rights{left: &left}
		r.folder(e.root, found.Dir)
		if r.unread == 0 && r.unchanged == 0 {
			continue
		}
		if len(unread)+len(warnings) == maxRights {
			more++
			continue
		}
		if r.unread > 0 {
			err := pack.AdviseFile(e.root, found.Dir, strings.TrimPrefix(r.first, found.Dir+"/"), r.err)
			unread = append(unread, Refusal{string(found.ID), "it can't be approved: " + message(err) + others(r.unread-1)})
			continue
		}
		what := fmt.Sprintf("%s can't be changed by Rumi (%d of its folders), so uninstall and apply leave its old files behind", r.first, r.unchanged)
		warnings = append(warnings, fmt.Sprintf("%s: ecosystem/%s. %s", found.ID, what, pack.GrantCommand(e.root, found.Dir, r.first)))
	}
	if left < 0 {
		warnings = append(warnings, fmt.Sprintf("Only the first %d files and folders were checked. For the other packs, an approval says whether Rumi may read them", maxRightsNames))
	}
	if more > 0 {
		warnings = append(warnings, fmt.Sprintf("%d more packs can't be read or changed by Rumi in part", more))
	}
	return unread, warnings
}

// others says how many more names of a pack can't be read.
func others(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %d more)", n)
}

// rights counts what this process may not do in a pack's folder.
type rights struct {
	left      *int // names that may still be checked
	first     string
	err       error // why the first can't be read
	unread    int   // files and folders
	unchanged int   // folders
}

func (r *rights) countDenied(count *int, name string, err error) {
	if *count++; r.unread+r.unchanged == 1 || count == &r.unread && r.unread == 1 {
		r.first, r.err = name, err
	}
}

// folder checks a folder and everything in it; name is relative to root, the ecosystem folder.
func (r *rights) folder(root *os.Root, name string) {
	dir, err := root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) { // or it was removed meanwhile
			r.countDenied(&r.unread, name, err)
		}
		return
	}
	defer dir.Close()
	fd := int(dir.Fd())
	if err := refused(fd, ".", unix.W_OK|unix.X_OK); err != nil && !owned(dir) {
		r.countDenied(&r.unchanged, name, err)
	}
	if err := refused(fd, ".", unix.X_OK); err != nil { // its names can be read, and nothing behind them
		r.countDenied(&r.unread, name, err)
		return
	}
	entries, _ := dir.ReadDir(-1) // a folder that can't be listed is reported when the pack is read
	for _, entry := range entries {
		if *r.left--; *r.left < 0 {
			return
		}
		switch {
		case entry.IsDir():
			r.folder(root, name+"/"+entry.Name())
		case entry.Type().IsRegular():
			if err := refused(fd, entry.Name(), unix.R_OK); err != nil {
				r.countDenied(&r.unread, name+"/"+entry.Name(), err)
			}
		}
	}
}

// refused says why this process may not do something to a name in a folder; nil if it may, or if that isn't known.
func refused(dir int, name string, mode uint32) error {
	if err := unix.Faccessat(dir, name, mode, unix.AT_EACCESS); errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// owned says whether a folder belongs to this process's user, who can give himself the rights.
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
