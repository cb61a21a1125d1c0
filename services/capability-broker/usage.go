package main

import (
	"context"

	"github.com/rumi-ai/rumi/libs/diskusage"
)

// usage is what the broker keeps on the disk: what packs hold in /data, what uninstalls put aside of it, handlers' logs and the copies that
// handlers run from. Values of store.* lie in the database, whose file is one item where it is SQLite's.
func (b *broker) usage(ctx context.Context) ([]diskusage.Item, error) {
	return diskusage.Folders(ctx, b.rt.UserData,
		diskusage.Folder{Path: "packs", Depth: 1, Kind: "pack_data", Packs: true},
		diskusage.Folder{Path: "packs/.uninstalled", Depth: 2, Kind: "uninstalled_data", Packs: true, Removable: true},
		diskusage.Folder{Path: "capabilities/logs", Depth: 1, Kind: "handler_logs", Packs: true},
		diskusage.Folder{Path: "capabilities/handlers", Depth: 1, Kind: "handlers", Packs: true},
		diskusage.Folder{Path: "capabilities/trees", Kind: "approved_trees"},
		diskusage.Folder{Path: "capabilities/environments", Kind: "environments"},
		diskusage.Folder{Path: "shared", Depth: 1, Kind: "shared_folder"},
		diskusage.Folder{Path: "state/capability-broker.db", Kind: "database"},
	)
}
