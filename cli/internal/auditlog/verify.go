package auditlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"
)

// maxFindings bounds what a report lists; the others are counted.
const maxFindings = 1000

// unsealedGrace is how old lines may be that aren't sealed. A sealer that works takes a second.
const unsealedGrace = time.Minute

// Finding is one difference, or one thing that is worth a note.
type Finding struct {
	Kind  Kind   `json:"kind"`
	File  string `json:"file,omitzero"`  // in user_data/audit, or in user_data/audit_log for what is wrong with the seals
	Line  uint64 `json:"line,omitzero"`  // the first line concerned, from 1: of the file as it was sealed, or as it is for inserted and unsealed ones
	Lines uint64 `json:"lines,omitzero"` // how many
	Text  string `json:"text"`           // for a person
}

// String is the finding without its kind.
func (f Finding) String() string {
	switch {
	case f.Line == 0:
		return f.File + ": " + f.Text
	case f.Lines > 1:
		return fmt.Sprintf("%s, lines %d to %d: %s", f.File, f.Line, f.Line+f.Lines-1, f.Text)
	}
	return fmt.Sprintf("%s, line %d: %s", f.File, f.Line, f.Text)
}

// Report is what a verification has found.
type Report struct {
	OK         bool      `json:"ok"`         // no findings
	Checkpoint string    `json:"checkpoint"` // the newest one, which everything was compared with; "" if there is none
	Records    uint64    `json:"records"`    // that it covers
	Files      int       `json:"files"`      // that have sealed lines
	Lines      uint64    `json:"lines"`      // sealed lines
	Findings   []Finding `json:"findings"`
	Notes      []Finding `json:"notes"`
	Omitted    int       `json:"omitted,omitzero"` // findings and notes beyond the first 1000
}

// Options say what is verified, against what.
type Options struct {
	Audit, Log    string            // the folders
	PublicKey     []byte            // of the log
	Checkpoints   map[string][]byte // earlier ones, by the name of their file, which the log must be a continuation of
	RemovedBefore string            // files of days before this one ("2026-01-31") may have been removed; "" for none
	Now           time.Time
}

// retired is until which part a file was removed by the sealer, and when.
type retired struct {
	part int
	at   time.Time
}

// verification is one run of Verify.
type verification struct {
	Options
	audit, seals *os.Root
	key          note.Verifier
	report       Report
	parts        extents
	damaged      map[part]bool // their hashes aren't those of the records
	retired      map[string]retired
	roots        map[uint64]hash
	firsts       map[hash][]string // the files by the hash of their first line
	buffer       []byte
}

// Verify reads the whole audit log and all seals, and names each difference. It changes nothing, and needs only the public key. The error
// says why it couldn't verify; a report with findings is no error. Memory doesn't depend on the size of the files.
func Verify(options Options) (*Report, error) {
	v := &verification{Options: options, parts: extents{}, damaged: map[part]bool{}, retired: map[string]retired{}, roots: map[uint64]hash{}, buffer: newPiece()}
	v.report.Findings, v.report.Notes = []Finding{}, []Finding{}
	var err error
	if v.key, err = parseVerifier(options.PublicKey); err != nil {
		return nil, err
	}
	if v.audit, err = os.OpenRoot(options.Audit); err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	defer v.audit.Close()
	if v.seals, err = os.OpenRoot(options.Log); err != nil {
		return nil, fmt.Errorf("open the seals: %w", err)
	}
	defer v.seals.Close()
	kept, err := v.keptCheckpoints()
	if err != nil {
		return nil, err
	}
	if err := v.records(kept); err != nil {
		return nil, err
	}
	if err := v.files(); err != nil {
		return nil, err
	}
	v.report.OK = len(v.report.Findings) == 0
	return &v.report, nil
}

func (v *verification) found(f Finding) { v.list(&v.report.Findings, f) }
func (v *verification) note(f Finding)  { v.list(&v.report.Notes, f) }

// list adds a finding, or counts the lines of the one before it if it continues it.
func (v *verification) list(to *[]Finding, f Finding) {
	if n := len(*to); n > 0 {
		last := &(*to)[n-1]
		if last.Kind == f.Kind && last.File == f.File && last.Text == f.Text && f.Line > 0 && last.Line+last.Lines == f.Line {
			last.Lines += f.Lines
			return
		}
	}
	if len(*to) >= maxFindings {
		v.report.Omitted++
		return
	}
	*to = append(*to, f)
}

