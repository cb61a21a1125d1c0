// Package tree describes a folder exactly and moves it between services: what was hashed is what arrives.
//
// # What a digest covers
//
// A Manifest lists every folder and file of a tree with its path, kind, mode and, for files, size and SHA-256. No name is skipped, hidden
// or not. The digest is the SHA-256 of an encoding of that list, so two trees have the same digest exactly if paths, kinds, modes,
// sizes and contents are the same. Owners, times and extended attributes are not in it: copies get owners, times and modes of
// their own anyway (see Receive).
//
// # What a tree may hold
//
// Folders and regular files. A symbolic link, FIFO, socket or device is refused: a link would make the digest depend on what lies
// outside, a device or FIFO has no content to hash, and reading one may block or change something. A hard link is a regular
// file like any other, since the file system has no mark for it: each of its names is hashed as a file of its own, and
// a write through a name outside the tree shows as a changed change time (see Fingerprint) and a changed hash. A copy
// shares no inode with its source, so nobody can change it from there.
//
// # Attacks and races
//
// The folder's author is hostile and may change it at any moment. Scan opens each name in its open folder without following
// links, and asks what was opened what it is; so a swap between a check and the opening gains nothing. It hashes what it
// gives to its Sink, in one reading: what was hashed is what was kept, whatever the file became meanwhile. Copies are read-only
// and verified each time they are used (Cache).
//
// # Reading order
//
// manifest.go (what a tree is), scan.go (reading one), stream.go (moving one), verify.go and cache.go (keeping verified copies), fingerprint.go
// (noticing changes without reading), rename.go (putting a folder in place in one step).
package tree

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Bounds of a tree. A folder beyond them is refused: a pack must not be able to fill the memory or disk of the services that scan it.
const (
	MaxEntries = 50_000  // folders and files
	MaxBytes   = 2 << 30 // of all files together
	MaxDepth   = 64      // folders within folders
	MaxPath    = 4096    // bytes of a path relative to the tree
)

// maxManifest bounds a manifest's JSON, in bytes.
const maxManifest = 64 << 20

// Kind is the kind of an entry: a folder or a file.
type Kind string

// The kinds; there are no others in a tree.
const (
	Dir  Kind = "dir"
	File Kind = "file"
)

// Entry is one folder or file.
type Entry struct {
	Path   string `json:"path"` // relative, with slashes; "." is the tree itself
	Kind   Kind   `json:"kind"`
	Mode   uint32 `json:"mode"`            // the nine permission bits and set-user-id, set-group-id and sticky, as in st_mode
	Size   int64  `json:"size"`            // bytes; 0 for a folder
	SHA256 string `json:"sha256,omitzero"` // 64 hexadecimal digits; "" for a folder
}

// Manifest is a whole tree, sorted by path; the first entry is ".".
type Manifest struct {
	Entries []Entry `json:"entries"`
}

// Digest names the tree: "sha256:" and the SHA-256 of an encoding of all entries. Equal digests mean equal paths, kinds, modes, sizes and
// contents. Each text is preceded by its length and each number has eight bytes, so no two lists of entries have the same encoding: without
// that, a pack could move bytes from one field into the next and keep the digest that was approved.
func (m Manifest) Digest() string {
	h := sha256.New()
	_, _ = io.WriteString(h, "rumi tree 1\n")
	var number [8]byte
	put := func(n uint64) {
		binary.BigEndian.PutUint64(number[:], n)
		h.Write(number[:])
	}
	for _, e := range m.Entries {
		put(uint64(len(e.Path)))
		_, _ = io.WriteString(h, e.Path)
		put(uint64(len(e.Kind)))
		_, _ = io.WriteString(h, string(e.Kind))
		put(uint64(e.Mode))
		put(uint64(e.Size))
		put(uint64(len(e.SHA256)))
		_, _ = io.WriteString(h, e.SHA256)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// FileHashes maps the path of each file to "sha256:<hex>", as the API shows it. Folders are not in it.
func (m Manifest) FileHashes() map[string]string {
	hashes := make(map[string]string, len(m.Entries))
	for _, e := range m.Entries {
		if e.Kind == File {
			hashes[e.Path] = "sha256:" + e.SHA256
		}
	}
	return hashes
}

// Bytes is the size of all files together.
func (m Manifest) Bytes() int64 {
	var sum int64
	for _, e := range m.Entries {
		sum += e.Size
	}
	return sum
}

// ParseDigest checks a digest from outside and returns its 64 hexadecimal digits, which are safe as a file's name. The error
// is a fault: 400 "Invalid digest".
func ParseDigest(digest string) (string, error) {
	digits, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || !isHex(digits) {
		return "", fault.Invalid("Invalid digest").With("invalid_digest")
	}
	return digits, nil
}

func isHex(s string) bool {
	if len(s) != 2*sha256.Size {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// WriteManifest writes m as JSON.
func WriteManifest(w io.Writer, m Manifest) error {
	if err := json.MarshalWrite(w, m); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return nil
}

// ReadManifest reads what WriteManifest wrote and checks that it can be the manifest of a tree: sorted, each path clean and
// under a folder that is listed too, within the bounds.
func ReadManifest(r io.Reader) (Manifest, error) {
	var m Manifest
	if err := json.UnmarshalRead(io.LimitReader(r, maxManifest), &m, json.RejectUnknownMembers(true)); err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	if err := m.check(); err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	return m, nil
}

// check refuses a manifest that describes no tree. It comes from another service, and unpacking it makes files: a path must not lead
// out of the tree or appear twice, and the order must be the only possible one, so that equal trees have equal digests.
func (m Manifest) check() error {
	if len(m.Entries) == 0 || len(m.Entries) > MaxEntries {
		return fmt.Errorf("%d entries", len(m.Entries))
	}
	if first := m.Entries[0]; first.Path != "." || first.Kind != Dir {
		return errors.New("the first entry is not the tree")
	}
	folders := map[string]bool{}
	var total int64
	for i, e := range m.Entries {
		if err := e.check(); err != nil {
			return err
		}
		switch {
		case i > 0 && e.Path <= m.Entries[i-1].Path:
			return fmt.Errorf("%q is out of order", e.Path)
		case i > 0 && !folders[path.Dir(e.Path)]:
			return fmt.Errorf("%q lies in no folder", e.Path)
		}
		if e.Kind == Dir {
			folders[e.Path] = true
		}
		if total += e.Size; total > MaxBytes {
			return fmt.Errorf("more than %d bytes", int64(MaxBytes))
		}
	}
	return nil
}

// check refuses an entry that no tree can have, wherever it stands.
func (e Entry) check() error {
	switch {
	case !fs.ValidPath(e.Path) || strings.ContainsRune(e.Path, 0) || len(e.Path) > MaxPath || strings.Count(e.Path, "/") > MaxDepth:
		return fmt.Errorf("path %q", e.Path)
	case e.Mode&^0o7777 != 0:
		return fmt.Errorf("mode of %q", e.Path)
	case e.Kind == Dir && (e.Size != 0 || e.SHA256 != ""):
		return fmt.Errorf("folder %q with content", e.Path)
	case e.Kind == File && (e.Size < 0 || e.Size > MaxBytes || !isHex(e.SHA256)):
		return fmt.Errorf("size or hash of %q", e.Path)
	case e.Kind != Dir && e.Kind != File:
		return fmt.Errorf("kind of %q", e.Path)
	}
	return nil
}
