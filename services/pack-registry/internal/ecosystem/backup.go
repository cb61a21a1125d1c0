package ecosystem

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
)

// BackupFolder is the folder of all backups, relative to the Rumi home.
const BackupFolder = "user_data/pack_backups"

// Reasons of a backup: the change before which it was made.
const (
	ForApply     = "apply"
	ForUninstall = "uninstall"
	ForRollback  = "rollback"
)

// Backup is a copy of a pack's folder from before a change.
type Backup struct {
	Name      string    // of its folder; what Rollback takes
	CreatedAt time.Time // by the clock of that time
	Reason    string    // ForApply, ForUninstall or ForRollback
	Path      string    // relative to the Rumi home
	Bytes     int64     // of its files

	Version  string
	Identity string
	Error    string // why version or identity could not be read
}

// makingPrefix begins the name of a backup that is being made. It gets its own name when it is complete and synced.
const makingPrefix = ".making-"

// A backup's name has everything that is known of it: time, operation, reason and a number. There is no table that could be lost, or
// disagree with the folder. The number says which backup is newer, because a clock can be set back; names made by earlier versions of
// Rumi have none.
const timeFormat = "20060102T150405.000000000Z"

var namePattern = regexp.MustCompile(`^([0-9]{8}T[0-9]{6}\.[0-9]{9}Z)-[0-9a-f]{8}-(` + ForApply + `|` + ForUninstall + `|` + ForRollback + `)(?:-([0-9]{6,18}))?$`)

// backupName is the name of a backup, read.
type backupName struct {
	name    string
	created time.Time
	reason  string
	number  int64 // 0 where the name has none: then modes weren't kept either
}

// parseBackupName reads a backup's name; ok is false for any other name.
func parseBackupName(name string) (s backupName, ok bool) {
	parts := namePattern.FindStringSubmatch(name)
	if parts == nil {
		return backupName{}, false
	}
	created, err := time.Parse(timeFormat, parts[1])
	if err != nil {
		return backupName{}, false
	}
	s = backupName{name: name, created: created, reason: parts[2]}
	if parts[3] != "" {
		s.number, err = strconv.ParseInt(parts[3], 10, 64)
	}
	return s, err == nil
}

// compareAge orders backups from the oldest to the newest.
func compareAge(a, b backupName) int {
	return cmp.Or(cmp.Compare(a.number, b.number), strings.Compare(a.name, b.name))
}

// backupFolder is the folder of all backups. The service runs without it; each call that needs it tries to open it, and fails
// with a fault.
type backupFolder struct {
	path string
	mu   sync.Mutex
	root *os.Root
}

// open opens the folder. It makes the folder if it is missing, and opens it again if it was removed or replaced. The error is a
// fault.
func (a *backupFolder) open() (*os.Root, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.root != nil {
		known, err := a.root.Stat(".")
		now, nowErr := os.Stat(a.path)
		if err == nil && nowErr == nil && os.SameFile(known, now) {
			return a.root, nil
		}
		a.root.Close()
		a.root = nil
	}
	err := os.MkdirAll(a.path, 0o750)
	if err == nil {
		a.root, err = os.OpenRoot(a.path)
	}
	if err != nil {
		return nil, spaceFault(unusable(BackupFolder, err))
	}
	return a.root, nil
}

func (a *backupFolder) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.root == nil {
		return nil
	}
	return a.root.Close()
}

// unusable is the fault of a path in user_data/ that can't be used as a folder.
func unusable(name string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return err
	}
	what := fmt.Sprintf("%s can't be used (%v). ", name, withoutPath(err))
	if errors.Is(err, fs.ErrPermission) {
		what += fmt.Sprintf("Run in the Rumi home: sudo chown -R %d:%d %s", os.Geteuid(), os.Getegid(), name)
	} else {
		what += "Move away what is in its place"
	}
	return fault.Conflict("%s", what).With("folder_unusable").Because(err)
}

// backupNames lists the backups of a pack, the oldest first.
func (e *Ecosystem) backupNames(id pack.ID) ([]backupName, error) {
	backups, err := e.backups.open()
	if err != nil {
		return nil, err
	}
	names, err := folder.Names(backups, string(id))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := backups.Lstat(string(id)); errors.Is(err, fs.ErrNotExist) { // else it is a link to nothing
			return nil, nil
		}
	}
	if err != nil {
		return nil, unusable(path.Join(BackupFolder, string(id)), err)
	}
	var all []backupName
	for _, name := range names {
		s, ok := parseBackupName(name)
		if !ok {
			continue
		}
		if info, err := backups.Lstat(path.Join(string(id), name)); err == nil && !info.IsDir() || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		all = append(all, s)
	}
	slices.SortFunc(all, compareAge)
	return all, nil
}

