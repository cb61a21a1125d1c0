package pack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// Found is a pack in an ecosystem folder. Its id is its folder's name, whatever its descriptor says.
type Found struct {
	ID         ID
	Dir        string     // its folder, relative to the ecosystem folder: "x", or "packs/x" in the old place
	Descriptor Descriptor // the zero value where Err is set
	Err        error      // why it can't be used: its folder or its descriptor can't be read
	Warnings   []string   // what the operator should be told
}

// Unread is something in an ecosystem folder that can't be looked into, so that nobody knows whether packs lie there. It keeps
// nobody from using the packs that lie elsewhere.
type UnreadableDir struct {
	Path string // relative to the ecosystem folder: "packs"; "." for all of it
	Err  error
}

// ErrUnread is in the error of Find, beside fs.ErrNotExist, where a pack was not found but may lie where nothing can be read.
var ErrUnreadable = errors.New("can't be looked into")

// Installed lists the packs of an ecosystem folder by id. A folder without a descriptor, with a name that is no id or
// that is a link is no pack. What lies in both places is taken from the new one. A pack that can't be read is listed with its Err.
func Installed(ecosystem *os.Root) ([]Found, []UnreadableDir) {
	return installed(ecosystem, func(parent string, id ID) (Found, error) { return readPack(ecosystem, parent, id) })
}

