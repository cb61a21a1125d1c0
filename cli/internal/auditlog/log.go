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

	"github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"

	"github.com/transparency-dev/merkle/compact"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/flock"
)

// The files of the log's folder.
const (
	recordsFile    = "records.jsonl"
	hashesDir      = "hashes"
	CheckpointFile = "checkpoint" // its presence says that the log has begun
	lockFile       = "lock"
)

// The files of the keys, in user_data/settings. The folder of the private key is mounted by the sealer only.
const (
	KeyDir        = "audit_log"     // the folder of the private key
	KeyFile       = "signing_key"   // in KeyDir
	PublicKeyFile = "audit_log.pub" // beside KeyDir, for everyone who verifies
)

// Log is the log that the sealer writes. One process at a time may have it open. It isn't for concurrent use.
type Log struct {
	dir        string
	root       *os.Root
	lock       *flock.File
	signer     note.Signer
	records    *os.File
	tree       *compact.Range
	last       hash // of the newest record
	parts      extents
	latest     map[string]int // the newest part of each file
	checkpoint []byte         // the newest one; nil while the log is empty
	saved      uint64         // records of the saved state
	sound      bool           // the files are what this process knows: it has read them, and no write has failed since
}

// OpenLog opens the log in dir, or begins one if the folder is empty. private is the signing key. A record that a crash cut short is
// removed: no checkpoint covers it. It is an error if a record was changed, or if there are fewer than a checkpoint has signed,
// since a further checkpoint would then sign a second tree of the same size.
func OpenLog(dir, private string) (*Log, error) {
	signer, err := note.NewSigner(private)
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	l := &Log{dir: dir, lock: flock.New(filepath.Join(dir, lockFile)), signer: signer}
	if err := l.lock.Try(); errors.Is(err, flock.ErrLocked) {
		return nil, errors.New("another sealer has this log; only one may write it")
	} else if err != nil {
		return nil, err
	}
	if err := l.open(private); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// open reads what is there, and makes what is missing.
func (l *Log) open(private string) (err error) {
	if l.root, err = os.OpenRoot(l.dir); err != nil {
		return err
	}
	if err := l.root.Mkdir(hashesDir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	l.records, err = l.root.OpenFile(recordsFile, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	if err := errors.Join(syncFolder(l.dir), l.cutTorn()); err != nil {
		return err
	}
	public, err := PublicKey(private)
	if err != nil {
		return err
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return err
	}
	return l.load(verifier)
}

// cutTorn removes the rest of a record whose writing was interrupted.
func (l *Log) cutTorn() error {
	size, err := l.records.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	tail := make([]byte, min(size, maxRecord+1))
	if _, err := l.records.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	whole := bytes.LastIndexByte(tail, '\n') + 1
	switch {
	case whole == len(tail):
		return nil
	case len(tail) > maxRecord && whole == 0:
		return fmt.Errorf("the end of %s is no record that was cut short. %s", l.records.Name(), mendHint)
	}
	if err := l.records.Truncate(size - int64(len(tail)-whole)); err != nil {
		return err
	}
	return datasync(l.records)
}

// mendHint is what to do where the log itself was changed.
const mendHint = "Nothing is sealed until this is mended. Compare with a checkpoint that was kept elsewhere. Then put user_data/audit_log back from a backup, " +
	"or move it away to begin a new log, and run: docker compose up --detach"

// load reads the records and compares them with the newest checkpoint.
func (l *Log) load(verifier note.Verifier) error {
	signed, err := l.signedCheckpoint(verifier)
	if err != nil {
		return fmt.Errorf("%w. %s", err, mendHint)
	}
	l.tree, l.last, l.parts, l.latest = tree.NewEmptyRange(0), rootOf(nil), extents{}, map[string]int{}
	offset, err := l.restore(signed)
	if err != nil {
		return err
	}
	at := map[uint64]hash{l.tree.End(): rangeRoot(l.tree)}
	err = eachRecord(io.NewSectionReader(l.records, offset, 1<<62), func(line []byte, r Record, problem error) error {
		if problem == nil {
			problem = l.check(r)
		}
		if problem != nil {
			return fmt.Errorf("the audit log's seals were changed, at line %d of %s: %w. %s", l.tree.End()+1, recordsFile, problem, mendHint)
		}
		if err := l.grow(line); err != nil {
			return err
		}
		if l.tree.End() == signed.Size {
			at[signed.Size] = rangeRoot(l.tree)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case signed.Size > l.tree.End():
		return fmt.Errorf("the audit log's seals have %d records, and a checkpoint has signed %d: some were removed. %s", l.tree.End(), signed.Size, mendHint)
	case signed.Size > 0 && at[signed.Size] != signed.Root:
		return fmt.Errorf("the audit log's seals aren't those that checkpoint %d has signed: some were changed. %s", signed.Size, mendHint)
	}
	err = l.publish()
	l.sound = err == nil
	return err
}

// grow adds a record to the tree.
func (l *Log) grow(line []byte) error {
	l.last = leafHash(line)
	return l.tree.Append(bytes.Clone(l.last[:]), nil)
}

// check compares a record with those before it, and counts its lines.
func (l *Log) check(r Record) error {
	if r.Number != l.tree.End() {
		return fmt.Errorf("it has the number %d", r.Number)
	}
	if hash(r.Before) != l.last {
		return errors.New("the record before it is another one than when it was made")
	}
	if err := l.parts.add(r); err != nil {
		return err
	}
	for _, s := range r.Sealed {
		l.latest[s.File] = max(l.latest[s.File], s.Part)
	}
	return nil
}

// signedCheckpoint reads the newest checkpoint; the zero value if there is none.
func (l *Log) signedCheckpoint(verifier note.Verifier) (Checkpoint, error) {
	data, err := readSmall(l.root, CheckpointFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Checkpoint{}, nil
	} else if err != nil {
		return Checkpoint{}, err
	}
	return OpenCheckpoint(data, verifier)
}

// size is the number of records.
func (l *Log) size() uint64 { return l.tree.End() }

// append writes a record and signs a checkpoint that covers it. Number and Before are set here. The record is on the disk before
// the checkpoint is signed. After an error the log must be opened anew.
func (l *Log) append(r Record) error {
	l.sound = false
	r.Number, r.Before = l.tree.End(), root(l.last)
	if err := l.check(r); err != nil {
		return fmt.Errorf("append record: %w", err)
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("append record: %w", err)
	}
	if len(line) >= maxRecord {
		return fmt.Errorf("append record: %d bytes are too many", len(line))
	}
	if _, err := l.records.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("append record: %w", err)
	}
	if err := datasync(l.records); err != nil {
		return fmt.Errorf("append record: %w", err)
	}
	if err := l.grow(line); err != nil {
		return err
	}
	if err := l.publish(); err != nil {
		return err
	}
	if l.sound = true; l.size() < l.saved+stateEvery {
		return nil
	}
	return l.save()
}

// publish signs and writes the checkpoint over all records.
func (l *Log) publish() error {
	if l.tree.End() == 0 {
		return nil
	}
	c := Checkpoint{Origin: l.signer.Name(), Size: l.tree.End(), Root: rangeRoot(l.tree)}
	signed, err := c.sign(l.signer)
	if err != nil || bytes.Equal(signed, l.checkpoint) {
		return err
	}
	if err := atomicfile.Write(l.root, CheckpointFile, signed, 0o640, atomicfile.TempName("."+CheckpointFile+".new")); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	l.checkpoint = signed
	return nil
}

// Close gives the log back.
func (l *Log) Close() {
	_ = l.save() // without it the next start takes longer
	if l.records != nil {
		l.records.Close()
	}
	if l.root != nil {
		l.root.Close()
	}
	l.lock.Close()
}

// hashes opens the file of the hashes of a part, and cuts off those that no record has. It is an error if there are fewer.
func (l *Log) hashes(p part) (*os.File, error) {
	f, err := l.root.OpenFile(filepath.Join(hashesDir, p.hashesName()), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return nil, err
	}
	want := int64(l.parts[p].lines) * hashSize
	size, err := f.Seek(0, io.SeekEnd)
	switch {
	case err == nil && size < want:
		err = fmt.Errorf("%w: %s has the hashes of %d lines, want %d", errHashesLost, f.Name(), size/hashSize, l.parts[p].lines)
	case err == nil && size > want:
		err = f.Truncate(want)
	}
	if err == nil && want == 0 { // its name must be on the disk before a record tells of it
		err = syncFolder(filepath.Join(l.dir, hashesDir))
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// errHashesLost says that hashes of sealed lines are missing. Their records are there: the lines can be verified, but a changed one
// can't be named.
var errHashesLost = errors.New("hashes of sealed lines are missing")

// eachRecord calls f for each line of records.jsonl. problem says why a line is no record. A last line without an end is left out: its
// writing was interrupted, or is under way.
func eachRecord(from io.Reader, f func(line []byte, r Record, problem error) error) error {
	lines := bufio.NewReaderSize(from, maxRecord+1)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			return f(nil, Record{}, fmt.Errorf("it is longer than %d bytes", maxRecord))
		case err != nil:
			return fmt.Errorf("read records: %w", err)
		}
		line = line[:len(line)-1]
		r, problem := parseRecord(line)
		if err := f(line, r, problem); err != nil {
			return err
		}
	}
}

// rangeRoot is the root of the tree that a range covers from its beginning.
func rangeRoot(r *compact.Range) hash {
	if r.End() == 0 {
		return rootOf(nil)
	}
	computed, err := r.GetRootHash(nil)
	if err != nil || len(computed) != hashSize {
		panic(fmt.Sprintf("root of %d records: %x, %v", r.End(), computed, err)) // only of a range that doesn't begin at 0
	}
	return hash(computed)
}

// readSmall reads a file of at most maxCheckpoint bytes.
func readSmall(root *os.Root, name string) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCheckpoint+1))
	if err == nil && len(data) > maxCheckpoint {
		err = fmt.Errorf("%s is longer than %d bytes", name, maxCheckpoint)
	}
	return data, err
}

// datasync is fdatasync(2), begun again after a signal.
func datasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// syncFolder brings the names in a folder to the disk.
func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
