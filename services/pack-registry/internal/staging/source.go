package staging

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/text"
)

// Kinds of import.
const (
	Folder   = "folder"
	Zip      = "zip"
	RumiPack = "rumipack"
)

// ImportFolders are the folders from which an import by path may come.
type ImportFolders struct {
	Home      string   // the Rumi home as this process sees it; relative paths start here
	HomeAlias string   // the Rumi home as the operator sees it on the host; "" where that isn't known
	Inside    []string // folders in the home: "ecosystem", "user_data/import"
	Absolute  []string // further folders, absolute (RUMI_IMPORT_ROOTS)
}

// find splits a path from a request into one of the folders and the rest of the path in it.
func (p ImportFolders) find(given string) (root, rest string, err error) {
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
	return "", "", p.outsideFault(given)
}

// inside is the path of name relative to folder; ok is false if name lies elsewhere, or is the folder itself.
func inside(name, folder string) (rest string, ok bool) {
	rest, err := filepath.Rel(folder, name)
	return rest, err == nil && rest != "." && filepath.IsLocal(rest)
}

// outsideFault refuses a path that is in none of the folders, and says how to import what it names.
func (p ImportFolders) outsideFault(given string) *fault.Fault {
	name := path.Base(path.Clean(given))
	if name == "." || name == "/" || name == ".." || len(name) > 100 || !text.IsLine(name) || p.isImportFolder(given) {
		name = "my_pack.zip"
	}
	to := p.Inside[len(p.Inside)-1]
	return fault.Invalid("Path must be within %s: copy it to %s and name it %q, or upload an archive (curl -F file=@%s)",
		strings.Join(append(append([]string{}, p.Inside...), p.Absolute...), ", "), to, path.Join(to, name), name).With("path_outside")
}

// isImportFolder says whether a path is one of the folders itself.
func (p ImportFolders) isImportFolder(given string) bool {
	return slices.Contains(p.Inside, path.Clean(given))
}

// source is the folder or file that an import by path names, open.
type source struct {
	root *os.Root
	rest string // in root
	kind string
}

// open opens what a path names. Links are followed only as long as they stay in the folder: os.Root refuses the others.
func (p ImportFolders) open(given string) (*source, error) {
	base, rest, err := p.find(given)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return nil, p.openFault(given, err)
	}
	info, err := root.Stat(rest)
	if err != nil {
		root.Close()
		return nil, p.openFault(given, err)
	}
	s := &source{root: root, rest: rest}
	switch {
	case info.IsDir():
		s.kind = Folder
	case info.Mode().IsRegular():
		s.kind, err = s.archiveKind()
	}
	switch {
	case err != nil:
		root.Close()
		return nil, p.openFault(given, err)
	case s.kind == "":
		root.Close()
		return nil, unsupported(given)
	}
	return s, nil
}

// archiveKind is the kind of archive that a file is by its name, or else by its content.
func (s *source) archiveKind() (string, error) {
	if kind := archiveKind(s.rest); kind != "" {
		return kind, nil
	}
	f, err := s.root.OpenFile(s.rest, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var first [len(zipBegins)]byte
	if _, err := f.ReadAt(first[:], 0); err != nil && err != io.EOF {
		return "", err
	}
	if string(first[:]) == zipBegins {
		return Zip, nil
	}
	return "", nil
}

// zipBegins are the first bytes of a zip archive that isn't empty. Some archives have no name that says so: GitHub's end in
// "zipball" or in the name of a branch.
const zipBegins = "PK\x03\x04"

func (s *source) Close() error { return s.root.Close() }

// openFault says why the source at a path can't be opened.
func (p ImportFolders) openFault(given string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.Invalid("Source not found: %s", text.Escape(given)).With("source_not_found")
	case errors.Is(err, fs.ErrPermission):
		return permissionFault(given, err)
	default: // it leads out of the allowed folder, or is no path at all
		return p.outsideFault(given).Because(err)
	}
}

// permissionFault says what this process may not read, and the command that mends it. given is the path as the operator gave
// it.
func permissionFault(given string, err error) error {
	shown := text.Escape(given)
	return fault.Invalid("Source can't be read: %s (permission denied; it must be readable by group %d: sudo chgrp -R %[2]d %[1]s && sudo chmod -R g+rX %[1]s)", shown, os.Getgid()).
		With("source_unreadable").Because(err)
}

func unsupported(name string) error {
	if name == "" {
		return fault.Invalid("Unsupported input: a file without a name that is no zip archive (want a folder, .zip or .rumipack)").With("unsupported_input")
	}
	return fault.Invalid("Unsupported input: %s (want a folder, .zip or .rumipack)", text.Escape(name)).With("unsupported_input")
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
