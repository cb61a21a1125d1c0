// Package archive checks and unpacks the zip archives that packs come in.
//
// The attack that it defends against is an archive that two programs read differently: the tool with which a person looks into
// it, and Rumi. Zip makes that easy, because names, sizes and offsets are written twice and readers differ in which they use.
// An archive is therefore checked as a whole, its central directory against its local headers, before anything is written;
// whatever two readers could see differently is refused (a name twice, two end records that disagree, bytes between entries or
// after the end). What was promised is enforced again while it is unpacked, since the file may change in between.
//
// The format is PKWARE's APPNOTE.TXT 6.3.10. Only what packs need of it is accepted: one file, no encryption, nothing of 4 GiB
// or more, stored and deflated data.
package archive

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/text"
)

// Bounds of an archive's contents (contract.md, "Packs").
const (
	MaxFiles   = 2000
	MaxFolders = 2000      // those with an entry of their own and those implied
	MaxBytes   = 500 << 20 // of all files, unpacked
)

// Archive is an archive that was checked and may be unpacked.
type Archive struct {
	Top   string // the name of the one top-level folder
	Files int    // regular files in it
	Bytes int64  // their size, unpacked

	Warnings []string // what the archive has beside that folder and is left out, in words meant for the operator

	r       io.ReaderAt
	entries []entry
}

// Open checks the archive in r, which is size bytes long. name stands for it in errors, which are faults (400) with the texts
// of docs/contract.md. What r reads may change afterwards: Extract notices that.
func Open(r io.ReaderAt, size int64, name string) (*Archive, error) {
	entries, directory, err := readDirectory(r, size)
	if err != nil {
		return nil, notValid(name, err)
	}
	a := &Archive{r: r, entries: entries}
	if len(entries) == 0 {
		return nil, fault.Invalid("Archive is empty").With("archive_empty")
	}
	if err := a.check(); err != nil {
		return nil, err
	}
	if err := checkLocalHeaders(r, directory, entries); err != nil {
		return nil, notValid(name, err)
	}
	return a, nil
}

func notValid(name string, reason error) error {
	return fault.Invalid("Not a valid zip archive: %s (%v)", printable(name), reason).With("archive_invalid")
}

// check checks the names, kinds, counts and sizes of all entries, and that everything lies in one top folder.
func (a *Archive) check() error {
	for i := range a.entries {
		if err := checkKind(&a.entries[i]); err != nil {
			return err
		}
	}
	a.skipMacMetadata()
	names, leftOut := newNames(), newNames()
	for i := range a.entries {
		e := &a.entries[i]
		among := names
		if e.leftOut {
			among = leftOut
		}
		if err := among.add(e); err != nil {
			return err
		}
		if !e.folder && !e.leftOut {
			a.Files++
			a.Bytes += e.size // each below 4 GiB, at most 65,535 of them
		}
	}
	switch folders := len(names.folders); {
	case a.Files > MaxFiles:
		return fault.Invalid("Archive contains too many files: %d > %d", a.Files, MaxFiles).With("archive_too_many_files")
	case folders > MaxFolders:
		return fault.Invalid("Archive contains too many folders: %d > %d", folders, MaxFolders).With("archive_too_many_files")
	case a.Bytes > MaxBytes:
		return fault.Invalid("Archive is too large: %d bytes > %d", a.Bytes, int64(MaxBytes)).With("archive_too_large")
	case a.Files == 0:
		return fault.Invalid("Archive is empty").With("archive_empty")
	}
	tops := names.tops()
	if len(tops) != 1 || !names.folders[tops[0]] {
		return notOneTop(tops, names)
	}
	a.Top = tops[0]
	return nil
}

func notOneTop(tops []string, names *names) error {
	if len(tops) == 1 {
		tops = nil // one, but a file
	}
	shown := make([]string, 0, len(tops))
	for _, top := range tops {
		if len(shown) == 10 {
			shown = append(shown, "…")
			break
		}
		shown = append(shown, "'"+top+"'")
	}
	return fault.Invalid("Archive must have exactly one top-level directory, found %d: [%s]", len(tops), strings.Join(shown, ", ")).
		With("archive_top_level")
}

// The file types of a Unix mode, as an entry's external attributes hold it.
const (
	modeType    = 0o170000
	modeLink    = 0o120000
	modeFolder  = 0o040000
	modeRegular = 0o100000
)

const (
	dosFolder   = 0x10 // the MS-DOS attribute of a folder
	emptyStream = 2    // bytes of deflated nothing, which some writers give folders
)

// checkKind refuses an entry that is neither a file nor a folder, and one that different readers could take for the one or the
// other.
func checkKind(e *entry) error {
	e.folder = strings.HasSuffix(e.name, "/")
	switch kind := e.mode & modeType; {
	case kind == modeLink:
		return fault.Invalid("Symbolic link in archive rejected: %s", printable(e.name)).With("archive_link")
	case kind != 0 && kind != modeFolder && kind != modeRegular:
		return fault.Invalid("Special file in archive rejected: %s", printable(e.name)).With("archive_special_file")
	case e.folder && (kind == modeRegular || e.size != 0 || e.crc != 0 || e.packed > emptyStream),
		!e.folder && (kind == modeFolder || e.dos&dosFolder != 0):
		return fault.Invalid("Neither file nor folder in archive: %s", printable(e.name)).With("archive_invalid_name")
	}
	return nil
}

// printable makes a name from an archive fit for a message: short, and without anything that a terminal or a log would act on.
func printable(name string) string {
	name = shorten(name)
	if text.IsLine(name) {
		return name
	}
	return `"` + text.Escape(strings.ReplaceAll(name, `\`, `\\`)) + `"`
}

// shorten keeps a stranger's name short.
func shorten(name string) string { return text.Clip(name, 200) }

// entry is one entry of the central directory.
type entry struct {
	raw    string // the name as both headers have it
	name   string // the same in UTF-8, where an extra field says that; a folder's ends in "/"
	folder bool

	leftOut bool // not part of what is unpacked

	mode   uint32 // Unix mode, 0 where the archive has none
	dos    byte   // MS-DOS attributes
	flags  uint16
	method uint16
	crc    uint32
	packed int64 // bytes in the archive
	size   int64 // bytes unpacked
	header int64 // where its local header lies
	data   int64 // where its data lies
}

// path is the entry's path in its top folder: "." for that folder itself.
func (e *entry) path() string {
	_, rest, _ := strings.Cut(strings.TrimSuffix(e.name, "/"), "/")
	if rest == "" {
		return "."
	}
	return rest
}

// executable says whether anybody may execute the file.
func (e *entry) executable() bool { return e.mode&0o111 != 0 }

// byPosition lists the entries in the order in which they lie in the archive.
func byPosition(entries []entry) []*entry {
	sorted := make([]*entry, len(entries))
	for i := range entries {
		sorted[i] = &entries[i]
	}
	slices.SortFunc(sorted, func(a, b *entry) int { return int(a.header - b.header) })
	return sorted
}

func disagree(e *entry, about string) error {
	return fmt.Errorf("central directory and local header disagree on the %s of %s", about, printable(e.name))
}
