package auditlog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"golang.org/x/sys/unix"
)

// Prover makes proofs from the audit log and its seals, which it only reads.
type Prover struct {
	audit, seals *os.Root
	signed       []byte // the newest checkpoint
	checkpoint   Checkpoint
}

// OpenProver opens both folders, and the newest checkpoint.
func OpenProver(auditDir, logDir string, publicKey []byte) (*Prover, error) {
	key, err := parseVerifier(publicKey)
	if err != nil {
		return nil, err
	}
	p := &Prover{}
	if p.audit, err = os.OpenRoot(auditDir); err != nil {
		return nil, err
	}
	if p.seals, err = os.OpenRoot(logDir); err != nil {
		p.audit.Close()
		return nil, err
	}
	if p.signed, err = readSmall(p.seals, CheckpointFile); errors.Is(err, fs.ErrNotExist) {
		err = errors.New("nothing is sealed yet: there is no checkpoint")
	}
	if err == nil {
		p.checkpoint, err = OpenCheckpoint(p.signed, key)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Close closes the folders.
func (p *Prover) Close() {
	p.audit.Close()
	p.seals.Close()
}

// Newest is the newest signed checkpoint.
func (p *Prover) Newest() []byte { return p.signed }

// Place is a line of a file of the audit log.
type Place struct {
	File string // its name now
	Line uint64 // from 1
}

// ParsePlace reads FILE:LINE. FILE may have the path of the folder before it.
func ParsePlace(text string) (Place, error) {
	at := strings.LastIndexByte(text, ':')
	if at > 0 {
		if line, err := strconv.ParseUint(text[at+1:], 10, 48); err == nil && line > 0 {
			return Place{filepath.Base(text[:at]), line}, nil
		}
	}
	return Place{}, fmt.Errorf("%q isn't FILE:LINE, such as security_2026-01-31.jsonl:17", text)
}

// FindRequest finds the lines that have a request id.
func (p *Prover) FindRequest(id string) (places []Place, err error) {
	entries, err := fs.ReadDir(p.audit.FS(), ".")
	if err != nil {
		return nil, err
	}
	wanted := []byte(`"request_id":` + strconv.Quote(id))
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		file, err := openStored(p.audit, e.Name())
		if err != nil {
			return nil, err
		}
		number := uint64(0)
		err = eachLine(file, func(line []byte) bool {
			if number++; bytes.Contains(line, wanted) {
				places = append(places, Place{e.Name(), number})
			}
			return true
		})
		file.close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", e.Name(), err)
		}
	}
	if len(places) == 0 {
		return nil, fmt.Errorf("no line of the audit log has the request id %q", id)
	}
	return places, nil
}

// eachLine calls f for each whole line, without its newline, until f returns false.
func eachLine(from io.ReaderAt, f func(line []byte) bool) error {
	lines := bufio.NewReaderSize(io.NewSectionReader(from, 0, 1<<62), pieceSize)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if !f(line[:len(line)-1]) {
			return nil
		}
	}
}

// Prove proves that a line, as it is now, was sealed.
func (p *Prover) Prove(at Place) (*Proof, error) {
	entry, err := p.line(at)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(entry) {
		return nil, fmt.Errorf("line %d of %s is no text; a crash has cut it short", at.Line, at.File)
	}
	of, number, err := p.find(at, leafHash(entry))
	if err != nil {
		return nil, err
	}
	made := &Proof{File: of.file, Part: of.part, Line: number, Entry: string(entry), Checkpoint: string(p.signed)}
	if err := p.addRecord(made); err != nil {
		return nil, err
	}
	return made, nil
}

// line reads a line.
func (p *Prover) line(at Place) (entry []byte, err error) {
	file, err := openStored(p.audit, at.File)
	if err != nil {
		return nil, err
	}
	defer file.close()
	number := uint64(0)
	err = eachLine(file, func(line []byte) bool {
		if number++; number == at.Line {
			entry = line
		}
		return number < at.Line
	})
	if err == nil && entry == nil {
		err = fmt.Errorf("%s has %d whole lines", at.File, number)
	}
	return entry, err
}

// find finds the part and the number under which a line was sealed: the newest part whose name the file has, or begins with.
func (p *Prover) find(at Place, want hash) (part, uint64, error) {
	entries, err := fs.ReadDir(p.seals.FS(), hashesDir)
	if err != nil {
		return part{}, 0, err
	}
	var parts []part
	for _, e := range entries {
		name, number, _ := cutLast(e.Name(), ".")
		if n, err := strconv.Atoi(number); err == nil && fileName.MatchString(name) && (name == at.File || strings.HasPrefix(at.File, name) || !fileName.MatchString(at.File)) {
			parts = append(parts, part{name, n})
		}
	}
	slices.SortFunc(parts, func(a, b part) int { return b.part - a.part })
	for _, candidate := range parts {
		number, err := p.numberOf(candidate, at.Line, want)
		if err != nil {
			return part{}, 0, err
		}
		if number > 0 {
			return candidate, number, nil
		}
	}
	return part{}, 0, fmt.Errorf("line %d of %s is not sealed: it was written less than a second ago, or changed. Run: rumi audit verify", at.Line, at.File)
}

func cutLast(text, sep string) (before, after string, found bool) {
	at := strings.LastIndex(text, sep)
	if at < 0 {
		return text, "", false
	}
	return text[:at], text[at+len(sep):], true
}