func installed(ecosystem *os.Root, readPack func(parent string, id ID) (Found, error)) (all []Found, unread []UnreadableDir) {
	index := map[ID]int{}
	for _, parent := range []string{".", LegacyDir} {
		names, more := folders(ecosystem, parent)
		unread = append(unread, more...)
		for _, name := range names {
			found, err := readPack(parent, ID(name))
			if err != nil { // always fs.ErrNotExist
				continue
			}
			if i, twice := index[found.ID]; twice {
				all[i].Warnings = append(all[i].Warnings, fmt.Sprintf("%s is ignored: %s is there too", found.Dir, all[i].Dir))
				continue
			}
			index[found.ID] = len(all)
			all = append(all, found)
		}
	}
	slices.SortFunc(all, func(a, b Found) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return all, unread
}

// Find looks up one pack. The error is fs.ErrNotExist where there is none, and ErrUnread as well where there may be one all the
// same; there is no other. A pack that can't be read is found, with its Err.
func Find(ecosystem *os.Root, id ID) (Found, error) {
	return find(ecosystem, id, func(parent string, id ID) (Found, error) { return readPack(ecosystem, parent, id) })
}

func find(ecosystem *os.Root, id ID, readPack func(parent string, id ID) (Found, error)) (Found, error) {
	found, err := readPack(".", id)
	if err == nil && found.Err == nil {
		return found, nil
	}
	for _, parent := range []string{".", LegacyDir} {
		switch there, unread := isPackDir(ecosystem, parent); {
		case unread != nil: // whatever was said of the pack may be about the place
			return Found{}, fmt.Errorf("find pack %s: %w: %s %w: %w", id, fs.ErrNotExist, path.Join("ecosystem", parent), ErrUnreadable, unread)
		case !there:
			continue
		case parent == LegacyDir:
			found, err = readPack(parent, id)
		}
		if err == nil {
			return found, nil
		}
	}
	return Found{}, fmt.Errorf("find pack %s: %w", id, fs.ErrNotExist)
}

// Names lists the ids of whatever may be an installed pack, without a look into it: each pack of Installed is among them.
func PossibleIDs(ecosystem *os.Root) ([]ID, []UnreadableDir) {
	var ids []ID
	var unread []UnreadableDir
	for _, parent := range []string{".", LegacyDir} {
		names, more := folders(ecosystem, parent)
		unread = append(unread, more...)
		for _, name := range names {
			ids = append(ids, ID(name))
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), unread
}

// folders lists the sub-folders of a place whose names are ids. A place that is not there, or is no folder, has none.
func folders(ecosystem *os.Root, parent string) (names []string, unread []UnreadableDir) {
	there, err := isPackDir(ecosystem, parent)
	if err != nil {
		return nil, []UnreadableDir{{parent, err}}
	}
	if !there {
		return nil, nil
	}
	err = listDir(ecosystem, parent, func(name string, kind fs.FileMode) {
		if kind.IsDir() && valid(name) {
			names = append(names, name)
		}
	})
	if err != nil {
		unread = []UnreadableDir{{parent, err}}
	}
	return names, unread
}

// absent is a name that nothing in an ecosystem folder has.
const absent = ".rumi-absent"

// isPlace says whether packs may lie in a folder: it is there and a real one. The error says why that can't be told, or why it
// can't be listed or searched.
func isPackDir(ecosystem *os.Root, parent string) (bool, error) {
	info, err := ecosystem.Lstat(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !info.IsDir() {
		return false, nil
	}
	dir, err := openDir(ecosystem, parent)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	if _, err := ecosystem.Lstat(path.Join(parent, absent)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, nil
}

// openDir opens a folder to be listed. Should something else take its place meanwhile, opening that doesn't block.
func openDir(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
}

// entries calls each with every name in a folder and its type. One entry that can't be looked at has an irregular type; an error
// says that the folder's list ended early.
func listDir(root *os.Root, parent string, each func(name string, kind fs.FileMode)) error {
	dir, err := openDir(root, parent)
	if err != nil {
		return err
	}
	defer dir.Close()
	// Not ReadDir(-1) alone: where a file system doesn't tell the types of names, the first that can't be looked at ends that.
	list, err := dir.ReadDir(-1)
	if err == nil {
		for _, e := range list {
			each(e.Name(), e.Type())
		}
		return nil
	}
	again, err := openDir(root, parent)
	if err != nil {
		return err
	}
	defer again.Close()
	names, err := again.Readdirnames(-1)
	for _, name := range names {
		info, err := root.Lstat(path.Join(parent, name))
		switch {
		case err == nil:
			each(name, info.Mode().Type())
		case errors.Is(err, fs.ErrNotExist):
		default:
			// What can't even be looked at is most often the mount point of something that is gone: a folder.
			each(name, fs.ModeDir|fs.ModeIrregular)
		}
	}
	return err
}

// at reads the pack in one place, which isPlace. The error is fs.ErrNotExist where there is none; anything else is the pack's Err.
func readPack(ecosystem *os.Root, parent string, id ID) (Found, error) {
	found := Found{ID: id, Dir: path.Join(parent, string(id))}
	info, err := ecosystem.Lstat(found.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP), err == nil && !info.IsDir():
		return Found{}, fs.ErrNotExist
	case err != nil:
		found.Err = fmt.Errorf("open pack: %w", err)
		return found, nil
	}
	root, err := ecosystem.OpenRoot(found.Dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return Found{}, fs.ErrNotExist
		}
		found.Err = fmt.Errorf("open pack: %w", err)
		return found, nil
	}
	defer root.Close()
	found.Descriptor, found.Err = ReadDescriptor(root)
	if errors.Is(found.Err, ErrNone) {
		return Found{}, fs.ErrNotExist
	}
	if parent == LegacyDir {
		found.Warnings = append(found.Warnings, "Using legacy pack path "+path.Join("ecosystem", found.Dir)+
			". This is DEPRECATED and will be removed. Move it to "+path.Join("ecosystem", string(id))+".")
	}
	if found.Err == nil && found.Descriptor.PackID != id {
		found.Warnings = append(found.Warnings, fmt.Sprintf("pack_id mismatch: the folder is %q, %s declares %q", id, File, found.Descriptor.PackID))
	}
	if found.Err == nil && found.Descriptor.PackIdentity == "" {
		found.Warnings = append(found.Warnings, NoIdentity)
	}
	return found, nil
}
