package candidate

import (
	"embed"
	"io/fs"
	"slices"
	"strings"
)

//go:embed migrations/*.sql
var embedded embed.FS

// Migrations gives the goose files of the candidates' table together with own, the owner's, at the root of one file
// system. Numbers below 100 are this package's, so the owner's files begin with 00100_. own may be nil.
func Migrations(own fs.FS) fs.FS {
	ours, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic(err) // the name is a constant that is there
	}
	if own == nil {
		return ours
	}
	return union{ours, own}
}

// union shows the roots of several file systems as one.
type union []fs.FS

func (u union) Open(name string) (f fs.File, err error) {
	for _, part := range u {
		if f, err = part.Open(name); err == nil {
			return f, nil
		}
	}
	return nil, err
}

// ReadDir makes fs.Glob see all parts.
func (u union) ReadDir(name string) ([]fs.DirEntry, error) {
	var all []fs.DirEntry
	for _, part := range u {
		entries, err := fs.ReadDir(part, name)
		if err != nil {
			return nil, err
		}
		all = append(all, entries...)
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return all, nil
}