// numberOf is the number of a line with this hash in a part, the expected one if it has it; 0 if none has.
func (p *Prover) numberOf(of part, expected uint64, want hash) (uint64, error) {
	f, err := p.seals.OpenFile(filepath.Join(hashesDir, of.hashesName()), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var h hash
	if _, err := f.ReadAt(h[:], int64(expected-1)*hashSize); err == nil && h == want {
		return expected, nil
	}
	all := bufio.NewReaderSize(f, hashPiece)
	for number := uint64(1); ; number++ {
		switch _, err := io.ReadFull(all, h[:]); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return 0, nil
		case err != nil:
			return 0, err
		case h == want:
			return number, nil
		}
	}
}

// addRecord adds the record that has sealed a line, and both paths.
func (p *Prover) addRecord(made *Proof) error {
	var index uint64
	var sealed Sealed
	found := false
	err := p.eachRecord(func(line []byte, r Record) {
		for _, s := range r.Sealed {
			if !found && s.File == made.File && s.Part == made.Part && s.First <= made.Line && made.Line <= s.last() {
				found, sealed, index, made.Record = true, s, r.Number, string(line)
			}
		}
	})
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("line %d of %s is not sealed yet: try again in a second", made.Line, part{made.File, made.Part})
	}
	if made.LinePath, err = p.linePath(made, sealed); err != nil {
		return err
	}
	needed, err := proof.Inclusion(index, p.checkpoint.Size)
	if err != nil {
		return fmt.Errorf("record %d isn't in the signed log: %w", index, err)
	}
	made.RecordPath, err = p.recordPath(needed)
	return err
}

// eachRecord calls f for each record that the checkpoint covers. One that can't be read is an error: proofs need all.
func (p *Prover) eachRecord(f func(line []byte, r Record)) error {
	records, err := p.seals.OpenFile(recordsFile, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer records.Close()
	number := uint64(0)
	err = eachRecord(records, func(line []byte, r Record, problem error) error {
		switch {
		case number == p.checkpoint.Size:
			return errLimit
		case problem != nil:
			return fmt.Errorf("line %d of %s: %w. Run: rumi audit verify", number+1, recordsFile, problem)
		}
		number++
		f(line, r)
		return nil
	})
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

// collector keeps the hashes of the nodes that a proof needs, while a tree grows.
type collector struct {
	needed proof.Nodes
	grown  *compact.Range
	hashes map[compact.NodeID][]byte
}

func newCollector(needed proof.Nodes) *collector {
	c := &collector{needed: needed, grown: tree.NewEmptyRange(0), hashes: map[compact.NodeID][]byte{}}
	for _, id := range needed.IDs {
		c.hashes[id] = nil
	}
	return c
}

func (c *collector) add(leaf hash) error {
	keep := func(id compact.NodeID, h []byte) {
		if _, wanted := c.hashes[id]; wanted {
			c.hashes[id] = bytes.Clone(h)
		}
	}
	keep(compact.NewNodeID(0, c.grown.End()), leaf[:])
	return c.grown.Append(bytes.Clone(leaf[:]), keep)
}

func (c *collector) path() (path, error) {
	var hashes [][]byte
	for _, id := range c.needed.IDs {
		if c.hashes[id] == nil {
			return nil, errors.New("the log is incomplete. Run: rumi audit verify")
		}
		hashes = append(hashes, c.hashes[id])
	}
	return c.needed.Rehash(hashes, tree.Hash)
}

// recordPath reads all records for the nodes of a proof.
func (p *Prover) recordPath(needed proof.Nodes) (path, error) {
	c := newCollector(needed)
	var failed error
	if err := p.eachRecord(func(line []byte, _ Record) { failed = errors.Join(failed, c.add(leafHash(line))) }); err != nil || failed != nil {
		return nil, errors.Join(err, failed)
	}
	return c.path()
}

// linePath reads the hashes of the lines that were sealed together.
func (p *Prover) linePath(made *Proof, s Sealed) (path, error) {
	f, err := p.seals.OpenFile(filepath.Join(hashesDir, part{s.File, s.Part}.hashesName()), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	leaves := make([]byte, s.Lines*hashSize)
	if _, err := f.ReadAt(leaves, int64(s.First-1)*hashSize); err != nil {
		return nil, fmt.Errorf("read hashes of lines: %w", err)
	}
	needed, err := proof.Inclusion(made.Line-s.First, s.Lines)
	if err != nil {
		return nil, err
	}
	c := newCollector(needed)
	for h := range slices.Chunk(leaves, hashSize) {
		if err := c.add(hash(h)); err != nil {
			return nil, err
		}
	}
	return c.path()
}

// Extends proves that the log is a continuation of the one of an earlier checkpoint.
func (p *Prover) Extends(earlier []byte, publicKey []byte) (*Extension, error) {
	key, err := parseVerifier(publicKey)
	if err != nil {
		return nil, err
	}
	earlier = Unquote(earlier)
	from, err := OpenCheckpoint(earlier, key)
	if err != nil {
		return nil, err
	}
	needed, err := proof.Consistency(from.Size, p.checkpoint.Size)
	if err != nil {
		return nil, fmt.Errorf("the log has %d records, and the earlier checkpoint has signed %d: an older log was put back", p.checkpoint.Size, from.Size)
	}
	made := &Extension{From: string(earlier), To: string(p.signed)}
	if made.Path, err = p.recordPath(needed); err != nil {
		return nil, err
	}
	if _, _, err := made.Verify(publicKey); err != nil {
		return nil, err
	}
	return made, nil
}
