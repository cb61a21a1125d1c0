package staging

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Kinds of import.
const (
	Folder   = "folder"
	Zip      = "zip"
	RumiPack = "rumipack"
)

// Places say from where an import by path may come.
type Places struct {
	Home      string   // the Rumi home as this process sees it; paths are relative to it
	HomeAlias string   // the same as the operator names it; "" where that is not known
	Inside    []string // folders in the home: "ecosystem", "user_data/import"
	Absolute  []string // further folders
}

// find splits a path from a request into a folder that imports may come from and the rest of the path in it.
func (p Places) find(given string) (root, rest string, err error) {
	name := filepath.Clean(given)
	if filepath.IsAbs(name) {
		for _, allowed := range p.Absolute {
			if rest, ok := inside(name, filepath.Clean(allowed)); ok {
				return allowed, rest, nil
			}
		}
		for _, home := range []string{p.HomeAlias, p.Home} {
			if rest, ok := inside(name, filepath.Clean(home)); ok && home != "" {
				name = rest
				break
			}
		}
	}
	for _, allowed := range p.Inside {
		if rest, ok := inside(name, allowed); ok {
			return filepath.Join(p.Home, allowed), rest, nil
		}
	}
	return "", "", p.outside()
}

// inside gives the path of name in a folder; ok is false for a name that lies elsewhere, or is that folder.
func inside(name, folder string) (rest string, ok bool) {
	rest, err := filepath.Rel(folder, name)
	return rest, err == nil && rest != "." && filepath.IsLocal(rest)
}

func (p Places) outside() *fault.Fault {
	return fault.Invalid("Path must be within %s", strings.Join(append(append([]string{}, p.Inside...), p.Absolute...), ", ")).With("path_outside")
}

// source is what an import by path names, found and open.
type source struct {
	root *os.Root
	rest string // in root
	kind string
}

// open finds what a path names. Links are followed as long as they stay within the allowed folder.
func (p Places) open(given string) (*source, error) {
	place, rest, err := p.find(given)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(place)
	if err != nil {
		return nil, p.failed(given, err)
	}
	info, err := root.Stat(rest)
	if err != nil {
		root.Close()
		return nil, p.failed(given, err)
	}
	s := &source{root: root, rest: rest}
	switch kind := archiveKind(rest); {
	case info.IsDir():
		s.kind = Folder
	case info.Mode().IsRegular() && kind != "":
		s.kind = kind
	default:
		root.Close()
		return nil, unsupported(given)
	}
	return s, nil
}

func (s *source) Close() error { return s.root.Close() }

// failed says why what a path names can't be had.
func (p Places) failed(given string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.Invalid("Source not found: %s", given).With("source_not_found")
	case errors.Is(err, fs.ErrPermission):
		return fault.Invalid("Source can't be read: %s (permission denied; it must be readable by group %d)", given, os.Getgid()).With("source_unreadable").Because(err)
	default: // it leads out of the allowed folder, or is no path at all
		return p.outside().Because(err)
	}
}

func unsupported(name string) error {
	return fault.Invalid("Unsupported input: %s", name).With("unsupported_input")
}

// archiveKind is the kind of archive that a file's name says it is; "" for none.
func archiveKind(name string) string {
	switch strings.ToLower(path.Ext(name)) {
	case ".zip":
		return Zip
	case ".rumipack":
		return RumiPack
	default:
		return ""
	}
}
