package ecosystem

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/journal"
)

// errPreparedGone says that the prepared folder is neither under its hidden name nor installed: another process removed it.
var errPreparedGone = errors.New("the folder that was prepared for it is gone")

// aside is the hidden name that a replaced folder has for a moment, on file systems that can't exchange two names in one step.
func aside(op journal.Operation, p journal.Pack) string {
	return oldPrefix + op.ID + "-" + string(p.ID)
}

// packSwap makes the renames of one pack of an operation. It finds by inode and birth time which folder has which name now, and needs no
// note of the last step. Therefore each step can be repeated by another process after a crash, and a folder that somebody else has put in the
// pack's place meanwhile is left alone.
type packSwap struct {
	root  *os.Root
	dir   int // open on root's folder
	pack  journal.Pack
	aside string
}

// packSwap calls do with the renames of one pack. First it repairs what a process has left that was killed between two renames.
func (e *Ecosystem) packSwap(op journal.Operation, p journal.Pack, do func(packSwap) error) error {
	dir, err := e.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	one := packSwap{e.root, int(dir.Fd()), p, aside(op, p)}
	if err := one.restoreAside(); err != nil {
		return err
	}
	return do(one)
}

// restoreAside renames the folder that has the name aside. It gets the name that is free: that of the pack, if the new folder
// isn't installed yet, or that of the prepared folder.
func (p packSwap) restoreAside() error {
	if _, err := p.root.Lstat(p.aside); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, free := range []string{string(p.pack.ID), p.pack.Prepared} {
		if err := tree.RenameNew(p.dir, p.aside, free); !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil // a leftover: both names are taken
}

// isNew says whether the folder with a name is the new one.
func (p packSwap) isNew(name string) (bool, error) {
	return isFolder(p.root, name, p.pack.Inode, p.pack.Born)
}

// install gives the new folder the pack's name, in one step where the file system can exchange names. It does nothing if that
// was done before. The error is errPreparedGone where the new folder is nowhere.
func (p packSwap) install() error {
	placed, err := p.isNew(string(p.pack.ID))
	if err != nil || placed {
		return err
	}
	switch prepared, err := p.isNew(p.pack.Prepared); {
	case err != nil:
		return err
	case !prepared:
		return errPreparedGone
	}
	err = tree.RenameNew(p.dir, p.pack.Prepared, string(p.pack.ID))
	if errors.Is(err, fs.ErrExist) {
		err = tree.Exchange(p.dir, p.pack.Prepared, string(p.pack.ID), p.aside)
	}
	return err
}

// revert undoes install: the pack's name is that of the replaced folder again, or free, and the new folder has its hidden name.
func (p packSwap) revert() error {
	placed, err := p.isNew(string(p.pack.ID))
	if err != nil || !placed {
		return err
	}
	err = tree.RenameNew(p.dir, string(p.pack.ID), p.pack.Prepared)
	if errors.Is(err, fs.ErrExist) {
		err = tree.Exchange(p.dir, p.pack.Prepared, string(p.pack.ID), p.aside)
	}
	return err
}

// isFolder says whether a name is that of the folder that identify described. A mount whose server doesn't answer is not.
func isFolder(root *os.Root, name string, inode uint64, born int64) (bool, error) {
	nowInode, nowBorn, err := identify(root, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ESTALE) {
		return false, nil
	}
	return nowInode == inode && (nowBorn == born || nowBorn == 0 || born == 0), err
}

// identify returns the inode of the folder that has a name now, and the inode's birth time in ns, 0 where the file system
// doesn't have it.
func identify(root *os.Root, name string) (inode uint64, born int64, err error) {
	dir, err := root.Open(".")
	if err != nil {
		return 0, 0, err
	}
	defer dir.Close()
	var st unix.Statx_t
	err = unix.Statx(int(dir.Fd()), name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st)
	if err != nil {
		return 0, 0, &fs.PathError{Op: "statx", Path: name, Err: err}
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return st.Ino, born, nil
}

// installAll installs every pack of an operation, and syncs the folder.
func (e *Ecosystem) installAll(op journal.Operation) error {
	for _, p := range op.Packs {
		err := e.packSwap(op, p, packSwap.install)
		if errors.Is(err, errPreparedGone) {
			err = fault.Conflict("Pack '%s' was not installed: %v", p.ID, errPreparedGone).With("prepared_folder_gone")
		}
		if err != nil {
			return fmt.Errorf("install pack %s: %w", p.ID, e.adviseRename(string(p.ID), err))
		}
		e.step("placed")
	}
	return folder.Sync(e.root)
}

// revertAll reverts every pack of an operation, and syncs the folder. A pack that can't be reverted doesn't keep the others.
func (e *Ecosystem) revertAll(op journal.Operation) error {
	var problems []error
	for _, p := range op.Packs {
		if err := e.packSwap(op, p, packSwap.revert); err != nil {
			problems = append(problems, fmt.Errorf("take back pack %s: %w", p.ID, e.adviseRename(string(p.ID), err)))
		}
		e.step("taken back")
	}
	return errors.Join(append(problems, folder.Sync(e.root))...)
}

// detach removes a folder from the ecosystem folder. It gets a hidden name first, so that it is no pack from one moment to the
// next; then it is deleted. What can't be deleted stays under the hidden name, and is returned.
func (e *Ecosystem) detach(dir, operation string) (left []leftover, err error) {
	hidden := path.Join(path.Dir(dir), oldPrefix+operation+"-"+path.Base(dir))
	if err := e.root.Rename(dir, hidden); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("take out pack: %w", e.adviseRename(dir, err))
	}
	if err := folder.Sync(e.root); err != nil {
		return nil, fmt.Errorf("take out pack: %w", err)
	}
	e.step("taken out")
	return e.removeHidden(hidden), nil
}

// adviseRename explains why a folder can't be renamed: because of itself, or of the folder that it is in.
func (e *Ecosystem) adviseRename(dir string, err error) error {
	if errors.Is(err, syscall.EACCES) {
		return pack.Advise(e.root, path.Dir(dir), err)
	}
	return pack.Advise(e.root, dir, err)
}
