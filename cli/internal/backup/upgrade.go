package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// setName is the name of a set of copies; it is a folder's name.
var setName = regexp.MustCompile(`\Aupgrade-[0-9A-Za-z]{1,40}\z`)

// identityDir has the certificates by which services know each other. An init may give them another form, which an older version can't read.
const identityDir = settingsDir + "/identity"

// SaveState copies all databases of a home, and the certificates, into a folder below user_data/state/backup, for PutBackState. Nothing may write
// to them until it returns.
func SaveState(ctx context.Context, home, set string) error {
	dir, err := setDir(home, set)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("copy databases: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("copy databases: %w", err)
	}
	names, err := databasesOf(home)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := snapshot(ctx, filepath.Join(home, name), filepath.Join(dir, filepath.Base(name))); err != nil {
			return err
		}
	}
	if err := copyFolder(filepath.Join(home, identityDir), filepath.Join(dir, "identity")); err != nil {
		return fmt.Errorf("copy certificates: %w", err)
	}
	return syncPath(dir)
}

// PutBackState puts back the certificates of a set, and those of its databases that have other migrations now; it returns whose databases these
// are. The program of the version that the set is of can't open them. The others stay as they are, with what was written since. What is
// replaced is put into the folder after/ of the set. No service may run. It may be repeated.
func PutBackState(ctx context.Context, home, set string) (changed []string, err error) {
	dir, err := setDir(home, set)
	if err != nil {
		return nil, err
	}
	if running, err := Running(home); err != nil || len(running) > 0 {
		return nil, errors.Join(fmt.Errorf("put databases back: services run: %s", strings.Join(running, ", ")), err)
	}
	if err := putBackCertificates(filepath.Join(home, identityDir), dir); err != nil {
		return nil, fmt.Errorf("put certificates back: %w", err)
	}
	names, err := databasesOf(home)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		saved := filepath.Join(dir, filepath.Base(name))
		if _, err := os.Stat(saved); errors.Is(err, fs.ErrNotExist) {
			continue // it is new: the old version doesn't know it
		}
		before, err := describe(ctx, saved, name)
		if err != nil {
			return changed, err
		}
		now, err := describe(ctx, filepath.Join(home, name), name)
		if err == nil && now.Version == before.Version {
			continue
		}
		if err := putBack(ctx, filepath.Join(home, name), saved, filepath.Join(dir, "after")); err != nil {
			return changed, fmt.Errorf("put back %s: %w", name, err)
		}
		changed = append(changed, filepath.Base(filepath.Dir(name)))
	}
	return changed, nil
}

func setDir(home, set string) (string, error) {
	if !setName.MatchString(set) {
		return "", fmt.Errorf("bad name of a set of databases: %q", set)
	}
	return filepath.Join(home, scratchDir, set), nil
}

// databasesOf are the paths of a home's databases, relative to it.
func databasesOf(home string) (names []string, err error) {
	found, err := fs.Glob(os.DirFS(home), stateDir+"/*/*.db")
	for _, name := range found {
		if a, _ := areaOf(name); a.how == databases {
			names = append(names, name)
		}
	}
	return names, err
}

// putBack replaces a database by a copy, in one step, after it was moved aside with its log.
func putBack(ctx context.Context, file, saved, aside string) error {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return err
	}
	next := file + ".back.new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := snapshot(ctx, saved, next); err != nil {
		return err
	}
	if err := errors.Join(os.Chown(next, int(st.Uid), int(st.Gid)), os.Chmod(next, os.FileMode(st.Mode&0o777)), syncPath(next), os.MkdirAll(aside, 0o700)); err != nil {
		return err
	}
	for _, suffix := range []string{"-wal", "-shm", ""} { // the log before its database: it must not meet another one
		err := os.Rename(file+suffix, filepath.Join(aside, filepath.Base(file)+suffix))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(next, file); err != nil {
		return err
	}
	return syncPath(filepath.Dir(file))
}

// putBackCertificates replaces the folder of the certificates by the one of a set.
func putBackCertificates(folder, set string) error {
	saved, next, aside := filepath.Join(set, "identity"), folder+".back.new", filepath.Join(set, "after")
	if err := errors.Join(os.RemoveAll(next), os.MkdirAll(aside, 0o700)); err != nil {
		return err
	}
	if err := copyFolder(saved, next); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(aside, "identity")); err != nil {
		return err
	}
	if err := os.Rename(folder, filepath.Join(aside, "identity")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(next, folder); err != nil {
		return err
	}
	return syncPath(filepath.Dir(folder))
}

// copyFolder copies folders and files of the settings, with owners and modes. Nobody but root and the services write there.
func copyFolder(from, to string) error {
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		target := filepath.Join(to, below)
		switch {
		case d.IsDir():
			err = os.Mkdir(target, 0o700)
		case d.Type().IsRegular():
			err = copyFile(name, target)
		default:
			return nil
		}
		if err != nil {
			return err
		}
		if err := os.Chown(target, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
		return unix.Chmod(target, st.Mode&0o7777)
	})
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(to, data, 0o600), syncPath(to))
}

// syncPath brings a file, or the names in a folder, to the disk.
func syncPath(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
