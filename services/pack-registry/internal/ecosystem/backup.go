package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
)

// BackupFolder is where backups lie, relative to the Rumi home.
const BackupFolder = "user_data/pack_backups"

// Reasons of a backup: what was going to happen to the pack.
const (
	ForApply     = "apply"
	ForUninstall = "uninstall"
	ForRollback  = "rollback"
)

// Backup is what a pack was before something happened to it.
type Backup struct {
	Name      string // of its folder; what Rollback takes
	CreatedAt time.Time
	Reason    string // ForApply, ForUninstall or ForRollback
	Path      string // relative to the Rumi home
	Bytes     int64  // of its files

	Version  string
	Identity string
	Error    string // why the two can't be told
}

// makingPrefix begins the name of a backup that is being made.
const makingPrefix = ".making-"

// A backup's name says when and why it was made, so that nothing else has to be kept, or can be lost.
const stampTime = "20060102T150405.000000000Z"

var stampPattern = regexp.MustCompile(`^([0-9]{8}T[0-9]{6}\.[0-9]{9}Z)-[0-9a-f]{8}-(` + ForApply + `|` + ForUninstall + `|` + ForRollback + `)$`)

// stamp names a new backup of a pack: "<id>/<UTC time>-<operation>-<reason>", unique also within one instant.
func stamp(id pack.ID, now time.Time, operation, reason string) string {
	return path.Join(string(id), now.UTC().Format(stampTime)+"-"+operation[:8]+"-"+reason)
}

// parseStamp reads the last element of what stamp made; ok is false for any other name.
func parseStamp(name string) (created time.Time, reason string, ok bool) {
	parts := stampPattern.FindStringSubmatch(name)
	if parts == nil {
		return time.Time{}, "", false
	}
	created, err := time.Parse(stampTime, parts[1])
	return created, parts[2], err == nil
}

// Backups lists the backups of a pack, the newest first. The pack need not be installed, nor have ever been.
func (e *Ecosystem) Backups(ctx context.Context, id pack.ID) ([]Backup, error) {
	entries, err := fs.ReadDir(e.backups.FS(), string(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list backups: %w", err)
	}
	var all []Backup
	for _, entry := range entries {
		created, reason, ok := parseStamp(entry.Name())
		if !ok || !entry.IsDir() {
			continue
		}
		b := Backup{Name: entry.Name(), CreatedAt: created, Reason: reason}
		dir := path.Join(string(id), b.Name)
		b.Path = path.Join(BackupFolder, dir)
		err := folder.Each(ctx, e.backups, dir, func(_ string, info fs.FileInfo) { b.Bytes += info.Size() })
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list backups: %w", err)
		}
		if d, err := describe(e.backups, dir); err != nil {
			b.Error = err.Error()
		} else {
			b.Version, b.Identity = d.Version, d.PackIdentity
		}
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b Backup) int { return strings.Compare(b.Name, a.Name) })
	return all, nil
}

// backup copies the folder of a pack, relative to the ecosystem folder, to a backup that stamp made.
func (e *Ecosystem) backup(ctx context.Context, dir, to string) error {
	parent := path.Dir(to)
	if err := e.backups.Mkdir(parent, backupModes.Folder); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make backup: %w", err)
	}
	temp := path.Join(parent, makingPrefix+path.Base(to))
	err := folder.Copy(ctx, e.root, dir, e.backups, temp, folder.Options{Modes: backupModes, Limits: treeLimits, Lenient: true})
	if err == nil {
		err = folder.SyncAll(e.backups, temp)
	}
	if err == nil {
		e.step("backup copied")
		err = e.backups.Rename(temp, to)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make backup: %w", mend(dir, err)), e.dropBackup(temp))
	}
	inner, err := e.backups.OpenRoot(parent)
	if err != nil {
		return fmt.Errorf("make backup: %w", err)
	}
	defer inner.Close()
	return errors.Join(folder.Sync(inner), folder.Sync(e.backups))
}

// dropBackup removes a backup, and the folder of the pack's backups when it was the only one.
func (e *Ecosystem) dropBackup(name string) error {
	err := folder.Remove(e.backups, name)
	_ = e.backups.Remove(path.Dir(name)) // fails while there are others
	return err
}

// clearUnfinishedBackups removes the backups that processes were making or removing when they were killed; none may be under way.
func (e *Ecosystem) clearUnfinishedBackups() error {
	var problems []error
	for _, prefix := range []string{makingPrefix, removingPrefix} {
		unfinished, err := fs.Glob(e.backups.FS(), "*/"+prefix+"*")
		if err != nil {
			return fmt.Errorf("list backups: %w", err)
		}
		for _, name := range unfinished {
			problems = append(problems, e.dropBackup(name))
		}
	}
	return errors.Join(problems...)
}
