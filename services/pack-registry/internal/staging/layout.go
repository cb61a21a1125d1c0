package staging

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/text"
)

// packsFolder is the folder in an import that holds several packs.
const packsFolder = "packs"

// layout is the result of arrange.
type layout struct {
	packs    []StagedPack
	multi    bool     // several packs in packs/
	warnings []string // what is left out
}

// arrange finds the packs in the folder incoming, whose name in the import was name, and moves each to a folder of its own in
// the folder payload, which it makes. Either incoming is a pack, or incoming/packs holds several; everything else stays in
// incoming, with a warning.
func arrange(root *os.Root, incoming, name, payload string) (layout, error) {
	if err := root.Mkdir(payload, 0o750); err != nil {
		return layout{}, err
	}
	one, err := describe(root, incoming, name)
	switch {
	case err == nil:
		one.Dir = string(one.Declared)
		return layout{packs: []StagedPack{one}}, root.Rename(incoming, path.Join(payload, one.Dir))
	case !errors.Is(err, pack.ErrNone):
		return layout{}, invalidDescriptor(name, err)
	}
	folders, err := subfolders(root, path.Join(incoming, packsFolder))
	if err != nil {
		return layout{}, err
	}
	if len(folders) == 0 {
		return layout{}, noDescriptor(name, hint(root, incoming, name))
	}
	found := layout{multi: true}
	for _, folder := range folders {
		one, err := arrangeOne(root, path.Join(incoming, packsFolder, folder), folder, payload)
		if err != nil {
			return layout{}, err
		}
		found.packs = append(found.packs, one)
	}
	found.warnings, err = warnBeside(root, incoming)
	return found, err
}

// arrangeOne moves one of several packs.
func arrangeOne(root *os.Root, from, folder, payload string) (StagedPack, error) {
	shown := path.Join(packsFolder, folder)
	id, err := pack.ParseID(folder)
	if err != nil {
		return StagedPack{}, fault.Invalid("Invalid pack_id: the folder '%s' must be named by the pack_id of its pack (1 to 64 of a-z, A-Z, 0-9, _ and -)", text.Escape(shown)).
			With("invalid_pack_id")
	}
	one, err := describe(root, from, folder)
	if errors.Is(err, pack.ErrNone) {
		return StagedPack{}, noDescriptor(shown, hint(root, from, shown))
	}
	if err != nil {
		return StagedPack{}, invalidDescriptor(shown, err)
	}
	one.Dir = string(id)
	return one, root.Rename(from, path.Join(payload, one.Dir))
}

// maxNamed is how many names a message lists.
const maxNamed = 10

// warnBeside warns of what lies beside packs/, especially of packs: an archive of the ecosystem folder itself may hold packs in
// both folders.
func warnBeside(root *os.Root, incoming string) (warnings []string, err error) {
	names, err := list(root, incoming)
	if err != nil {
		return nil, err
	}
	var packs, others []string
	for _, name := range names {
		switch {
		case name == packsFolder:
		case isPack(root, path.Join(incoming, name)):
			packs = append(packs, name)
		default:
			others = append(others, name)
		}
	}
	if len(packs) > 0 {
		warnings = append(warnings, fmt.Sprintf("left out: %d packs beside %s/: %s. Move them into %s/, or import each by itself", len(packs), packsFolder, nameList(packs), packsFolder))
	}
	if len(others) > 0 {
		warnings = append(warnings, fmt.Sprintf("left out: what lies beside %s/ and is no pack: %s", packsFolder, nameList(others)))
	}
	return warnings, nil
}

// hint says how to correct a folder that has no descriptor, if its content shows it.
func hint(root *os.Root, incoming, name string) string {
	names, err := list(root, incoming)
	if err != nil {
		return ""
	}
	var packs []string
	for _, inner := range names {
		switch {
		case strings.EqualFold(inner, pack.File) || strings.EqualFold(inner, pack.File+".txt"):
			return fmt.Sprintf(": it has '%s'; rename that to %s", text.Escape(inner), pack.File)
		case strings.EqualFold(inner, "backend") && inner != "backend" && isPack(root, path.Join(incoming, inner)):
			return fmt.Sprintf(": its folder '%s' must be called backend", text.Escape(inner))
		case isPack(root, path.Join(incoming, inner)):
			packs = append(packs, inner)
		}
	}
	switch len(packs) {
	case 0:
		return ": it must lie in that folder, or in its folder backend"
	case 1:
		return fmt.Sprintf(": the pack lies one folder deeper, in %s. Import that folder", nameList(packs))
	default:
		return fmt.Sprintf(": %d folders in it are packs: %s. Move them into a folder %s/%s, or import each by itself", len(packs), nameList(packs), text.Escape(name), packsFolder)
	}
}

// nameList lists names for a message.
func nameList(names []string) string {
	shown := make([]string, 0, maxNamed+1)
	for _, name := range names {
		if len(shown) == maxNamed {
			shown = append(shown, fmt.Sprintf("and %d more", len(names)-maxNamed))
			break
		}
		shown = append(shown, "'"+text.Escape(name)+"'")
	}
	return strings.Join(shown, ", ")
}

// isPack says whether a folder has a descriptor, right or wrong.
func isPack(root *os.Root, dir string) bool {
	for _, name := range []string{path.Join(dir, pack.File), path.Join(dir, "backend", pack.File)} {
		if info, err := root.Lstat(name); err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// describe reads the descriptor of a pack in a folder, whose name in the import was name, and collects the warnings about the
// pack.
func describe(root *os.Root, dir, name string) (StagedPack, error) {
	inner, err := root.OpenRoot(dir)
	if err != nil {
		return StagedPack{}, err
	}
	defer inner.Close()
	d, err := pack.ReadDescriptor(inner)
	if err != nil {
		return StagedPack{}, err
	}
	one := StagedPack{Folder: name, Declared: d.PackID, Identity: d.PackIdentity, Version: d.Version}
	if one.Identity == "" {
		one.Warnings = []string{pack.NoIdentity}
	}
	one.Warnings = append(one.Warnings, pack.Warnings(d, inner.FS())...)
	return one, nil
}

func noDescriptor(name, hint string) error {
	return fault.Invalid("No %s found in payload %s%s", pack.File, text.Escape(name), hint).With("no_descriptor")
}

func invalidDescriptor(name string, err error) error {
	if invalid, ok := errors.AsType[*pack.InvalidError](err); ok {
		return fault.Invalid("Invalid %s in payload %s: %v", invalid.Name, name, invalid.Err).With("invalid_descriptor")
	}
	return fault.Invalid("Invalid %s in payload %s: %v", pack.File, name, err).With("invalid_descriptor")
}

// subfolders lists the folders in a folder, sorted. A folder that doesn't exist has none.
func subfolders(root *os.Root, name string) (names []string, err error) {
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil, nil
	}
	all, err := list(root, name)
	for _, inner := range all {
		if info, err := root.Lstat(path.Join(name, inner)); err == nil && info.IsDir() && !strings.HasPrefix(inner, ".") {
			names = append(names, inner)
		}
	}
	return names, err
}

// list lists the names in a folder, sorted.
func list(root *os.Root, name string) ([]string, error) {
	dir, err := root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", name, err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", name, err)
	}
	slices.Sort(names)
	return names, nil
}
