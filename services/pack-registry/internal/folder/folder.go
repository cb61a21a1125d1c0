// Package folder copies, syncs and removes folders of packs. It works within an os.Root, follows no links, and keeps within
// limits.
package folder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/rumi-ai/rumi/libs/text"
)

// Modes are the modes of what a copy makes. The umask, or the default access control list of the target's folder, takes bits
// from them.
type Modes struct {
	Folder     fs.FileMode
	File       fs.FileMode
	Executable fs.FileMode // of a file that anybody may execute in the source
}

// Options say what may be copied, and how.
type Options struct {
	Modes
	Limits

	// Lenient is for a backup of what is there already: links are copied as links, never followed, any name is taken,
	// and what is neither file nor folder nor link, or is a mount that died, is left out.
	Lenient bool

	// KeepModes gives folders and files exactly the modes that they have in the source, whatever Modes and the umask are; but
	// never set-user-id and set-group-id to a file.
	KeepModes bool
}

// Limits bound a copy.
type Limits struct {
	Files   int   // regular files
	Folders int   // folders, the copied one not counted
	Bytes   int64 // of all files
}

// maxDepth bounds folders within folders.
const maxDepth = 64

// Kinds of LimitError.
const (
	Files   = "files"
	Folders = "folders"
	Bytes   = "bytes"
	Depth   = "folders within folders"
)

// LimitError says which limit a folder exceeds.
type LimitError struct {
	What    string // Files, Folders, Bytes or Depth
	Reached int64  // where counting ended
	Limit   int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%d %s are more than %d", e.Reached, e.What, e.Limit)
}

// Special is the Reason of a RefusedError for a device, a FIFO or a socket.
const Special = "neither a file nor a folder"

// RefusedError names something in a folder that a pack may not have.
type RefusedError struct {
	Path   string // relative to the copied folder
	Reason string
	Link   bool // it is a symbolic link
}

func (e *RefusedError) Error() string { return fmt.Sprintf("%q is %s", e.Path, e.Reason) }

// EntryError says at which entry of a folder a copy failed.
type EntryError struct {
	Path string // relative to the copied folder
	Err  error
}

func (e *EntryError) Error() string { return fmt.Sprintf("%s: %v", e.Path, e.Err) }

// Unwrap gives what failed.
func (e *EntryError) Unwrap() error { return e.Err }

// atEntry adds the entry to an error that names none.
func atEntry(shown string, err error) error {
	_, named := errors.AsType[*EntryError](err)
	_, refused := errors.AsType[*RefusedError](err)
	_, limit := errors.AsType[*LimitError](err)
	if named || refused || limit {
		return err
	}
	return &EntryError{shown, err}
}

// Folded is equal for names that a file system takes for the same if it ignores case and Unicode form.
func Folded(name string) string {
	return norm.NFC.String(caser.String(norm.NFC.String(name)))
}

var caser = cases.Fold() // stateless

// Copy copies the folder from in source to the folder name in to, which must not exist. An entry that is neither a folder nor a
// regular file is a *RefusedError, and so is a name that can't be printed, or that differs from another by case only. If the
// limits are exceeded the error is a *LimitError. Nothing is synced; SyncAll does that for everything at once. After an error a
// part of the copy may exist.
func Copy(ctx context.Context, source *os.Root, from string, to *os.Root, name string, options Options) error {
	c := copier{ctx: ctx, Options: options}
	if err := c.folder(source, from, to, name, ".", 0); err != nil {
		return fmt.Errorf("copy folder: %w", err)
	}
	return nil
}

// copier is one copy, with what it has counted so far.
type copier struct {
	Options
	ctx     context.Context
	files   int
	folders int
	bytes   int64
}

