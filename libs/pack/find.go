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
	Dir        string     // its folder, relative to the ecosystem folder: "x", or "packs/x" in the legacy folder
	Descriptor Descriptor // the zero value where Err is set
	Err        error      // why it can't be used: its folder or its descriptor can't be read
	Warnings   []string   // for the operator: parts of the descriptor that have no effect, or another one than they seem to have
}

// UnreadableDir is a folder of packs that can't be listed, so that it isn't known whether packs lie in it. Packs in the other
// folder can be used all the same.
type UnreadableDir struct {
	Path string // relative to the ecosystem folder: "packs"; "." for all of it
	Err  error
}

// ErrUnreadable is in the error of Find, besides fs.ErrNotExist, where no pack was found but one may lie in a folder that can't
// be read.
var ErrUnreadable = errors.New("can't be looked into")

// Installed lists the packs of an ecosystem folder, by id. A folder is no pack if it has no descriptor, if its name is no id,
// or if it is a link. A pack that lies in both folders of packs is taken from the ecosystem folder itself, not from the legacy
// one. A pack that can't be read is listed with its Err.
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

// Find looks up one pack. Without one the error is fs.ErrNotExist, and also ErrUnreadable where there may be one that can't be
// seen; there is no other error. A pack that can't be read is found, with its Err.
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
		case unread != nil: // the error about the pack may come from its parent folder
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

// PossibleIDs lists the ids of all folders that may be packs, without reading any: each pack of Installed is among them.
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

// folders lists the sub-folders of parent whose names are ids. If parent doesn't exist, or is no folder, there are none.
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

// isPackDir says whether packs may lie in parent: it exists and is a real folder, not a link. An error says why that isn't
// known, or why the folder can't be listed or searched.
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

// openDir opens a folder to list it. If something else has taken its place (a FIFO, say), opening that doesn't block.
func openDir(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
}

// listDir calls each with every name in a folder and its type. An entry whose type can't be read is passed as an irregular
// folder. An error says that the list is incomplete.
func listDir(root *os.Root, parent string, each func(name string, kind fs.FileMode)) error {
	dir, err := openDir(root, parent)
	if err != nil {
		return err
	}
	defer dir.Close()
	// ReadDir(-1) isn't enough: on a file system that doesn't have the types in its lists, it ends at the first name that lstat fails for.
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
			// A name that lstat fails for is most often a mount point whose server doesn't answer, so a folder.
			each(name, fs.ModeDir|fs.ModeIrregular)
		}
	}
	return err
}

// readPack reads the pack id in parent, for which isPackDir is true. The error is fs.ErrNotExist where there is none; any other
// problem is the pack's Err.
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
