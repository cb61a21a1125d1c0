package backup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// formatVersion is that of the files that this program writes, and the highest that it reads.
const formatVersion = 1

// Names of the entries that are about the backup itself.
const (
	headName     = "rumi-backup.json"
	manifestName = "rumi-manifest.jsonl"
)

// Bounds of what a file may claim; it is hostile input until it is checked.
const (
	maxEntries  = 20_000_000
	maxFileSize = 1 << 43 // bytes of one file
	maxList     = 4 << 10 // bytes of an access control list
)

// Head says what a backup is.
type Head struct {
	Format       int       `json:"format"`
	SuiteVersion string    `json:"suite_version"`
	HomeID       string    `json:"home_id"`
	CreatedAt    time.Time `json:"created_at"`
	Owners       Owners    `json:"owners"`
}

// Owners are the users and groups of the home. On another machine they may have other numbers.
type Owners struct {
	ServiceUID  int `json:"service_uid"`
	ServiceGID  int `json:"service_gid"`
	OperatorUID int `json:"operator_uid"`
	OperatorGID int `json:"operator_gid"`
}

// Summary is the first line of the manifest.
type Summary struct {
	Head
	Entries   int        `json:"entries"` // lines that follow
	Files     int        `json:"files"`
	Bytes     int64      `json:"bytes"` // of all files
	Databases []Database `json:"databases"`
	LeftOut   []LeftOut  `json:"left_out"`
	Notes     []LeftOut  `json:"notes"`    // what was taken, and can't be as it was at one moment
	Problems  []Problem  `json:"problems"` // references that didn't fit when the backup was taken
}

// Database is one database in a backup.
type Database struct {
	Service string           `json:"service"`
	Path    string           `json:"path"`
	Version int64            `json:"version"` // the highest migration
	Tables  map[string]int64 `json:"tables"`  // rows
}

// LeftOut is a path and why it is mentioned.
type LeftOut struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// kind of an Entry.
type kind string

const (
	folderKind kind = "dir"
	fileKind   kind = "file"
	linkKind   kind = "link"
)

// Entry is one folder, file or link that a backup has.
type Entry struct {
	Path   string `json:"path"`
	Kind   kind   `json:"kind"`
	Mode   uint32 `json:"mode"` // permission bits, set-user-id, set-group-id and sticky
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Size   int64  `json:"size,omitzero"`
	SHA256 string `json:"sha256,omitzero"` // of a file, in hexadecimal
	Link   string `json:"link,omitzero"`

	// Access control lists as Linux keeps them, with the ids of the home that was backed up. Empty where there is none.
	Access  []byte `json:"access,omitempty"`
	Default []byte `json:"default,omitempty"`

	Number int `json:"number"` // which entry of the tar it is, from 0: an earlier one of the same path doesn't count
}

// check refuses an entry that no backup has. What it allows can be made below an empty folder without leaving it.
func (e Entry) check() error {
	if !fs.ValidPath(e.Path) || strings.ContainsRune(e.Path, 0) || len(e.Path) > maxPath || strings.Count(e.Path, "/") > maxDepth+8 {
		return fmt.Errorf("bad path %q", e.Path)
	}
	if a, ok := areaOf(e.Path); !ok || a.how == leftOut {
		return fmt.Errorf("%q is nothing that a backup has", e.Path)
	}
	if e.Mode&^0o7777 != 0 || e.UID < 0 || e.GID < 0 || len(e.Access) > maxList || len(e.Default) > maxList {
		return fmt.Errorf("bad mode or owner of %q", e.Path)
	}
	return e.checkKind()
}

func (e Entry) checkKind() error {
	switch e.Kind {
	case folderKind:
		return nil
	case fileKind:
		if e.Size < 0 || e.Size > maxFileSize || len(e.SHA256) != 64 {
			return fmt.Errorf("bad size or digest of %q", e.Path)
		}
		return nil
	case linkKind:
		if !linkAllowed(e.Path) || e.Link == "" || len(e.Link) > maxPath || strings.ContainsRune(e.Link, 0) {
			return fmt.Errorf("%q can't be a link", e.Path)
		}
		return nil
	}
	return fmt.Errorf("bad kind of %q", e.Path)
}

// manifest is what a backup has, by path.
type manifest struct {
	Summary
	entries map[string]Entry
}

// sorted are the entries in the order of their paths, so a folder before what is in it.
func (m *manifest) sorted() []string { return slices.Sorted(maps.Keys(m.entries)) }

// count brings the numbers of the summary up to date.
func (m *manifest) count() {
	m.Entries, m.Files, m.Bytes = len(m.entries), 0, 0
	for _, e := range m.entries {
		if e.Kind == fileKind {
			m.Files++
			m.Bytes += e.Size
		}
	}
}

func (m *manifest) write(w io.Writer) error {
	m.count()
	out := bufio.NewWriterSize(w, 64<<10)
	if err := json.MarshalWrite(out, m.Summary); err != nil {
		return err
	}
	_ = out.WriteByte('\n')
	for _, name := range m.sorted() {
		if err := json.MarshalWrite(out, m.entries[name]); err != nil {
			return err
		}
		_ = out.WriteByte('\n')
	}
	return out.Flush()
}

var errManifest = errors.New("the manifest is damaged")

// readManifest reads what write wrote. It checks every entry, that none lies in something that is no folder, and that the numbers fit.
func readManifest(r io.Reader) (*manifest, error) {
	d := jsontext.NewDecoder(r)
	m := &manifest{entries: map[string]Entry{}}
	if err := json.UnmarshalDecode(d, &m.Summary, json.RejectUnknownMembers(false)); err != nil {
		return nil, fmt.Errorf("%w: its first line can't be read", errManifest)
	}
	if m.Format != formatVersion {
		return nil, fmt.Errorf("the backup has format %d; this program reads format %d: use the version of Rumi that wrote it, %s", m.Format, formatVersion, m.SuiteVersion)
	}
	if m.Entries < 0 || m.Entries > maxEntries {
		return nil, fmt.Errorf("%w: %d entries", errManifest, m.Entries)
	}
	claimed := m.Summary
	for range claimed.Entries {
		var e Entry
		if err := json.UnmarshalDecode(d, &e, json.RejectUnknownMembers(true)); err != nil {
			return nil, fmt.Errorf("%w: it ends before its last line", errManifest)
		}
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("%w: %w", errManifest, err)
		}
		if _, twice := m.entries[e.Path]; twice {
			return nil, fmt.Errorf("%w: %q twice", errManifest, e.Path)
		}
		m.entries[e.Path] = e
	}
	if m.count(); m.Files != claimed.Files || m.Bytes != claimed.Bytes {
		return nil, fmt.Errorf("%w: %d files of %d bytes, and it says %d of %d", errManifest, m.Files, m.Bytes, claimed.Files, claimed.Bytes)
	}
	return m, m.checkFolders()
}

// checkFolders refuses an entry that doesn't lie in a folder of the manifest: to make it, a link or a file would have to be followed or
// replaced, or a folder be made with rights that nobody has said.
func (m *manifest) checkFolders() error {
	for name := range m.entries {
		if dir := path.Dir(name); dir != "." && m.entries[dir].Kind != folderKind {
			return fmt.Errorf("%w: %q lies in no folder", errManifest, name)
		}
	}
	return nil
}