// keptCheckpoints opens the checkpoints that were kept elsewhere.
func (v *verification) keptCheckpoints() (map[string]Checkpoint, error) {
	kept := map[string]Checkpoint{}
	for name, data := range v.Checkpoints {
		c, err := OpenCheckpoint(Unquote(data), v.key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		kept[name] = c
		v.roots[c.Size] = hash{}
	}
	return kept, nil
}

// newest opens the newest checkpoint. limit is how many records it covers; all of them, if it can't be used.
func (v *verification) newest() (newest Checkpoint, limit uint64, err error) {
	data, err := readSmall(v.seals, CheckpointFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if info, err := v.seals.Stat(recordsFile); err == nil && info.Size() > 0 {
			v.found(Finding{Kind: CheckpointWrong, File: CheckpointFile, Text: "the newest checkpoint is missing"})
		}
		return Checkpoint{}, 1 << 63, nil
	case err != nil:
		return Checkpoint{}, 0, err
	}
	newest, err = OpenCheckpoint(data, v.key)
	if err != nil {
		v.found(Finding{Kind: CheckpointWrong, File: CheckpointFile, Text: err.Error()})
		return Checkpoint{}, 1 << 63, nil
	}
	v.report.Checkpoint = string(data)
	v.roots[newest.Size] = hash{}
	return newest, newest.Size, nil
}

// records reads all records up to the newest checkpoint, and compares them with it, with those that were kept, with each other and
// with the hashes of the lines.
func (v *verification) records(kept map[string]Checkpoint) error {
	newest, limit, err := v.newest()
	if err != nil {
		return err
	}
	file, err := v.seals.OpenFile(recordsFile, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c := &chain{v: v, tree: tree.NewEmptyRange(0), last: rootOf(nil), limit: limit, hashes: map[part]*os.File{}}
	defer c.close()
	if err == nil {
		err = eachRecord(file, c.record)
		_ = file.Close()
		if err != nil && !errors.Is(err, errLimit) {
			return err
		}
	}
	v.report.Records = c.tree.End()
	v.compareRoots(newest, kept, c)
	return nil
}

// compareRoots compares the tree with the checkpoints.
func (v *verification) compareRoots(newest Checkpoint, kept map[string]Checkpoint, c *chain) {
	have := c.tree.End()
	switch {
	case c.broken: // it is named already
	case have < newest.Size:
		v.found(Finding{Kind: RecordsMissing, File: recordsFile, Line: have + 1, Lines: newest.Size - have,
			Text: fmt.Sprintf("the newest checkpoint has signed %d records, and there are %d", newest.Size, have)})
	case newest.Size > 0 && v.roots[newest.Size] != newest.Root:
		// All records fit each other, so it is the last one, or all were made anew.
		v.found(Finding{Kind: RecordChanged, File: recordsFile, Line: have, Lines: 1,
			Text: "the records aren't those that the newest checkpoint has signed: the last one was changed, or all that follow a changed one were made anew"})
	}
	for name, k := range kept {
		switch {
		case k.Size > have:
			v.found(Finding{Kind: NotAnExtension, File: name, Text: fmt.Sprintf("this checkpoint has signed %d records, and there are %d: an older log was put back", k.Size, have)})
		case k.Size > 0 && v.roots[k.Size] != k.Root:
			v.found(Finding{Kind: NotAnExtension, File: name, Text: fmt.Sprintf("the first %d records aren't those that this checkpoint has signed: another log was put in place", k.Size)})
		}
	}
}

// errLimit ends the reading of records at the newest checkpoint.
var errLimit = errors.New("all signed records were read")

// chain reads records one after the other.
type chain struct {
	v      *verification
	tree   *compact.Range
	last   hash   // of the record before
	next   uint64 // the number that the next one must have
	named  uint64 // the line that was named last
	limit  uint64
	broken bool
	hashes map[part]*os.File
	leaves []byte // a buffer
}

func (c *chain) close() {
	for _, f := range c.hashes {
		_ = f.Close()
	}
}

// record takes one line of records.jsonl.
func (c *chain) record(line []byte, r Record, problem error) error {
	if c.tree.End() == c.limit {
		return errLimit
	}
	number := c.tree.End() + 1 // as a line of the file
	leaf := leafHash(line)
	if err := c.tree.Append(bytes.Clone(leaf[:]), nil); err != nil {
		return err
	}
	if _, asked := c.v.roots[c.tree.End()]; asked {
		c.v.roots[c.tree.End()] = rangeRoot(c.tree)
	}
	if problem != nil {
		c.next++
		c.wrong(RecordChanged, number, 1, "this record was changed: "+problem.Error())
	} else {
		c.compare(r, number)
	}
	c.last = leaf
	return nil
}

func (c *chain) wrong(kind Kind, line, lines uint64, text string) {
	if c.broken = true; c.named == line {
		return
	}
	c.named = line
	c.v.found(Finding{Kind: kind, File: recordsFile, Line: line, Lines: lines, Text: text})
}

// compare compares a record with the one before it, and with the hashes of its lines.
func (c *chain) compare(r Record, number uint64) {
	switch {
	case r.Number > c.next:
		c.wrong(RecordsMissing, number, r.Number-c.next, "records are missing before this line")
	case r.Number < c.next:
		c.wrong(RecordChanged, number, 1, "this record has the number of an earlier one")
	case hash(r.Before) != c.last && number == 1:
		c.wrong(RecordChanged, number, 1, "this record was changed: it isn't the first one")
	case hash(r.Before) != c.last:
		c.wrong(RecordChanged, number-1, 1, "this record was changed: the next one is about another one")
	}
	c.next = r.Number + 1
	if err := c.v.parts.add(r); err != nil && !c.broken {
		c.wrong(RecordChanged, number, 1, "this record was changed: "+err.Error())
	}
	for _, s := range r.Sealed {
		p := part{s.File, s.Part}
		if c.broken { // add may have left the part behind
			c.v.parts[p] = extent{max(s.last(), c.v.parts[p].lines), s.Bytes, s.Inode, r.At}
		}
		if !c.v.damaged[p] {
			c.compareHashes(p, s)
		}
	}
	for _, f := range r.Removed {
		c.v.retired[f.File] = retired{f.Part, r.At}
	}
	for _, f := range r.Found {
		c.v.note(Finding{Kind: NoticedBefore, File: f.File, Line: f.Line,
			Text: fmt.Sprintf("the sealer noticed at %s: %s", r.At.Format(time.RFC3339), f.Kind)})
	}
}

// compareHashes compares the hashes of lines with the root that the record has.
func (c *chain) compareHashes(p part, s Sealed) {
	f := c.hashes[p]
	if f == nil {
		if len(c.hashes) >= 64 {
			c.close()
			clear(c.hashes)
		}
		var err error
		if f, err = c.v.openHashes(p); err != nil {
			c.v.hashesChanged(p, 1, err.Error())
			return
		}
		c.hashes[p] = f
	}
	c.leaves = slices.Grow(c.leaves[:0], int(s.Lines)*hashSize)
	leaves := c.leaves[:s.Lines*hashSize]
	if n, err := f.ReadAt(leaves, int64(s.First-1)*hashSize); err != nil {
		c.v.hashesChanged(p, s.First+uint64(n/hashSize), "the hashes of this line and of those after it are missing")
	} else if rootOf(leaves) != hash(s.Root) {
		c.v.hashesChanged(p, s.First, fmt.Sprintf("the hashes of lines %d to %d aren't those that the record has", s.First, s.last()))
	}
}

func (v *verification) hashesChanged(p part, line uint64, text string) {
	v.damaged[p] = true
	v.found(Finding{Kind: HashesChanged, File: filepath.Join(hashesDir, p.hashesName()), Line: line,
		Text: text + ". The lines are compared with the records themselves"})
}

func (v *verification) openHashes(p part) (*os.File, error) {
	return v.seals.OpenFile(filepath.Join(hashesDir, p.hashesName()), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

// Unquote turns a checkpoint as a line of a log shows it ("…\n…") into the checkpoint.
func Unquote(data []byte) []byte {
	text := strings.TrimSpace(string(data))
	if !strings.HasPrefix(text, `"`) {
		return data
	}
	unquoted, err := strconv.Unquote(text)
	if err != nil {
		return data
	}
	return []byte(unquoted)
}

// files compares the audit files with the seals, part by part.
func (v *verification) files() error {
	names, err := v.names()
	if err != nil {
		return err
	}
	latest := map[string]int{}
	for p, e := range v.parts {
		latest[p.file] = max(latest[p.file], p.part)
		v.report.Lines += e.lines
	}
	v.report.Files = len(latest)
	ordered := slices.SortedFunc(maps.Keys(v.parts), func(a, b part) int {
		if a.file != b.file {
			return strings.Compare(a.file, b.file)
		}
		return a.part - b.part
	})
	for _, p := range ordered {
		if err := v.part(p, p.part == latest[p.file], names); err != nil {
			return err
		}
	}
	for _, name := range names {
		if isAuditFile(name) && latest[name] == 0 {
			v.unsealed(name, 0, 0)
		}
	}
	return nil
}

// names lists the files in the folder of the audit log.
func (v *verification) names() ([]string, error) {
	entries, err := fs.ReadDir(v.audit.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("list the audit log: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		} else if isAuditFile(e.Name()) {
			v.found(Finding{Kind: Unreadable, File: e.Name(), Text: "it is no regular file"})
		}
	}
	return names, nil
}

// byFirstLine finds the files that begin with each line.
func (v *verification) byFirstLine(names []string) map[hash][]string {
	if v.firsts != nil {
		return v.firsts
	}
	v.firsts = map[hash][]string{}
	for _, name := range names {
		file, err := openStored(v.audit, name)
		if err != nil {
			continue
		}
		// An error is reported when the file is compared, or has no part.
		_, _ = newLineReader(file, 0, v.buffer).read(1<<62, func(h hash, _ int64) error {
			v.firsts[h] = append(v.firsts[h], name)
			return errFull
		})
		file.close()
	}
	return v.firsts
}

// unsealed notes the lines of a file that come after the sealed ones; offset is where they begin, and line how many are before it.
func (v *verification) unsealed(name string, offset int64, line uint64) {
	if strings.HasSuffix(name, ".gz") {
		return // it was compressed after everybody had stopped to write to it
	}
	file, err := openStored(v.audit, name)
	if err != nil {
		v.found(Finding{Kind: Unreadable, File: name, Text: err.Error()})
		return
	}
	defer file.close()
	r := newLineReader(file, offset, v.buffer)
	lines := uint64(0)
	if _, err := r.read(1<<62, func(hash, int64) error {
		lines++
		return nil
	}); err != nil {
		v.found(Finding{Kind: Unreadable, File: name, Text: err.Error()})
		return
	}
	if r.end < r.at {
		v.note(Finding{Kind: Torn, File: name, Line: line + lines + 1, Lines: 1, Text: "the last line has no end: its writing was interrupted, or is under way"})
	}
	if lines > 0 {
		v.tooOld(name, line, lines, v.age(file, offset, file.fingerprint))
	}
}

// tooOld lists lines that aren't sealed: as a note while they are young.
func (v *verification) tooOld(name string, line, lines uint64, age time.Duration) {
	f := Finding{Kind: Unsealed, File: name, Line: line + 1, Lines: lines, Text: fmt.Sprintf("not sealed yet, since %v", age.Round(time.Second))}
	if age <= unsealedGrace {
		v.note(f)
		return
	}
	f.Text += ". If the suite runs, its service audit-sealer doesn't work: docker compose up --detach"
	v.found(f)
}

// age is for how long a line at an offset has been there: since the time that it bears, or since the file was changed if it bears none.
func (v *verification) age(file io.ReaderAt, offset int64, print fingerprint) time.Duration {
	if at, ok := timeOf(file, offset); ok {
		return v.Now.Sub(at)
	}
	return v.Now.Sub(time.Unix(print.mtime.Unix()))
}

// timeOf is the time that the line at an offset bears. The log writes it first.
func timeOf(file io.ReaderAt, offset int64) (time.Time, bool) {
	const before = `{"ts":"`
	var begin [len(before) + len("2006-01-02T15:04:05.000000Z")]byte
	if n, _ := file.ReadAt(begin[:], offset); n < len(begin) || string(begin[:len(before)]) != before {
		return time.Time{}, false
	}
	at, err := time.Parse("2006-01-02T15:04:05.000000Z", string(begin[len(before):]))
	return at, err == nil
}
