// Package layout has the names of the broker's files and folders in user_data. No other package spells them.
//
// Everything in Capabilities and Packs is the broker's own: no handler may see it, and Docker mounts parts of it only (see packages
// container and worker). Shared is there for packs. State, audit and settings are written by other parts of the suite, too, and are
// listed because no handler may see them either.
package layout

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/rumi-ai/rumi/libs/diskusage"
)

// UserData is the path of the Rumi home's user_data, absolute. Its methods give the paths of what is in it.
type UserData string

func (u UserData) in(elem ...string) string {
	return filepath.Join(append([]string{string(u)}, elem...)...)
}

// Capabilities holds everything of the broker's own that isn't a pack's data.
func (u UserData) Capabilities() string { return u.in("capabilities") }

// Trees holds read-only copies of approved packs, a folder for each digest (libs/tree).
func (u UserData) Trees() string { return u.in("capabilities", "trees") }

// Environments holds read-only copies of what pip-installer has installed for packs, a folder for each digest.
func (u UserData) Environments() string { return u.in("capabilities", "environments") }

// Handlers holds the copies that trusted handlers run from, <pack_id>/<slug>.
func (u UserData) Handlers() string { return u.in("capabilities", "handlers") }

// Logs holds what handlers print, <pack_id>/<slug>.log.
func (u UserData) Logs() string { return u.in("capabilities", "logs") }

// Runs holds the output of packs' earlier runs, a folder for each pack.
func (u UserData) Runs() string { return u.in("capabilities", "runs") }

// Locks holds the lock files that the replicas of a host share.
func (u UserData) Locks() string { return u.in("capabilities", "locks") }

// Replicas holds a locked file for each replica of the broker that runs on this host.
func (u UserData) Replicas() string { return u.in("capabilities", "replicas") }

// Authorities is the PEM bundle of certificate authorities that packs' containers are given.
func (u UserData) Authorities() string { return u.in("capabilities", "egress-ca.pem") }

// Packs holds what packs keep in /data, a folder for each pack.
func (u UserData) Packs() string { return u.in("packs") }

// Shared holds the folders that packs share by grants with mounts.
func (u UserData) Shared() string { return u.in("shared") }

// State holds the services' SQLite databases.
func (u UserData) State() string { return u.in("state") }

// Private are the folders of user_data of which handlers must see nothing.
func (u UserData) Private() []string {
	return []string{u.Capabilities(), u.Packs(), u.State(), u.in("audit"), u.in("settings")}
}

// Make makes the folders that several packages share. The others are made by the package that owns them.
func (u UserData) Make() error {
	for _, dir := range []string{u.Trees(), u.Environments(), u.Locks(), u.Packs(), u.Shared()} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	return nil
}

// Usage measures what the broker keeps on the disk, for the route of libs/diskusage. Values of store.* are in the database, whose file
// is one item where it is SQLite's.
func (u UserData) Usage(ctx context.Context) ([]diskusage.Item, error) {
	return diskusage.Folders(ctx, string(u),
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
