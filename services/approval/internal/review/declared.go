package review

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/tree"
)

// warnOfDescriptor warns of declarations in the descriptor at that most likely don't do what the author meant. A descriptor
// that can't be read has no warnings: the pack's state says that.
func (w *warnings) warnOfDescriptor(m tree.Manifest, at string, open Open) error {
	i := slices.IndexFunc(m.Entries, func(e tree.Entry) bool { return e.Path == at && e.Kind == tree.File })
	if i < 0 || m.Entries[i].Size > pack.MaxDescriptor {
		return nil
	}
	data, err := read(m.Entries[i], open)
	if err != nil {
		return err
	}
	d, err := pack.ParseDescriptor(data)
	if err != nil {
		return nil
	}
	if d.Base = path.Dir(at); d.Base == "." {
		d.Base = ""
	}
	for _, detail := range pack.Warnings(d, listing{m}) {
		w.add(Warning{Path: at, Kind: "descriptor", Detail: detail, Count: 1})
	}
	return nil
}

// listing is the names and kinds of a tree, as a file system whose files can't be opened.
type listing struct{ tree.Manifest }

var (
	_ fs.StatFS    = listing{}
	_ fs.ReadDirFS = listing{}
)

// Open implements fs.FS.
func (l listing) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
}

// Stat implements fs.StatFS.
func (l listing) Stat(name string) (fs.FileInfo, error) {
	for _, e := range l.Entries {
		if e.Path == name {
			return entryInfo{e}, nil
		}
	}
	return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
}

// ReadDir implements fs.ReadDirFS.
func (l listing) ReadDir(name string) (list []fs.DirEntry, err error) {
	for _, e := range l.Entries {
		if e.Path != "." && path.Dir(e.Path) == name {
			list = append(list, fs.FileInfoToDirEntry(entryInfo{e}))
		}
	}
	return list, nil
}

// entryInfo is an entry of a tree as a fs.FileInfo.
type entryInfo struct{ tree.Entry }

func (e entryInfo) Name() string       { return path.Base(e.Path) }
func (e entryInfo) Size() int64        { return e.Entry.Size }
func (e entryInfo) ModTime() time.Time { return time.Time{} }
func (e entryInfo) IsDir() bool        { return e.Kind != tree.File }
func (e entryInfo) Sys() any           { return nil }
func (e entryInfo) Mode() fs.FileMode {
	if e.IsDir() {
		return fs.ModeDir | fs.FileMode(e.Entry.Mode)&fs.ModePerm
	}
	return fs.FileMode(e.Entry.Mode) & fs.ModePerm
}
