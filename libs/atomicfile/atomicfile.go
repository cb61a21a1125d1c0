// Package atomicfile writes files whole or not at all: a reader sees the old content or the new one, never a part, and so does
// the next start after a crash of the process or of the machine.
//
// A file is written under a temporary name beside its own, synced, renamed, and then its folder is synced. Each step has its
// reason. Without the first sync, a power cut after the rename may leave an empty file under the name, because file
// systems may write the name to the disk before the content. Without the second, a power cut may bring back the old file
// after Commit has returned, or leave none.
//
// It isn't for what is written bit by bit (logs), for many files that are synced together (approval's blobs), or for
// folders, which are renamed whole.
package atomicfile

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Option changes how a file is written.
type Option func(*File)

// NoReplace never replaces a file: where the name is taken, Commit returns an error for which errors.Is(err, fs.ErrExist), and the
// file that is there stays as it is. Of several processes that write a file for the first time, one wins.
func NoReplace() Option { return func(f *File) { f.noReplace = true } }

// Owner gives the file to a user and a group; -1 leaves either as it is. Without this option the file belongs to the process.
func Owner(uid, gid int) Option { return func(f *File) { f.uid, f.gid = uid, gid } }

// TempName is the temporary name, in the same folder. Without this option it is a new one each time, and a crash leaves it
// behind. With this option at most one is left behind, and the next writer removes it. The caller must make sure
// that nobody else writes at the same time: the other's half-written file would be removed, or renamed.
func TempName(name string) Option { return func(f *File) { f.temp = name } }

// File is a file that is being written. It has no name of its own until Commit.
type File struct {
	root      *os.Root
	name      string
	temp      string // "" when nothing is left to remove
	uid, gid  int
	noReplace bool
	file      *os.File
}

// Create begins to write the file at name in root. Its mode is exactly this one, whatever the umask is. The caller calls Commit or
// Discard; to defer Discard is right, since it does nothing after Commit.
//
// Nothing that another made is written through: the temporary file is always a new one (O_EXCL), so a link or a FIFO under its
// name, whether a crash left it or an attacker who may write to the folder made it, can't lead the content elsewhere.
func Create(root *os.Root, name string, mode fs.FileMode, options ...Option) (*File, error) {
	f := &File{root: root, name: name, uid: -1, gid: -1}
	for _, o := range options {
		o(f)
	}
	dir, base := path.Split(name)
	if f.temp != "" {
		f.temp = dir + f.temp
		if err := root.Remove(f.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	} else {
		f.temp = dir + "." + base + "-" + strings.ToLower(rand.Text()[:10]) + ".new"
	}
	file, err := root.OpenFile(f.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	f.file = file
	if f.uid != -1 || f.gid != -1 {
		err = file.Chown(f.uid, f.gid)
	}
	if err = errors.Join(err, file.Chmod(mode)); err != nil { // after Chown, which clears some bits
		f.Discard()
		return nil, err
	}
	return f, nil
}

// Write appends to the content.
func (f *File) Write(p []byte) (int, error) { return f.file.Write(p) }

// Sync brings what was written so far to the disk, still under the temporary name. It is for a caller that does something
// between content and name that must not be done unless the content can be had, such as an audit entry.
func (f *File) Sync() error { return f.file.Sync() }

// Rename changes the name that Commit gives the file, within its folder: a caller may know the name only once it has seen the content.
func (f *File) Rename(base string) { f.name = path.Join(path.Dir(f.name), base) }

// Commit gives the file its name. When it returns nil, content and name are on the disk. After an error the old file is still
// there, or, if only the last sync failed, the new one. The temporary file is removed in any case.
func (f *File) Commit() error {
	defer f.Discard()
	if err := f.file.Sync(); err != nil {
		return err
	}
	if f.noReplace { // a link, unlike a rename, fails where the name is taken
		if err := f.root.Link(f.temp, f.name); err != nil {
			return err
		}
	} else {
		if err := f.root.Rename(f.temp, f.name); err != nil {
			return err
		}
		f.temp = "" // it is the file now
	}
	dir, err := f.root.Open(path.Dir(f.name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Discard removes the temporary file, unless it has become the file. It may be called more than once.
func (f *File) Discard() {
	if f.file != nil {
		f.file.Close()
		f.file = nil
	}
	if f.temp != "" {
		_ = f.root.Remove(f.temp)
		f.temp = ""
	}
}

// Write writes a whole file: Create, Write and Commit.
func Write(root *os.Root, name string, data []byte, mode fs.FileMode, options ...Option) error {
	f, err := Create(root, name, mode, options...)
	if err != nil {
		return err
	}
	defer f.Discard()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Commit()
}

// WritePath is Write for a caller that has no os.Root. The folder of the path may be reached through links; what is in it is
// dealt with as in Write.
func WritePath(name string, data []byte, mode fs.FileMode, options ...Option) error {
	root, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer root.Close()
	return Write(root, filepath.Base(name), data, mode, options...)
}
