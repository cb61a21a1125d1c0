package auditlog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// part compares one part with the file that has its lines. newest says that the file under its name is its own; that of an
// earlier part was rotated away, or has become part of the newest.
func (v *verification) part(p part, newest bool, names []string) error {
	candidates, err := v.candidates(p, names)
	if err != nil {
		return err
	}
	var best *checker
	bestName := ""
	for _, name := range candidates {
		c, err := v.leadingOf(p, name)
		if err != nil {
			v.found(Finding{Kind: Unreadable, File: name, Text: err.Error()})
			continue
		}
		if best == nil || c.equal > best.equal {
			best, bestName = c, name
		}
		if best.equal == v.parts[p].lines {
			break
		}
	}
	switch {
	case best == nil:
		v.removed(p)
		return nil
	case best.equal == v.parts[p].lines:
		v.intact(p, bestName, newest, names, best.torn)
		return nil
	case v.damaged[p]:
		return v.compareRecords(p, bestName)
	}
	return v.compareLines(p, bestName, best, newest)
}

// candidates are the files that may have a part's lines: the one of its name, and those that begin with its first line. Where the
// hashes can't be believed these are those whose names begin with its name.
func (v *verification) candidates(p part, names []string) (found []string, err error) {
	if slices.Contains(names, p.file) {
		found = append(found, p.file)
	}
	if v.damaged[p] {
		for _, name := range names {
			if strings.HasPrefix(name, p.file) && name != p.file {
				found = append(found, name)
			}
		}
		return found, nil
	}
	hashes, err := v.openHashes(p)
	if err != nil {
		return nil, err
	}
	defer hashes.Close()
	var first hash
	if _, err := hashes.ReadAt(first[:], 0); err != nil {
		return nil, err
	}
	for _, name := range v.byFirstLine(names)[first] {
		_, own := v.parts[part{strings.TrimSuffix(name, packedSuffix), 1}] // then it has the lines of that part
		if name == packedName(p.file) || name != p.file && !own {
			found = append(found, name)
		}
	}
	return found, nil
}

// leadingOf compares a file with a part, up to the first line that differs. Where the hashes can't be believed it is all or
// nothing, by the records.
func (v *verification) leadingOf(p part, name string) (*checker, error) {
	file, err := openStored(v.audit, name)
	if err != nil {
		return nil, err
	}
	defer file.close()
	c := &checker{lines: newLineReader(file, 0, v.buffer), limit: v.parts[p].lines}
	if v.damaged[p] {
		wrong, err := v.wrongBatches(p, file)
		if err == nil && len(wrong) == 0 {
			c.equal = c.limit
		}
		return c, err
	}
	hashes, err := v.openHashes(p)
	if err != nil {
		return nil, err
	}
	defer hashes.Close()
	c.hashes = hashes
	return c, c.all()
}

// removed lists a part of which no file is left.
func (v *verification) removed(p part) {
	f := Finding{Kind: Removed, File: p.file, Line: 1, Lines: v.parts[p].lines, Text: "the file is gone"}
	if p.part > 1 || v.hasLater(p) {
		f.Text = fmt.Sprintf("the file is gone that was sealed as part %d of this name", p.part)
	}
	if r, ok := v.retired[p.file]; ok && p.part <= r.part {
		f.Text = "the sealer removed the file at " + r.at.Format(time.RFC3339) + ", because its day was older than RUMI_AUDIT_KEEP_DAYS"
		v.note(f)
		return
	}
	if dayOf(p.file) < v.RemovedBefore {
		v.note(f)
		return
	}
	v.found(f)
}

func (v *verification) hasLater(p part) bool {
	_, later := v.parts[part{p.file, p.part + 1}]
	return later
}

