package ecosystem

import (
	"context"
	"path"
	"strings"

	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
)

// Usage lists the disk space of installed packs, of their backups, and of leftovers.
func (e *Ecosystem) Usage(ctx context.Context) []diskusage.Item {
	var items []diskusage.Item
	all, _ := e.packs.Installed(e.root) // Scan reports what can't be read
	for _, found := range all {
		item := diskusage.Item{
			Path: path.Join("ecosystem", found.Dir), Kind: "pack", PackID: string(found.ID), Remove: "DELETE /api/packs/" + string(found.ID),
		}
		item.Measure(ctx, e.root, found.Dir)
		items = append(items, item)
	}
	for _, hidden := range e.listHidden(ctx) {
		item := diskusage.Item{
			Path: path.Join("ecosystem", hidden), Kind: "leftover", PackID: packOf(path.Base(hidden)), Removable: true,
			Remove: diskusage.RemoveCommand(path.Join("ecosystem", hidden)),
		}
		if info, err := e.root.Lstat(hidden); err == nil {
			item.MadeAt = info.ModTime().UTC()
		}
		item.Measure(ctx, e.root, hidden)
		items = append(items, item)
	}
	return append(items, e.backupUsage(ctx)...)
}

// packOf is the pack of a hidden folder "<prefix><operation>-<pack_id>"; "" for another name.
func packOf(hidden string) string {
	name := strings.TrimPrefix(strings.TrimPrefix(hidden, newPrefix), oldPrefix)
	if _, id, ok := strings.Cut(name, "-"); ok {
		if id, err := pack.ParseID(id); err == nil {
			return string(id)
		}
	}
	return ""
}

// backupUsage lists the backups of all packs, installed or not, and other entries of the folder of backups.
func (e *Ecosystem) backupUsage(ctx context.Context) (items []diskusage.Item) {
	backups, err := e.backups.open()
	if err != nil {
		return []diskusage.Item{{Path: BackupFolder, Kind: "backup", Error: message(err)}}
	}
	packIDs, err := folder.Names(backups, ".")
	if err != nil {
		return []diskusage.Item{{Path: BackupFolder, Kind: "backup", Error: err.Error()}}
	}
	for _, id := range packIDs {
		names, err := folder.Names(backups, id)
		if err != nil {
			items = append(items, e.foreignUsage(ctx, id))
			continue
		}
		for _, name := range names {
			dir := path.Join(id, name)
			made, ok := parseBackupName(name)
			if !ok {
				items = append(items, e.foreignUsage(ctx, dir))
				continue
			}
			item := diskusage.Item{
				Path: path.Join(BackupFolder, dir), Kind: "backup", PackID: id, MadeAt: made.created, Removable: true,
				Remove: "DELETE /api/packs/" + id + "/backups/" + name,
			}
			item.Measure(ctx, backups, dir)
			items = append(items, item)
		}
	}
	return items
}

// foreignUsage is an entry of the folder of backups that is no backup: an unfinished one, which the next scan removes, or
// somebody else's.
func (e *Ecosystem) foreignUsage(ctx context.Context, name string) diskusage.Item {
	item := diskusage.Item{Path: path.Join(BackupFolder, name), Kind: "unknown"}
	if base := path.Base(name); strings.HasPrefix(base, makingPrefix) || strings.HasPrefix(base, removingPrefix) {
		item.Kind, item.PackID, item.Removable, item.Remove = "leftover", path.Dir(name), true, "POST /api/packs/scan"
	}
	if backups, err := e.backups.open(); err == nil {
		item.Measure(ctx, backups, name)
	}
	return item
}
