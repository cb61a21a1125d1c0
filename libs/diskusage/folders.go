package diskusage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Folder is a folder below user_data that belongs to a service, and how Folders reports it.
type Folder struct {
	Path      string // below user_data: "packs/.uninstalled"
	Depth     int    // which names are items: 0 the folder itself, 1 its entries, 2 the entries of these
	Kind      string // of the items
	Packs     bool   // its entries are named by pack ids; hidden ones are left out
	Removable bool   // nothing needs them
}

// Folders measures folders below userData, which the items' paths call user_data wherever it is. A folder that doesn't exist has no
// items; one that can't be read is an item with the error.
func Folders(ctx context.Context, userData string, folders ...Folder) ([]Item, error) {
	root, err := os.OpenRoot(userData)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var items []Item
	for _, f := range folders {
		items = f.add(ctx, items, root, f.Path, f.Depth, "")
	}
	return items, nil
}

// add appends the items at or below name; id is the pack's, "" where none is known.
func (f Folder) add(ctx context.Context, items []Item, root *os.Root, name string, depth int, id string) []Item {
	item := Item{Path: path.Join("user_data", name), Kind: f.Kind, PackID: id, Removable: f.Removable}
	if f.Removable {
		item.Remove = RemoveCommand(item.Path)
	}
	if depth == 0 {
		info, err := root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return items
		}
		if err == nil {
			item.MadeAt = info.ModTime().UTC()
		}
		item.Measure(ctx, root, name)
		return append(items, item)
	}
	entries, err := fs.ReadDir(root.FS(), name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		item.Error, item.Removable, item.Remove = err.Error(), false, ""
		items = append(items, item)
	}
	for _, entry := range entries {
		below := id
		if f.Packs && name == f.Path {
			if strings.HasPrefix(entry.Name(), ".") {
				continue
			}
			below = entry.Name()
		}
		items = f.add(ctx, items, root, path.Join(name, entry.Name()), depth-1, below)
	}
	return items
}