// folder copies one folder; shown is its path in messages.
func (c *copier) folder(source *os.Root, from string, to *os.Root, name, shown string, depth int) error {
	if depth > maxDepth {
		return &LimitError{Depth, int64(depth), maxDepth}
	}
	in, err := openFolder(source, from, shown)
	if err != nil {
		return err
	}
	defer in.Close()
	mode := c.Modes.Folder
	if c.KeepModes {
		mode = 0o700 // until everything is in it
	}
	if err := to.Mkdir(name, mode); err != nil {
		return err
	}
	out, err := to.OpenRoot(name)
	if err != nil {
		return err
	}
	defer out.Close()
	names, err := Names(in, ".")
	if err != nil {
		return err
	}
	folded := make(map[string]string, len(names))
	for _, name := range names {
		inner := path.Join(shown, name)
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := c.checkName(folded, name, inner); err != nil {
			return err
		}
		info, err := in.Lstat(name)
		if c.Lenient && isDeadMount(err) {
			continue
		}
		if err == nil {
			err = c.entry(in, out, name, inner, info, depth)
		}
		if err != nil {
			return atEntry(inner, err)
		}
	}
	if c.KeepModes {
		return keepMode(in, out)
	}
	return nil
}

// unprintable says which character of a name can't be shown.
func unprintable(name string) string {
	c, _ := text.FirstHidden(name, "")
	return fmt.Sprintf("not a name that can be shown: it has %v", c)
}

// checkName refuses names that a pack may not have; folded has the names in the same folder so far.
func (c *copier) checkName(folded map[string]string, name, shown string) error {
	if c.Lenient {
		return nil
	}
	key := Folded(name)
	if other, taken := folded[key]; taken {
		return &RefusedError{Path: shown, Reason: fmt.Sprintf("beside %q, which differs by case or Unicode form only", other)}
	}
	folded[key] = name
	if !text.IsLine(name) {
		return &RefusedError{Path: shown, Reason: unprintable(name)}
	}
	return nil
}

// entry copies one entry of a folder.
func (c *copier) entry(in, out *os.Root, name, shown string, info fs.FileInfo, depth int) error {
	switch {
	case info.IsDir():
		if c.folders++; c.folders > c.Limits.Folders {
			return &LimitError{Folders, int64(c.folders), int64(c.Limits.Folders)}
		}
		return c.folder(in, name, out, name, shown, depth+1)
	case info.Mode().IsRegular():
		if c.files++; c.files > c.Limits.Files {
			return &LimitError{Files, int64(c.files), int64(c.Limits.Files)}
		}
		return c.file(in, out, name, shown, info)
	case info.Mode()&fs.ModeSymlink != 0 && c.Lenient:
		return copyLink(in, out, name)
	case c.Lenient:
		return nil
	case info.Mode()&fs.ModeSymlink != 0:
		return &RefusedError{Path: shown, Reason: "a symbolic link", Link: true}
	default:
		return &RefusedError{Path: shown, Reason: Special}
	}
}

// isDeadMount says whether an error comes from a mount whose server doesn't answer any more.
func isDeadMount(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ESTALE)
}

// keepMode gives a copied folder the mode of its source.
func keepMode(in, out *os.Root) error {
	info, err := in.Stat(".")
	if err != nil {
		return err
	}
	return out.Chmod(".", info.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky))
}

func copyLink(in, out *os.Root, name string) error {
	target, err := in.Readlink(name)
	if err != nil {
		return err
	}
	return out.Symlink(target, name)
}

// openFolder opens a sub-folder. It makes sure that it is the one that Lstat saw: between the two calls somebody may have put a
// link in its place.
func openFolder(root *os.Root, name, shown string) (*os.Root, error) {
	before, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if before.Mode()&fs.ModeSymlink != 0 {
		return nil, &RefusedError{Path: shown, Reason: "a symbolic link", Link: true}
	}
	inner, err := root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	after, err := inner.Stat(".")
	if err == nil && !os.SameFile(before, after) {
		err = &RefusedError{Path: shown, Reason: "being replaced"}
	}
	if err != nil {
		inner.Close()
		return nil, err
	}
	return inner, nil
}

