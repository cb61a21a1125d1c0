package archive

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
)

// Bounds of a name, in bytes where nothing else is said.
const (
	maxName  = 255 // of one component: what file systems take
	maxPath  = 1024
	maxDepth = 32 // components
)

// names collects the paths of an archive, and refuses a path that different systems could take for different files.
type names struct {
	folders map[string]bool   // paths of folders, with an entry or implied
	files   map[string]bool   // paths of files
	entered map[string]bool   // paths that had an entry of their own
	folded  map[string]string // path by what a careless file system makes of it
}

func newNames() *names {
	return &names{folders: map[string]bool{}, files: map[string]bool{}, entered: map[string]bool{}, folded: map[string]string{}}
}

// add checks an entry's name by itself, and against those before it.
func (n *names) add(e *entry) error {
	if err := checkName(e.name); err != nil {
		return err
	}
	path := strings.TrimSuffix(e.name, "/")
	if n.entered[path] {
		return fault.Invalid("Name twice in archive: %s", printable(e.name)).With("archive_duplicate_name")
	}
	n.entered[path] = true
	// The folders that the name implies, and the name itself.
	for i := 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		part := path[:i]
		if err := n.insert(part, i < len(path) || e.folder, e.name); err != nil {
			return err
		}
	}
	return nil
}

// insert adds one path. A path that another one has, also one that differs by case or Unicode form only, is refused: on a file
// system that ignores these, one file would overwrite the other.
func (n *names) insert(path string, isFolder bool, name string) error {
	if n.files[path] || !isFolder && n.folders[path] {
		return fault.Invalid("File and folder of one name in archive: %s", printable(name)).With("archive_duplicate_name")
	}
	if n.folders[path] {
		return nil
	}
	if isFolder {
		n.folders[path] = true
	} else {
		n.files[path] = true
	}
	key := folder.Folded(path)
	if other, taken := n.folded[key]; taken && other != path {
		return fault.Invalid("Names in archive differ by case or Unicode form only: %s, %s", printable(other), printable(path)).With("archive_duplicate_name")
	}
	n.folded[key] = path
	return nil
}

// tops lists the names at the top.
func (n *names) tops() []string {
	tops := map[string]bool{}
	for path := range n.entered {
		top, _, _ := strings.Cut(path, "/")
		tops[top] = true
	}
	return slices.Sorted(maps.Keys(tops))
}

// checkName checks a name by itself. Backslashes and drive letters count, because some systems read them as parts of a path.
func checkName(name string) error {
	parts := strings.FieldsFunc(name, func(r rune) bool { return r == '/' || r == '\\' })
	switch {
	case slices.Contains(parts, ".."):
		return fault.Invalid("Path traversal detected in archive: %s", printable(name)).With("archive_path_traversal")
	case strings.HasPrefix(name, "/"), strings.HasPrefix(name, `\`), len(name) > 1 && name[1] == ':':
		return fault.Invalid("Absolute path in archive: %s", printable(name)).With("archive_absolute_path")
	}
	if !utf8.ValidString(name) {
		return notUTF8(name)
	}
	clean := strings.TrimSuffix(name, "/")
	bad := clean == "" || len(clean) > maxPath || strings.Count(clean, "/") >= maxDepth ||
		strings.ContainsRune(clean, '\\') || !text.IsLine(clean)
	for part := range strings.SplitSeq(clean, "/") {
		bad = bad || part == "" || part == "." || len(part) > maxName
	}
	if bad {
		return fault.Invalid("Invalid name in archive: %s", printable(name)).With("archive_invalid_name")
	}
	return nil
}