// newBackup makes the name of a new backup: "<id>/<UTC time>-<operation>-<reason>-<number>". The caller holds the lock, so that
// no number is given twice.
func (e *Ecosystem) newBackup(id pack.ID, now time.Time, operation, reason string) (string, error) {
	all, err := e.backupNames(id)
	if err != nil {
		return "", err
	}
	number := int64(1)
	if len(all) > 0 {
		number = all[len(all)-1].number + 1
	}
	return path.Join(string(id), fmt.Sprintf("%s-%s-%s-%06d", now.UTC().Format(timeFormat), operation[:8], reason, number)), nil
}

// Backups lists the backups of a pack, the one made last first. The pack need not be installed, nor have ever been.
func (e *Ecosystem) Backups(ctx context.Context, id pack.ID) ([]Backup, error) {
	backupNames, err := e.backupNames(id)
	if err != nil {
		return nil, err
	}
	backups, err := e.backups.open()
	if err != nil {
		return nil, err
	}
	var all []Backup
	for _, s := range slices.Backward(backupNames) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		dir := path.Join(string(id), s.name)
		b := Backup{Name: s.name, CreatedAt: s.created, Reason: s.reason, Path: path.Join(BackupFolder, dir)}
		var size diskusage.Item
		size.Measure(ctx, backups, dir)
		b.Bytes, b.Error = size.Bytes, size.Error
		if d, err := describe(backups, dir); err != nil {
			b.Error = err.Error()
		} else {
			b.Version, b.Identity = d.Version, d.PackIdentity
		}
		all = append(all, b)
	}
	return all, nil
}

// RemoveBackup removes a backup of a pack. The name is one of Backups, whole; the error is a fault, 404 for another one.
func (e *Ecosystem) RemoveBackup(ctx context.Context, id pack.ID, name string) error {
	if _, ok := parseBackupName(name); !ok {
		return backupNotFound(name)
	}
	release, err := e.acquire(ctx, lockWait)
	if err != nil {
		return err
	}
	defer release()
	backupNames, err := e.backupNames(id)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(backupNames, func(s backupName) bool { return s.name == name }) {
		return backupNotFound(name)
	}
	return e.removeBackups(context.WithoutCancel(ctx), id, []string{name}, audit.Entry{
		Category: audit.System, Action: "pack_backup_removed", Success: true, OwnerPack: string(id),
		Details: map[string]any{"pack_id": id, "backup": name},
	})
}

// restoreOptions are the options with which a rollback copies a backup.
func (e *Ecosystem) restoreOptions(from string) folder.Options {
	options := folder.Options{Modes: installModes, Limits: treeLimits, Lenient: true}
	if s, ok := parseBackupName(path.Base(from)); ok && s.number > 0 {
		options.KeepModes = true
	}
	return options
}

// backup copies the folder dir of a pack to the backup that newBackup named. The backup has its name only when it is complete
// and on the disk.
func (e *Ecosystem) backup(ctx context.Context, dir, to string) error {
	backups, err := e.backups.open()
	if err != nil {
		return err
	}
	parent := path.Dir(to)
	if err := backups.Mkdir(parent, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make backup: %w", unusable(BackupFolder, err))
	}
	temp := path.Join(parent, makingPrefix+path.Base(to))
	if err := folder.Copy(ctx, e.root, dir, backups, temp, folder.Options{KeepModes: true, Limits: treeLimits, Lenient: true}); err != nil {
		return errors.Join(fmt.Errorf("make backup: %w", pack.Advise(e.root, dir, err)), e.deleteBackup(temp))
	}
	err = folder.SyncAll(backups, temp)
	if err == nil {
		e.step("backup copied")
		err = backups.Rename(temp, to)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make backup: %w", err), e.deleteBackup(temp))
	}
	inner, err := backups.OpenRoot(parent)
	if err != nil {
		return fmt.Errorf("make backup: %w", err)
	}
	defer inner.Close()
	return errors.Join(folder.Sync(inner), folder.Sync(backups))
}

// deleteBackup removes a backup, and the folder of the pack's backups if it was the only one.
func (e *Ecosystem) deleteBackup(name string) error {
	backups, err := e.backups.open()
	if err != nil {
		return err
	}
	err = folder.Remove(backups, name)
	_ = backups.Remove(path.Dir(name)) // fails while there are others
	return err
}

// clearUnfinishedBackups removes the backups that a process was making or removing when it was killed. The caller holds the
// lock.
func (e *Ecosystem) clearUnfinishedBackups() error {
	backups, err := e.backups.open()
	if err != nil {
		return err
	}
	packs, err := folder.Names(backups, ".")
	problems := []error{err}
	for _, id := range packs {
		names, err := folder.Names(backups, id)
		if err != nil {
			continue // no folder of backups
		}
		for _, name := range names {
			if strings.HasPrefix(name, makingPrefix) || strings.HasPrefix(name, removingPrefix) {
				problems = append(problems, e.deleteBackup(path.Join(id, name)))
			}
		}
	}
	return errors.Join(problems...)
}
