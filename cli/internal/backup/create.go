package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/tree"
)

// Create writes a backup of a home into a file, reads it back and verifies it. The file gets its name once it is whole, on the disk and can be
// restored; so a file with this name is a backup. It has mode 0600. An existing file is replaced only with force.
//
// A report that is not OK has problems that the home itself has: the backup is written all the same.
func Create(ctx context.Context, file string, force bool, o Options) (Report, error) {
	report, err := create(ctx, file, force, o)
	if err != nil {
		return Report{}, fmt.Errorf("back up to %s: %w", file, err)
	}
	return report, nil
}

func create(ctx context.Context, file string, force bool, o Options) (Report, error) {
	out, report, err := prepare(ctx, file, force, o)
	if err != nil {
		return Report{}, err
	}
	defer out.Discard()
	return report, out.Commit()
}

// prepared is a backup that was written and read back, and has no name yet.
type prepared struct {
	*atomicfile.File
	root *os.Root
}

// Discard removes the file, unless it has its name.
func (p *prepared) Discard() {
	p.File.Discard()
	_ = p.root.Close()
}

// prepare writes a backup, reads it back and verifies it; the caller gives it its name.
func prepare(ctx context.Context, file string, force bool, o Options) (_ *prepared, report Report, err error) {
	if len(o.Recipients) == 0 {
		return nil, report, errors.New("say for whom it is encrypted: --recipient age1… (rumi backup key FILE makes a key) or --passphrase-file FILE")
	}
	dir, base := filepath.Split(file)
	if dir == "" {
		dir = "."
	}
	if err := outside(o.Home, dir); err != nil {
		return nil, report, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, report, err
	}
	if _, err := root.Lstat(base); err == nil && !force {
		return nil, report, errors.Join(fmt.Errorf("%w; to replace it, repeat with --force", fs.ErrExist), root.Close())
	}
	if err := unix.Stat(dir, &o.avoid); err != nil {
		return nil, report, errors.Join(err, root.Close())
	}
	temp := "." + base + ".new"
	out, err := begin(root, base, temp, force)
	if err != nil {
		return nil, report, errors.Join(err, root.Close())
	}
	p := &prepared{File: out, root: root}
	defer func() {
		if err != nil {
			p.Discard()
		}
	}()
	report, err = fill(ctx, out, filepath.Join(dir, temp), o)
	report.File = file
	return p, report, err
}

// fill writes a backup to out, which lies at path, and reads it back.
func fill(ctx context.Context, out *atomicfile.File, path string, o Options) (report Report, err error) {
	heard := &listener{Recipient: o.Recipients[0]}
	o.Recipients = append([]age.Recipient{heard}, o.Recipients[1:]...)
	if _, err := Write(ctx, out, o); err != nil {
		return report, err
	}
	if err := out.Sync(); err != nil {
		return report, err
	}
	written := Source{File: path, Identities: []age.Identity{heard.identity()}, Scratch: filepath.Join(o.Home, scratchDir)}
	if report, err = Verify(ctx, written); err != nil {
		return report, err
	}
	if report.Damaged() {
		return report, fmt.Errorf("what was written can't be read back, and was removed: %s", first(report.Problems))
	}
	if o.Rehearse {
		if err := rehearse(ctx, written, o, report.Head.Owners); err != nil {
			return report, fmt.Errorf("the backup can't be restored, and was removed: %w", err)
		}
	}
	return report, nil
}

// rehearse restores a backup into a scratch folder of the home, which is removed afterwards.
func rehearse(ctx context.Context, s Source, o Options, owners Owners) error {
	dir, err := os.MkdirTemp(filepath.Join(o.Home, scratchDir), ".rehearsal-")
	if err != nil {
		return err
	}
	defer tree.RemoveAll(dir)
	if err := os.Chown(dir, owners.OperatorUID, owners.OperatorGID); err != nil {
		return err
	}
	_, err = Restore(ctx, s, Target{Home: dir, UID: owners.ServiceUID, GID: owners.ServiceGID, Now: o.Now()})
	return err
}

// begin begins the file. It belongs to the owner of its folder, who may want to copy it elsewhere; it is encrypted.
func begin(root *os.Root, base, temp string, force bool) (*atomicfile.File, error) {
	var st unix.Stat_t
	if err := unix.Stat(root.Name(), &st); err != nil {
		return nil, err
	}
	options := []atomicfile.Option{atomicfile.TempName(temp), atomicfile.Owner(int(st.Uid), int(st.Gid))}
	if !force {
		options = append(options, atomicfile.NoReplace())
	}
	return atomicfile.Create(root, base, 0o600, options...)
}

// outside refuses a folder that a backup takes: each backup would have all earlier ones in it.
func outside(home, dir string) error {
	home, err := filepath.EvalSymlinks(home)
	if err != nil {
		return err
	}
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	if home, err = filepath.Abs(home); err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	within, err := filepath.Rel(home, dir)
	if err != nil {
		return nil //nolint:nilerr // they have nothing in common
	}
	if _, taken := areaOf(within); taken || slices.Contains([]string{"ecosystem", "user_data"}, within) {
		return fmt.Errorf("%s is a part of what is backed up; name a folder outside of ecosystem/ and user_data/", dir)
	}
	return nil
}
