package backup

import (
	"path"
	"strings"
)

// treatment says how an area of the home is taken.
type treatment int

const (
	plain     treatment = iota // file by file, as each is at that moment
	grown                      // like plain; of a file that is appended to, whole lines only
	units                      // each folder at the area's depth is taken again until it did not change meanwhile
	immutable                  // files that never change once they have their name: later rounds take new names only
	packData                   // like plain, in folders that packs write to: a file that changed while it was read is read again
	databases                  // SQLite files, by SQLite's online backup
	leftOut                    // not taken
)

// area is a part of the home, and how it is taken. A folder that no area names is a part of the one around it.
type area struct {
	path  string // relative to the home
	how   treatment
	depth int    // of units: how many folders below the area a unit lies; 0 is the area itself
	links bool   // symbolic links below it are taken: packs and the operator may have made them
	part  string // the name by which an operator may leave it out; "" for what is never left out
	why   string // of what is left out: the reason
}

// areas are all of them, in the order in which they are taken. The key of the secrets comes before the secrets, which are checked with it. Of
// the audit log comes first what is written last: the checkpoint, the records that it covers, the hashes that these cover, the lines that
// are hashed. So each has what the one before is about, as after a power cut; docs/adr/audit-seals.md has the order.
var areas = []area{
	{path: ".env", how: plain},
	{path: "docker-compose.override.yml", how: plain},
	{path: "user_data", how: plain}, // what nobody has declared is taken rather than lost
	{path: settingsDir, how: units},
	{path: secretsPath, how: units},
	{path: "user_data/approved", how: immutable},
	{path: "user_data/approved/incoming", how: leftOut, why: "half-written"},
	{path: "user_data/capabilities", how: plain},
	{path: handlersDir, how: units, depth: 2},
	{path: handlersDir + "/.staged", how: leftOut, why: "half-written"},
	{path: "user_data/capabilities/trees", how: leftOut, why: "copies, fetched again from approval"},
	{path: "user_data/capabilities/environments", how: leftOut, why: "copies, fetched again from pip-installer"},
	{path: "user_data/capabilities/locks", how: leftOut, why: "locks"},
	{path: "user_data/capabilities/replicas", how: leftOut, why: "marks of running processes"},
	{path: "user_data/pip", how: plain},
	{path: environmentsDir, how: units, depth: 1},
	{path: "user_data/pip/trees", how: leftOut, why: "copies, fetched again from approval"},
	{path: "user_data/pip/work", how: leftOut, why: "builds under way"},
	{path: "ecosystem", how: units, depth: 1, links: true},
	{path: stagingDir, how: units, depth: 1},
	{path: "user_data/pack_backups", how: units, depth: 2, part: "pack_backups"},
	{path: "user_data/import", how: plain, links: true, part: "import"},
	{path: "user_data/packs", how: packData, links: true, part: "packs"},
	{path: "user_data/shared", how: packData, links: true, part: "shared"},
	{path: "user_data/audit_log/checkpoint", how: plain},
	{path: "user_data/audit_log/records.jsonl", how: grown},
	{path: "user_data/audit_log/hashes", how: plain},
	{path: "user_data/audit_log", how: plain},
	{path: "user_data/audit", how: grown},
	{path: "user_data/audit_index", how: leftOut, why: "made anew from the audit log"},
	{path: "user_data/pending", how: leftOut, why: "made anew by approval"},
	{path: "user_data/seal_status", how: leftOut, why: "about the process that seals the audit log"},
	{path: "user_data/backup_status", how: leftOut, why: "about the backups of this machine"},
	{path: "user_data/seal_status", how: leftOut, why: "about the sealer of this machine"},
	{path: "user_data/monitoring", how: leftOut, why: "measurements and traces of this machine, in databases of other programs"},
	{path: stateDir, how: databases},
	{path: scratchDir, how: leftOut, why: "copies of databases while a backup is taken"},
}

const (
	settingsDir     = "user_data/settings"
	secretsPath     = "user_data/secrets"
	handlersDir     = "user_data/capabilities/handlers"
	environmentsDir = "user_data/pip/environments"
	stagingDir      = "user_data/pack_staging"
	stateDir        = "user_data/state"
	scratchDir      = stateDir + "/backup"
)

// areaOf is the area that a path belongs to. ok is false outside of all areas.
func areaOf(name string) (a area, ok bool) {
	for dir := name; dir != "." && dir != "/"; dir = path.Dir(dir) {
		for _, a := range areas {
			if a.path == dir {
				return a, true
			}
		}
	}
	return area{}, false
}

// begins says whether an area begins at a path.
func begins(name string) bool {
	for _, a := range areas {
		if a.path == name {
			return true
		}
	}
	return false
}

// transient says whether a name is one that is never restored: locks, marks of processes, and the temporary names of files and folders that are
// being written. Within a unit or a folder of packs, files have the names that their authors gave them, and all are taken.
func transient(name string) bool {
	a, ok := areaOf(name)
	if !ok {
		return false
	}
	base, below := path.Base(name), strings.Count(strings.TrimPrefix(name, a.path), "/")
	for _, prefix := range []string{".receiving-", ".rumi-new-", ".rumi-old-"} {
		if below == 1 && a.how == units && strings.HasPrefix(base, prefix) {
			return true
		}
	}
	if a.links || a.how == units && a.depth > 0 && below > 1 {
		return false
	}
	for _, suffix := range []string{"-wal", "-shm", "-journal", ".lock", ".alive"} {
		if strings.HasSuffix(base, suffix) {
			return true
		}
	}
	return strings.HasPrefix(base, ".") && strings.HasSuffix(base, ".new")
}

// linkAllowed says whether a symbolic link may be at a path: inside of a pack's folder, or of a folder that packs share, never in the place of
// such a folder. The engine mounts those folders by their path, and would follow a link.
func linkAllowed(name string) bool {
	a, ok := areaOf(name)
	return ok && a.links && strings.Count(strings.TrimPrefix(name, a.path), "/") >= 2
}
