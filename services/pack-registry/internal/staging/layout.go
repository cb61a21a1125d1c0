package staging

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/store"
)

// several is the folder in an import that holds several packs.
const several = "packs"

// arrange finds the packs in the folder incoming, which was called name in the import, and moves each to a folder of its own in
// the folder payload, which it makes. Either incoming is a pack, or packs/ in it holds some; what else lies there is left.
func arrange(root *os.Root, incoming, name, payload string) (packs []store.StagedPack, multi bool, err error) {
	if err := root.Mkdir(payload, 0o750); err != nil {
		return nil, false, err
	}
	d, err := describe(root, incoming)
	switch {
	case err == nil:
		one := staged(string(d.PackID), name, d)
		return []store.StagedPack{one}, false, root.Rename(incoming, path.Join(payload, one.Dir))
	case !errors.Is(err, pack.ErrNone):
		return nil, false, invalidDescriptor(name, err)
	}
	folders, err := subfolders(root, path.Join(incoming, several))
	if err != nil {
		return nil, true, err
	}
	if len(folders) == 0 {
		return nil, false, noDescriptor(name)
	}
	for _, folder := range folders {
		shown := path.Join(several, folder)
		id, err := pack.ParseID(folder)
		if err != nil {
			return nil, true, err
		}
		from := path.Join(incoming, several, folder)
		d, err := describe(root, from)
		if errors.Is(err, pack.ErrNone) {
			return nil, true, noDescriptor(shown)
		}
		if err != nil {
			return nil, true, invalidDescriptor(shown, err)
		}
		packs = append(packs, staged(string(id), folder, d))
		if err := root.Rename(from, path.Join(payload, string(id))); err != nil {
			return nil, true, err
		}
	}
	return packs, true, nil
}

func staged(dir, folder string, d pack.Descriptor) store.StagedPack {
	return store.StagedPack{Dir: dir, Folder: folder, Declared: d.PackID, Identity: d.PackIdentity, Version: d.Version}
}

func describe(root *os.Root, name string) (pack.Descriptor, error) {
	inner, err := root.OpenRoot(name)
	if err != nil {
		return pack.Descriptor{}, err
	}
	defer inner.Close()
	return pack.ReadDescriptor(inner)
}

func noDescriptor(name string) error {
	return fault.Invalid("No %s found in payload %s", pack.File, name).With("no_descriptor")
}

func invalidDescriptor(name string, err error) error {
	return fault.Invalid("Invalid %s in payload %s: %v", pack.File, name, err).With("invalid_descriptor")
}

// subfolders lists the folders in a folder, sorted; none where there is no such folder.
func subfolders(root *os.Root, name string) ([]string, error) {
	dir, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", name, err)
	}
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil || !info.IsDir() {
		return nil, err
	}
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", name, err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}