// intact notes what is to be said about a file that has all lines of a part.
func (v *verification) intact(p part, name string, newest bool, names []string, torn []uint64) {
	for _, line := range torn {
		v.note(Finding{Kind: Torn, File: name, Line: line, Lines: 1, Text: "the line is no JSON object: a crash or a full disk has cut it short"})
	}
	if name != p.file && name != packedName(p.file) {
		v.note(Finding{Kind: Renamed, File: p.file, Lines: v.parts[p].lines, Text: "the file is complete, and now called " + name})
	}
	if newest || name != p.file { // else what follows are lines of a later part
		v.unsealed(name, v.parts[p].bytes, v.parts[p].lines)
	}
	if newest && name != p.file && slices.Contains(names, p.file) { // rotated a moment ago
		v.unsealed(p.file, 0, 0)
	}
}

// batch is the lines of one Sealed.
type batch struct{ first, lines uint64 }

// wrongBatches compares a file with the roots in the records of a part, without the hashes.
func (v *verification) wrongBatches(p part, file io.ReaderAt) (wrong []batch, err error) {
	records, err := v.seals.OpenFile(recordsFile, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer records.Close()
	r := newLineReader(file, 0, v.buffer)
	number := uint64(0)
	err = eachRecord(records, func(_ []byte, record Record, _ error) error {
		if number++; number > v.report.Records {
			return errLimit
		}
		for _, s := range record.Sealed {
			if (part{s.File, s.Part}) != p {
				continue
			}
			var leaves []byte
			if _, err := r.read(1<<62, func(h hash, _ int64) error {
				if leaves = append(leaves, h[:]...); uint64(len(leaves)) == s.Lines*hashSize {
					return errFull
				}
				return nil
			}); err != nil {
				return err
			}
			if uint64(len(leaves)) < s.Lines*hashSize || rootOf(leaves) != hash(s.Root) {
				wrong = append(wrong, batch{s.First, s.Lines})
			}
		}
		return nil
	})
	if errors.Is(err, errLimit) {
		err = nil
	}
	return wrong, err
}

// compareRecords lists what differs where there are only the roots of the records: a change can't be named more closely.
func (v *verification) compareRecords(p part, name string) error {
	file, err := openStored(v.audit, name)
	if err != nil {
		return err
	}
	defer file.close()
	wrong, err := v.wrongBatches(p, file)
	for _, b := range wrong {
		v.found(Finding{Kind: Changed, File: p.file, Line: b.first, Lines: b.lines,
			Text: "some of these lines were changed or are missing; which ones can't be said without their hashes"})
	}
	return err
}

// Sizes of the windows in which lines are aligned, in lines: small ones first, since most changes are.
const (
	firstWindow = 1 << 10
	lastWindow  = 1 << 21
)

// comparison aligns the lines of a file with those of a part.
type comparison struct {
	v      *verification
	p      part
	name   string
	newest bool
	file   *stored
	hashes *os.File

	sealed uint64 // sealed lines that are dealt with
	line   uint64 // lines of the file that are dealt with
	offset int64  // of the next line

	window []hash  // lines of the file from line on
	ends   []int64 // of these
	whole  bool    // there are no more
}

// compareLines names what differs between a part and a file, whose first lines are equal.
func (v *verification) compareLines(p part, name string, begin *checker, newest bool) error {
	file, err := openStored(v.audit, name)
	if err != nil {
		return err
	}
	defer file.close()
	hashes, err := v.openHashes(p)
	if err != nil {
		return err
	}
	defer hashes.Close()
	c := &comparison{v: v, p: p, name: name, newest: newest && name == p.file, file: file, hashes: hashes,
		sealed: begin.equal, line: begin.equal, offset: begin.end}
	if begin.equal == 0 {
		if shares, err := c.shares(); err != nil || !shares {
			c.other()
			return err
		}
	}
	size := firstWindow
	if _, packed := file.ReaderAt.(*inSequence); packed {
		size = lastWindow // each window is unpacked from the file's beginning
	}
	for {
		done, progress, err := c.step(size)
		switch {
		case err != nil || done:
			return err
		case progress: // with as much as was needed: what comes may be as different
		case size < lastWindow:
			size *= 8
		default:
			v.found(Finding{Kind: Changed, File: p.file, Line: c.sealed + 1, Lines: v.parts[p].lines - c.sealed,
				Text: "from this line on the file is another one"})
			return nil
		}
	}
}

// other tells that the file has none of the part's lines.
func (c *comparison) other() {
	if dayOf(c.p.file) < c.v.RemovedBefore {
		c.v.removed(c.p)
		return
	}
	c.v.found(Finding{Kind: Replaced, File: c.p.file, Line: 1, Lines: c.v.parts[c.p].lines, Text: "another file was put in its place: none of the sealed lines is in it"})
	if c.newest {
		c.v.unsealed(c.name, 0, 0)
	}
}

// shares says whether the file has any of the part's lines.
func (c *comparison) shares() (bool, error) {
	sealed, err := c.sealedWindow(lastWindow)
	if err != nil {
		return false, err
	}
	if err := c.fill(lastWindow); err != nil {
		return false, err
	}
	return slices.ContainsFunc(locate(sealed, c.window), func(at int) bool { return at >= 0 }), nil
}

// sealedWindow reads the hashes of the next sealed lines.
func (c *comparison) sealedWindow(size int) ([]hash, error) {
	data := make([]byte, min(uint64(size), c.v.parts[c.p].lines-c.sealed)*hashSize)
	if len(data) > 0 {
		if _, err := c.hashes.ReadAt(data, int64(c.sealed)*hashSize); err != nil {
			return nil, err
		}
	}
	all := make([]hash, 0, len(data)/hashSize)
	for h := range slices.Chunk(data, hashSize) {
		all = append(all, hash(h))
	}
	return all, nil
}

// fill reads lines of the file until the window has size of them, or the file ends.
func (c *comparison) fill(size int) error {
	if c.whole || len(c.window) >= size {
		return nil
	}
	file := c.file
	if _, packed := c.file.ReaderAt.(*inSequence); packed { // it can't be read from the middle
		again, err := openStored(c.v.audit, c.name)
		if err != nil {
			return err
		}
		defer again.close()
		if file = again; c.offset > 0 || len(c.ends) > 0 {
			if _, err := io.CopyN(io.Discard, again.ReaderAt.(*inSequence).from, c.end()); err != nil {
				return err
			}
			again.ReaderAt.(*inSequence).at = c.end()
		}
	}
	_, err := newLineReader(file, c.end(), c.v.buffer).read(1<<62, func(h hash, end int64) error {
		c.window, c.ends = append(c.window, h), append(c.ends, end)
		if len(c.window) >= size {
			return errFull
		}
		return nil
	})
	c.whole = len(c.window) < size
	return err
}

// end is the offset up to which the file was read.
func (c *comparison) end() int64 {
	if len(c.ends) > 0 {
		return c.ends[len(c.ends)-1]
	}
	return c.offset
}

// begin is the offset of a line of the window.
func (c *comparison) begin(i int) int64 {
	if i == 0 {
		return c.offset
	}
	return c.ends[i-1]
}

// step aligns one window of both. progress says that some of it could be explained.
func (c *comparison) step(size int) (done, progress bool, err error) {
	sealed, err := c.sealedWindow(size)
	if err != nil {
		return false, false, err
	}
	if err := c.fill(size); err != nil {
		return false, false, err
	}
	lines := c.window[:min(size, len(c.window))]
	final := c.sealed+uint64(len(sealed)) == c.v.parts[c.p].lines && c.whole && len(lines) == len(c.window)
	differences, anchors := align(sealed, lines)
	if final {
		c.finish(differences, anchors, len(lines))
		return true, true, nil
	}
	// What comes after the last equal lines is aligned again, with more around it.
	at, ok := lastUncrossed(differences, anchors)
	if !ok {
		return false, false, nil
	}
	c.list(slices.DeleteFunc(differences, func(d difference) bool { return d.sealed > at.sealed || d.line > at.line }))
	c.advance(at.sealed+1, at.line+1)
	return false, true, nil
}

// lastUncrossed is the last anchor that no line was moved across.
func lastUncrossed(differences []difference, anchors []anchor) (anchor, bool) {
	crossed := make([]int, len(anchors)+1) // how many more lines were moved across this anchor than across the one before
	for _, d := range differences {
		if d.kind == Moved {
			bySealed := sort.Search(len(anchors), func(i int) bool { return anchors[i].sealed >= d.sealed })
			byLine := sort.Search(len(anchors), func(i int) bool { return anchors[i].line >= d.line })
			crossed[min(bySealed, byLine)]++
			crossed[max(bySealed, byLine)]--
		}
	}
	last, open := -1, 0
	for i := range anchors {
		if open += crossed[i]; open == 0 {
			last = i
		}
	}
	if last < 0 {
		return anchor{}, false
	}
	return anchors[last], true
}

// advance drops what is dealt with.
func (c *comparison) advance(sealed, lines int) {
	c.offset = c.begin(lines)
	c.sealed += uint64(sealed)
	c.line += uint64(lines)
	c.window, c.ends = c.window[lines:], c.ends[lines:]
}

// finish tells the differences of the last window. What is missing at the end of the file was cut off, and what is there in its place
// was written later.
func (c *comparison) finish(differences []difference, anchors []anchor, lines int) {
	last := anchor{-1, -1}
	if len(anchors) > 0 {
		last = anchors[len(anchors)-1]
	}
	fresh := c.younger(last.line+1, lines)
	var kept, cut []difference
	for _, d := range differences {
		switch {
		case d.kind == Changed && d.line >= fresh, d.kind == Missing && d.sealed > last.sealed:
			cut = append(cut, d)
		case d.kind == Inserted && d.line > last.line:
			fresh = min(fresh, d.line)
		default:
			kept = append(kept, d)
		}
	}
	c.list(kept)
	if len(cut) > 0 {
		first := slices.MinFunc(cut, func(a, b difference) int { return a.sealed - b.sealed })
		c.truncated(c.sealed+uint64(first.sealed)+1, uint64(len(cut)))
	}
	if c.newest || c.name != c.p.file { // else these are lines of a later part
		c.v.unsealed(c.name, c.begin(fresh), c.line+uint64(fresh))
	}
}

// younger is the first line of the window, from a line on, that is younger than the part's last seal; lines if none is.
func (c *comparison) younger(from, lines int) int {
	for i := from; i < lines; i++ {
		if at, ok := timeOf(c.file, c.begin(i)); ok && at.After(c.v.parts[c.p].at) {
			return i
		}
	}
	return lines
}

// truncated tells that the end of the file is missing.
func (c *comparison) truncated(line, lines uint64) {
	e := c.v.parts[c.p]
	f := Finding{Kind: Truncated, File: c.p.file, Line: line, Lines: lines, Text: "the end of the file was cut off"}
	if c.file.inode != e.inode && c.name == c.p.file {
		f.Kind, f.Text = Replaced, "an older copy, or another file, was put in its place: these lines are missing"
	}
	c.v.found(f)
}

// list adds the differences to the findings, in the line numbers of the file as it was sealed.
func (c *comparison) list(differences []difference) {
	for _, d := range differences {
		f := Finding{Kind: d.kind, File: c.p.file, Line: c.sealed + uint64(d.sealed) + 1, Lines: 1}
		line := c.line + uint64(d.line) + 1
		switch d.kind {
		case Changed:
			f.Text = "the line has another content than when it was sealed"
		case Missing:
			f.Text = "the line is missing"
		case Moved:
			f.Text = fmt.Sprintf("the line is now line %d", line)
		case Inserted:
			f.Line, f.Text = line, "a line that was never sealed was put in here"
			if d.copyOf >= 0 {
				f.Text = fmt.Sprintf("a copy of line %d was put in here", c.sealed+uint64(d.copyOf)+1)
			}
		}
		c.v.found(f)
	}
}
