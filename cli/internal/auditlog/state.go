package auditlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/atomicfile"
)

// stateFile spares a log with years of records their reading at each start. It is no part of what is verified.
const stateFile = "state.json"

// stateEvery is after how many records the state is saved, and how many there must be: a shorter log is read, and so checked, at each
// start. Reading so many takes about a second. A variable for tests.
var stateEvery uint64 = 100_000

// state is what a Log knows of its records up to an offset.
type state struct {
	Records uint64      `json:"records"`
	Offset  int64       `json:"offset"` // the size of these records
	Last    root        `json:"last"`
	Range   []root      `json:"range"` // of the tree
	Parts   []savedPart `json:"parts"`
}

type savedPart struct {
	File  string    `json:"file"`
	Part  int       `json:"part"`
	Lines uint64    `json:"lines"`
	Bytes int64     `json:"bytes"`
	Inode uint64    `json:"inode"`
	At    time.Time `json:"at"`
}

// save writes the state: a line of JSON, and its hash, because a state that a disk has damaged would make the sealer seal lines twice.
func (l *Log) save() error {
	if !l.sound || l.size() < stateEvery || l.size() == l.saved {
		return nil
	}
	offset, err := l.records.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	s := state{Records: l.size(), Offset: offset, Last: root(l.last)}
	for _, h := range l.tree.Hashes() {
		s.Range = append(s.Range, root(h))
	}
	for p, e := range l.parts {
		s.Parts = append(s.Parts, savedPart{p.file, p.part, e.lines, e.bytes, e.inode, e.at})
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	sum, err := root(leafHash(data)).MarshalText()
	if err != nil {
		return err
	}
	data = append(append(append(data, '\n'), sum...), '\n')
	if err := atomicfile.Write(l.root, stateFile, data, 0o640, atomicfile.TempName("."+stateFile+".new")); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	l.saved = s.Records
	return nil
}

// restore takes the state over, and returns the offset of the first record that it doesn't know. Where there is no state, or one that
// doesn't fit the records or the checkpoint, that is 0: all are read.
func (l *Log) restore(signed Checkpoint) (int64, error) {
	data, err := readState(l.root)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	line, sum, _ := bytes.Cut(data, []byte("\n"))
	want, _ := root(leafHash(line)).MarshalText()
	var s state
	if !bytes.Equal(bytes.TrimSpace(sum), want) || json.Unmarshal(line, &s) != nil || !l.fits(s, signed) {
		return 0, nil
	}
	for _, p := range s.Parts {
		l.parts[part{p.File, p.Part}] = extent{p.Lines, p.Bytes, p.Inode, p.At}
		l.latest[p.File] = max(l.latest[p.File], p.Part)
	}
	l.last, l.saved = hash(s.Last), s.Records
	return s.Offset, nil
}

// fits compares a state with the last record that it knows, and takes its tree over.
func (l *Log) fits(s state, signed Checkpoint) bool {
	tail := make([]byte, min(maxRecord, max(0, s.Offset)))
	if n, err := l.records.ReadAt(tail, s.Offset-int64(len(tail))); n < len(tail) || err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	last, ended := bytes.CutSuffix(tail, []byte("\n"))
	last = last[bytes.LastIndexByte(last, '\n')+1:]
	if !ended || leafHash(last) != hash(s.Last) || s.Records > signed.Size {
		return false
	}
	var hashes [][]byte
	for _, h := range s.Range {
		hashes = append(hashes, bytes.Clone(h[:]))
	}
	grown, err := tree.NewRange(0, s.Records, hashes)
	if err != nil || s.Records == signed.Size && rangeRoot(grown) != signed.Root {
		return false
	}
	l.tree = grown
	return true
}

// readState reads the file.
func readState(root *os.Root) ([]byte, error) {
	f, err := root.Open(stateFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