// Names lists the names in a folder, in no order. It calls no lstat, so that a name for which that fails is listed, too.
func Names(root *os.Root, name string) ([]string, error) {
	dir, err := root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// file copies one regular file. before is what Lstat said: if another file is there by the time it is opened, the copy is
// refused.
func (c *copier) file(in, out *os.Root, name, shown string, before fs.FileInfo) error {
	// O_NONBLOCK: if somebody has put a FIFO in its place since Lstat, opening that must not block.
	source, err := in.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(before, info) || !info.Mode().IsRegular() {
		return &RefusedError{Path: shown, Reason: "being replaced"}
	}
	mode := c.Modes.File
	if c.KeepModes {
		mode = 0o600
	} else if info.Mode()&0o111 != 0 {
		mode = c.Modes.Executable
	}
	target, err := out.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer target.Close()
	// One byte more than the limit leaves, to notice a file that grows while it is read.
	n, err := io.Copy(target, io.LimitReader(source, c.Limits.Bytes-c.bytes+1))
	if c.bytes += n; c.bytes > c.Limits.Bytes {
		return &LimitError{Bytes, c.bytes, c.Limits.Bytes}
	}
	if err != nil {
		return err
	}
	if c.KeepModes {
		if err := target.Chmod(info.Mode() & (fs.ModePerm | fs.ModeSticky)); err != nil {
			return err
		}
	}
	StartWriting(target)
	return target.Close()
}

// StartWriting has the kernel write a file to the disk while the next one is copied. It guarantees nothing: the file has to be
// synced all the same, which then takes less time.
func StartWriting(f *os.File) {
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE) // not every file system can
}

// Sync puts the names in a folder on the disk.
func Sync(root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// syncConcurrency is how many files are synced at once: a file system's journal commits those together that wait together.
const syncConcurrency = 32

// SyncAll brings a folder with everything in it to the disk, except its own entry in root. Nobody may change the folder
// meanwhile.
func SyncAll(root *os.Root, name string) error {
	inner, err := root.OpenRoot(name)
	if err != nil {
		return err
	}
	defer inner.Close()
	var group errgroup.Group
	group.SetLimit(syncConcurrency)
	err = syncInto(&group, inner)
	return errors.Join(err, group.Wait())
}

// syncInto has group sync a folder and everything in it.
func syncInto(group *errgroup.Group, root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return errors.Join(err, dir.Close())
	}
	syncOne(group, dir)
	for _, e := range entries {
		switch {
		case e.IsDir():
			inner, err := root.OpenRoot(e.Name())
			if err != nil {
				return err
			}
			if err := errors.Join(syncInto(group, inner), inner.Close()); err != nil {
				return err
			}
		case e.Type().IsRegular(): // a link is in its folder
			f, err := root.Open(e.Name())
			if err != nil {
				return err
			}
			syncOne(group, f)
		}
	}
	return nil
}

// syncOne has group sync and close a file.
func syncOne(group *errgroup.Group, f *os.File) {
	group.Go(func() error { return errors.Join(f.Sync(), f.Close()) })
}

// Each calls each with every regular file in a folder, sorted by path, which is relative to it. Links are not followed.
func Each(ctx context.Context, root *os.Root, name string, each func(path string, info fs.FileInfo)) error {
	err := fs.WalkDir(root.FS(), name, func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		each(strings.TrimPrefix(path, name+"/"), info)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list folder: %w", err)
	}
	return nil
}

// Remove removes a folder with everything in it; one that doesn't exist is no error. It removes as much as it can, and returns
// the first error. Folders of this process's user that forbid the removal get the rights for it first.
func Remove(root *os.Root, name string) error {
	err := root.RemoveAll(name)
	if errors.Is(err, fs.ErrPermission) {
		makeWritable(root, name)
		err = root.RemoveAll(name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// makeWritable gives this process the rights to change a folder and everything below it, as far as its user owns them.
func makeWritable(root *os.Root, name string) {
	info, err := root.Lstat(name)
	if err != nil || !info.IsDir() {
		return
	}
	if info.Mode()&0o700 != 0o700 {
		_ = root.Chmod(name, info.Mode().Perm()|0o700) // else removing it says why
	}
	inner, err := root.OpenRoot(name)
	if err != nil {
		return
	}
	defer inner.Close()
	names, _ := Names(inner, ".")
	for _, name := range names {
		makeWritable(inner, name)
	}
}
