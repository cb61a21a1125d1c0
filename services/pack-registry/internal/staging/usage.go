package staging

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
)

// The folders of Usage, relative to the Rumi home.
const (
	areaFolder   = "user_data/pack_staging"
	importFolder = "user_data/import"
)

// Usage lists the disk space of stagings, of imports that run or were killed, and of sources in user_data/import.
func (a *Area) Usage(ctx context.Context) (items []diskusage.Item) {
	items = a.sources(ctx)
	if err := a.ready(); err != nil {
		return append(items, diskusage.Item{Path: areaFolder, Kind: "staging", Error: fault.Of(err).Message})
	}
	all, err := a.store.Stagings(ctx, time.Time{})
	if err != nil {
		a.log.WarnContext(ctx, "could not list stagings", "error", err)
		return append(items, diskusage.Item{Path: areaFolder, Kind: "staging", Error: "the list of stagings can't be read"})
	}
	known := map[string]bool{}
	for _, st := range all {
		known[st.ID] = true
		item := diskusage.Item{
			Path: path.Join(areaFolder, st.ID), Kind: "staging", MadeAt: st.CreatedAt, ExpiresAt: st.CreatedAt.Add(Lifetime), Removable: true,
			Remove: "DELETE /api/packs/staging/" + st.ID,
		}
		if ids := PackIDs(st); len(ids) == 1 {
			item.PackID = ids[0]
		}
		item.Measure(ctx, a.root, st.ID)
		items = append(items, item)
	}
	names, err := folder.Names(a.root, ".")
	if err != nil {
		return append(items, diskusage.Item{Path: areaFolder, Kind: "staging", Error: err.Error()})
	}
	for _, name := range names {
		if known[name] || strings.HasPrefix(name, ".") && !strings.HasPrefix(name, tempPrefix) {
			continue
		}
		item := diskusage.Item{Path: path.Join(areaFolder, name), Kind: "unfinished_import"}
		if info, err := a.root.Lstat(name); err == nil {
			item.MadeAt = info.ModTime().UTC()
		}
		item.Measure(ctx, a.root, name)
		items = append(items, item)
	}
	return items
}

// sources are the archives and folders in user_data/import, which stay when they have been imported.
func (a *Area) sources(ctx context.Context) (items []diskusage.Item) {
	root, err := os.OpenRoot(filepath.Join(a.folders.Home, importFolder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []diskusage.Item{{Path: importFolder, Kind: "import_source", Error: err.Error()}}
	}
	defer root.Close()
	names, err := folder.Names(root, ".")
	if err != nil {
		return []diskusage.Item{{Path: importFolder, Kind: "import_source", Error: err.Error()}}
	}
	for _, name := range names {
		item := diskusage.Item{Path: path.Join(importFolder, name), Kind: "import_source", Removable: true, Remove: diskusage.RemoveCommand(path.Join(importFolder, name))}
		if info, err := root.Lstat(name); err == nil {
			item.MadeAt = info.ModTime().UTC()
		}
		item.Measure(ctx, root, name)
		items = append(items, item)
	}
	return items
}
