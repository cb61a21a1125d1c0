package pack

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Ignored is an entry of an ecosystem folder that isn't read as a pack, though somebody may have meant it as one.
type Ignored struct {
	Path   string // relative to the ecosystem folder: "my pack", "packs/nested"
	Reason string // why, and what to do, in words meant for the operator
}

// Bounds of ListIgnored.
const (
	MaxIgnored       = 100 // entries that are listed
	maxNamesSearched = 200 // names of a folder that are searched for a misplaced or misspelt descriptor
)

// ListIgnored lists the folders and links of an ecosystem folder that are no packs, each with the reason; more is their number
// beyond MaxIgnored. Hidden names and plain files are left out, except a file or link that has the name of the legacy folder.
func ListIgnored(ecosystem *os.Root) (ignored []Ignored, more int) {
	add := func(name, format string, args ...any) {
		if len(ignored) == MaxIgnored {
			more++
			return
		}
		ignored = append(ignored, Ignored{name, fmt.Sprintf(format, args...)})
	}
	for _, parent := range []string{".", LegacyDir} {
		if there, err := isPackDir(ecosystem, parent); err != nil || !there {
			continue // Unread says why
		}
		// What can't be listed is Unread, too.
		_ = listDir(ecosystem, parent, func(name string, kind fs.FileMode) {
			if reason := ignoredFor(ecosystem, parent, name, kind); reason != "" {
				add(path.Join(parent, name), "%s", reason)
			}
		})
	}
	return ignored, more
}

// ignoredFor says why an entry is no pack; "" for a pack, and for an entry that doesn't look like one.
func ignoredFor(ecosystem *os.Root, parent, name string, kind fs.FileMode) string {
	switch {
	case strings.HasPrefix(name, "."):
		return ""
	case parent == "." && name == LegacyDir:
		return legacyDirProblem(kind)
	case kind&fs.ModeSymlink != 0:
		return "is a link, and links are never followed: put the pack's folder itself there"
	case kind.IsRegular() && name == File:
		return "is the descriptor of no pack: a pack is a folder of its own, named by its pack_id"
	case !kind.IsDir():
		return ""
	case !valid(name):
		return "is no pack: its name is no pack_id (1 to 64 of a-z, A-Z, 0-9, _ and -). Rename the folder to the pack_id that its " + File + " declares"
	}
	return noDescriptorReason(ecosystem, path.Join(parent, name))
}

// legacyDirProblem says why no packs are looked for in the entry with the legacy folder's name; "" if they are.
func legacyDirProblem(kind fs.FileMode) string {
	switch {
	case kind.IsDir():
		return ""
	case kind&fs.ModeSymlink != 0:
		return "is a link, and links are never followed: move the packs that it leads to into the ecosystem folder"
	default:
		return "is not a folder: no packs are looked for in it"
	}
}

// noDescriptorReason says why a folder whose name is an id has no descriptor, and what to do; "" if it has one.
func noDescriptorReason(ecosystem *os.Root, dir string) string {
	root, err := ecosystem.OpenRoot(dir)
	if err != nil {
		return "" // a pack with an Err
	}
	defer root.Close()
	if _, err := ReadDescriptor(root); !errors.Is(err, ErrNone) {
		return ""
	}
	const none = "is no pack: it has no " + File + ", nor has its folder backend"
	f, err := openDir(root, ".")
	if err != nil {
		return none
	}
	defer f.Close()
	names, err := f.Readdirnames(maxNamesSearched)
	if err != nil && !errors.Is(err, io.EOF) {
		return none
	}
	for _, name := range names {
		switch {
		case strings.EqualFold(name, File), strings.EqualFold(name, File+".txt"):
			return fmt.Sprintf("is no pack: it has %q; rename it to %s", name, File)
		case name == "backend":
			if other := misspeltDescriptor(root, name); other != "" {
				return fmt.Sprintf("is no pack: it has %q; rename it to %s", path.Join(name, other), path.Join(name, File))
			}
		case isRegularFile(root, path.Join(name, File)) && strings.EqualFold(name, "backend"):
			return fmt.Sprintf("is no pack: its folder %q must be called backend", name)
		case isRegularFile(root, path.Join(name, File)), isRegularFile(root, path.Join(name, "backend", File)):
			return fmt.Sprintf("is no pack: the pack lies one folder deeper. Move %q to the ecosystem folder", path.Join(dir, name))
		}
	}
	return none
}

// misspeltDescriptor is the name of a file in a folder that differs from the descriptor's by upper and lower case only; "" for
// none.
func misspeltDescriptor(root *os.Root, dir string) string {
	f, err := openDir(root, dir)
	if err != nil {
		return ""
	}
	defer f.Close()
	names, _ := f.Readdirnames(maxNamesSearched)
	for _, name := range names {
		if strings.EqualFold(name, File) {
			return name
		}
	}
	return ""
}

func isRegularFile(root *os.Root, name string) bool {
	info, err := root.Lstat(name)
	return err == nil && info.Mode().IsRegular()
}
