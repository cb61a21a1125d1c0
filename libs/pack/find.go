package pack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// Found is a pack in an ecosystem folder. Its id is its folder's name, whatever its descriptor says.
type Found struct {
	ID         ID
	Dir        string     // its folder, relative to the ecosystem folder: "x", or "packs/x" in the old place
	Descriptor Descriptor // the zero value where Err is set
	Err        error      // why its descriptor can't be used
	Warnings   []string   // what the operator should be told
}

// Installed lists the packs of an ecosystem folder by id. A folder without a descriptor, with a name that is no id or
// that is a link is no pack. What lies in both places is taken from the new one.
func Installed(ecosystem *os.Root) ([]Found, error) {
	return installed(ecosystem, func(place string, id ID) (Found, error) { return at(ecosystem, place, id) })
}

func installed(ecosystem *os.Root, at func(place string, id ID) (Found, error)) ([]Found, error) {
	var all []Found
	index := map[ID]int{}
	for _, place := range []string{".", OldPlace} {
		names, err := folders(ecosystem, place)
		if err != nil {
			return nil, fmt.Errorf("list packs: %w", err)
		}
		for _, name := range names {
			found, err := at(place, ID(name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("list packs: %w", err)
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
	return all, nil
}

// Find looks up one pack. The error is fs.ErrNotExist where there is none.
func Find(ecosystem *os.Root, id ID) (Found, error) {
	return find(id, func(place string, id ID) (Found, error) { return at(ecosystem, place, id) })
}

func find(id ID, at func(place string, id ID) (Found, error)) (Found, error) {
	for _, place := range []string{".", OldPlace} {
		found, err := at(place, id)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return found, err
		}
	}
	return Found{}, fmt.Errorf("find pack %s: %w", id, fs.ErrNotExist)
}

// Names lists the ids of whatever may be an installed pack, without a look into it: each pack of Installed is among them.
func Names(ecosystem *os.Root) ([]ID, error) {
	var ids []ID
	for _, place := range []string{".", OldPlace} {
		names, err := folders(ecosystem, place)
		if err != nil {
			return nil, fmt.Errorf("list packs: %w", err)
		}
		for _, name := range names {
			ids = append(ids, ID(name))
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// folders lists the sub-folders of a place whose names are ids. A place that is not there, or is a link, has none.
func folders(ecosystem *os.Root, place string) ([]string, error) {
	info, err := ecosystem.Lstat(place)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	dir, err := ecosystem.Open(place)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && valid(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// at reads the pack in one place; fs.ErrNotExist where there is none.
func at(ecosystem *os.Root, place string, id ID) (Found, error) {
	found := Found{ID: id, Dir: path.Join(place, string(id))}
	info, err := ecosystem.Lstat(found.Dir)
	if err != nil {
		return Found{}, err
	}
	if !info.IsDir() {
		return Found{}, fs.ErrNotExist
	}
	root, err := ecosystem.OpenRoot(found.Dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return Found{}, err
		}
		found.Err = fmt.Errorf("open pack: %w", err)
		return found, nil
	}
	defer root.Close()
	found.Descriptor, found.Err = ReadDescriptor(root)
	if errors.Is(found.Err, ErrNone) {
		return Found{}, fs.ErrNotExist
	}
	if place == OldPlace {
		found.Warnings = append(found.Warnings, "Using legacy pack path "+path.Join("ecosystem", found.Dir)+
			". This is DEPRECATED and will be removed. Move it to "+path.Join("ecosystem", string(id))+".")
	}
	if found.Err == nil && found.Descriptor.PackID != id {
		found.Warnings = append(found.Warnings, fmt.Sprintf("pack_id mismatch: the folder is %q, %s declares %q", id, File, found.Descriptor.PackID))
	}
	if found.Err == nil && found.Descriptor.PackIdentity == "" {
		found.Warnings = append(found.Warnings, Anonymous)
	}
	return found, nil
}
