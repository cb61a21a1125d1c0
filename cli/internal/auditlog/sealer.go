package auditlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Times and amounts of the sealer.
const (
	sweepInterval   = time.Minute            // between two looks at the files of days that are over
	recheckInterval = time.Minute            // between two comparisons of one file's sealed lines
	DefaultInterval = 500 * time.Millisecond // between two passes
	passBudget      = 32 << 20               // bytes of one file in one pass, so that a file with much to read doesn't delay the others
	recheckBudget   = 1 << 20                // bytes that are compared again in one pass
)

// retryInterval is the time until the log is opened again after a failure that concerns all files. A variable for tests.
var retryInterval = 5 * time.Second

// Config says what is sealed and where to.
type Config struct {
	Audit      string        // the folder of the audit log; only read
	Log        string        // the folder of the seals
	Status     string        // the folder of the status
	KeyFile    string        // the signing key
	Interval   time.Duration // between two passes
	Checkpoint time.Duration // between two log lines with the newest checkpoint; 0 logs none

	CompressDays int           // files of days that ended longer ago are compressed; 0 for none
	KeepDays     int           // files of days that ended longer ago are removed; 0 for none
	Quiet        time.Duration // for which a file must have stayed as it is before that
}

// Sealer seals the lines of the audit log. Use Run.
type Sealer struct {
	cfg    Config
	audit  *os.Root
	seals  *Log
	log    *slog.Logger
	status *status

	files   map[string]*follower
	listed  time.Time // when the folder was read
	changed time.Time // its mtime then
	swept   time.Time
	check   *recheck
	failed  map[string]string // by file: what was logged last

	retention retention

	piece, checkPiece, leaves []byte // buffers
}

// recheck is the comparison that is under way.
type recheck struct {
	of *follower
	checker
	file, hashes *os.File
}

func (r *recheck) close() {
	_ = r.file.Close()
	_ = r.hashes.Close()
}

// Run seals until ctx ends, and once more then, for what the services have written last. A failure that concerns one file doesn't
// stop the others. After one that concerns the log (a full disk, a changed record), it is opened anew every few seconds; nothing is
// sealed meanwhile, and the status says why.
func Run(ctx context.Context, cfg Config, log *slog.Logger) error {
	st := &status{dir: cfg.Status}
	last := ""
	for {
		err := run(ctx, cfg, st, log)
		if ctx.Err() != nil {
			return err
		}
		if text := err.Error(); text != last {
			log.Error("the audit log can't be sealed; trying again", "error", text)
			last = text
		}
		st.fail(err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryInterval):
		}
	}
}

// run opens the log and seals until ctx ends or something fails that concerns all files.
func run(ctx context.Context, cfg Config, st *status, log *slog.Logger) error {
	s, err := openSealer(cfg, st, log)
	if err != nil {
		return err
	}
	defer s.close()
	log.Info("sealing the audit log", "records", s.seals.size(), "key", s.seals.signer.Name())
	tick := time.NewTicker(cfg.Interval)
	defer tick.Stop()
	var announced time.Time
	for {
		more, err := s.pass(time.Now())
		if err != nil {
			return err
		}
		if cfg.Checkpoint > 0 && time.Since(announced) >= cfg.Checkpoint && len(s.seals.checkpoint) > 0 {
			announced = time.Now()
			log.Info("audit log checkpoint", "records", s.seals.size(), "checkpoint", string(s.seals.checkpoint))
		}
		if more && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			for more := true; more && err == nil; {
				more, err = s.pass(time.Now())
			}
			return err
		case <-tick.C:
		}
	}
}

// openSealer opens the log and both folders.
func openSealer(cfg Config, st *status, log *slog.Logger) (*Sealer, error) {
	private, err := readKey(cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	s := &Sealer{cfg: cfg, log: log, status: st, files: map[string]*follower{}, failed: map[string]string{},
		piece: newPiece(), checkPiece: newPiece(), leaves: make([]byte, 0, maxBatch*hashSize)}
	if s.audit, err = os.OpenRoot(cfg.Audit); err != nil {
		return nil, err
	}
	if s.seals, err = OpenLog(cfg.Log, private); err != nil {
		s.audit.Close()
		return nil, err
	}
	for file, number := range s.seals.latest {
		s.files[file] = &follower{part: part{file, number}, unchecked: true}
	}
	return s, nil
}

func (s *Sealer) close() {
	if s.check != nil {
		s.check.close()
	}
	for _, f := range s.files {
		f.close()
	}
	s.retention.close()
	s.seals.Close()
	s.audit.Close()
}

// pass seals what was written since the last one. more says that there is more to read at once. An error is one of the log's.
func (s *Sealer) pass(now time.Time) (more bool, err error) {
	record := Record{At: now.UTC()}
	touched := map[*follower]bool{}
	names, err := s.due(now)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		f := s.files[name]
		before := len(record.Sealed)
		left, err := s.follow(f, &record)
		if errors.Is(err, errLog) {
			return false, err
		}
		s.report(name, err)
		more = more || left
		if touched[f] = len(record.Sealed) > before; !touched[f] {
			f.rest(now)
		}
		if len(record.Sealed) >= maxSealed/2 || len(record.Found) >= maxFound/2 {
			if err := s.commit(&record, touched); err != nil {
				return false, err
			}
		}
	}
	if err := s.commit(&record, touched); err != nil { // recheck may begin another part, with other hashes to be synced
		return false, err
	}
	s.report("", s.recheck(now, &record))
	if err := s.commit(&record, touched); err != nil {
		return false, err
	}
	if err := s.retain(now); err != nil {
		return false, err
	}
	return more, s.status.update(s, now)
}

// commit appends the record, if there is something in it, and begins a new one. The hashes come to the disk first: a
// record must not tell of lines whose hashes a power cut takes away.
func (s *Sealer) commit(record *Record, touched map[*follower]bool) error {
	if len(record.Sealed)+len(record.Found)+len(record.Removed) == 0 {
		return nil
	}
	for f, written := range touched {
		if written && f.hashes != nil {
			if err := datasync(f.hashes); err != nil {
				return fmt.Errorf("sync hashes: %w", err)
			}
		}
	}
	if err := s.seals.append(*record); err != nil {
		return err
	}
	clear(touched)
	*record = Record{At: record.At}
	return nil
}

// report logs a file's failure once, and its end.
func (s *Sealer) report(name string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != s.failed[name] {
		s.log.Error("an audit file can't be sealed; trying again", "file", name, "error", text)
	}
	if s.failed[name] = text; text == "" {
		delete(s.failed, name)
	}
}

// due lists the files to look at: those of today and yesterday, new ones, and all of them every sweepInterval.
func (s *Sealer) due(now time.Time) ([]string, error) {
	if err := s.list(now); err != nil {
		return nil, err
	}
	sweep := now.Sub(s.swept) >= sweepInterval
	if sweep {
		s.swept = now
	}
	young := firstYoung(now)
	var names []string
	for name, f := range s.files {
		if sweep || f.file != nil || f.seen == (fingerprint{}) && !f.gone || dayOf(name) >= young {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// list reads the folder, if names have come or gone. Its mtime says so, but for changes within one tick of the kernel's clock: so
// it is read again until the mtime is older than that.
func (s *Sealer) list(now time.Time) error {
	info, err := s.audit.Stat(".")
	if err != nil {
		return err
	}
	if info.ModTime().Equal(s.changed) && s.listed.Sub(s.changed) > time.Second && now.Sub(s.listed) < sweepInterval {
		return nil
	}
	entries, err := fs.ReadDir(s.audit.FS(), ".")
	if err != nil {
		return fmt.Errorf("list the audit log: %w", err)
	}
	s.listed, s.changed = now, info.ModTime()
	for _, e := range entries {
		name := e.Name()
		if !followed(name, now) {
			continue
		}
		if f := s.files[name]; f == nil {
			s.files[name] = &follower{part: part{name, 1}}
		} else {
			f.gone = false
		}
	}
	return nil
}

// rest closes the file if its day is over and nothing is new: there is one for each day and category, for years.
func (f *follower) rest(now time.Time) {
	if f.file != nil && f.seen.size == f.reader.at && dayOf(f.part.file) < firstYoung(now) {
		f.close()
	}
}

// firstYoung is the first day whose files are likely to be written to, with a margin for clocks.
func firstYoung(now time.Time) string { return now.UTC().Add(-36 * time.Hour).Format(time.DateOnly) }

// lastYoung is the last such day.
func lastYoung(now time.Time) string { return now.UTC().Add(36 * time.Hour).Format(time.DateOnly) }

// errLog is of failures that concern the log, not one file.
var errLog = errors.New("write seals")

// follow seals what is new in one file.
func (s *Sealer) follow(f *follower, record *Record) (more bool, err error) {
	var now fingerprint
	info, err := s.audit.Lstat(f.part.file)
	if err == nil {
		now, err = fingerprintOf(info)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.lost(f, record)
	case err != nil:
		return false, err
	case f.file != nil && !now.same(f.seen):
		return s.switched(f, record)
	case f.file == nil && now == f.seen:
		return false, nil
	case f.file == nil:
		if err := s.open(f, record); err != nil {
			return false, err
		}
	}
	if now.size < f.reader.at {
		return false, s.shrunk(f, record)
	}
	if now != f.seen {
		f.unchecked = true
	}
	f.seen = now
	if now.size == f.reader.at {
		return false, nil
	}
	// Where a line was put in before, the file has grown, too, and what follows the offset isn't a line.
	if same, err := f.sameLast(); err != nil || !same {
		return true, errors.Join(err, s.differs(f, record))
	}
	return s.seal(f, record)
}

// differs finds the first line that isn't the sealed one, and begins the next part.
func (s *Sealer) differs(f *follower, record *Record) error {
	equal, err := leading(f.file, f.hashes, f.read, s.piece)
	if err != nil || equal == f.read {
		return err
	}
	return s.next(f, record, Changed, equal+1)
}

// seal reads at most passBudget bytes and adds the lines in them to the record.
func (s *Sealer) seal(f *follower, record *Record) (more bool, err error) {
	begin := f.reader.at
	for len(record.Sealed) < maxSealed/2 {
		budget := passBudget - (f.reader.at - begin)
		if budget <= 0 {
			return true, nil
		}
		s.leaves = s.leaves[:0]
		more, err = f.reader.read(budget, func(h hash, _ int64) error {
			if s.leaves = append(s.leaves, h[:]...); len(s.leaves) == maxBatch*hashSize {
				return errFull
			}
			return nil
		})
		if lines := uint64(len(s.leaves) / hashSize); lines > 0 {
			if _, err := f.hashes.WriteAt(s.leaves, int64(f.read)*hashSize); err != nil {
				return false, fmt.Errorf("%w: %w", errLog, err) // what was read has no hashes: all is read again
			}
			record.Sealed = append(record.Sealed, Sealed{File: f.part.file, Part: f.part.part, First: f.read + 1, Lines: lines,
				Bytes: f.reader.end, Inode: f.seen.inode, Root: root(rootOf(s.leaves))})
			f.read += lines
		}
		if err != nil || !more {
			return false, err
		}
	}
	return true, nil
}

// open opens the file under a follower's name, and decides whether it is the one that was sealed before, or the next one of this name.
func (s *Sealer) open(f *follower, record *Record) error {
	file, print, err := openAudit(s.audit, f.part.file)
	if err != nil {
		return err
	}
	hashes, err := s.seals.hashes(f.part)
	if errors.Is(err, errHashesLost) {
		s.found(f, record, HashesChanged, 0, err.Error())
		f.part.part++
		hashes, err = s.seals.hashes(f.part)
	}
	if err != nil {
		_ = file.Close()
		return err
	}
	f.close()
	f.file, f.hashes, f.seen, f.gone = file, hashes, print, false
	sealed := s.seals.parts[f.part]
	if sealed.lines > 0 {
		limit := sealed.lines
		if sealed.inode == print.inode && print.size == sealed.bytes {
			limit, f.unchecked = 1, true // probably the same file; recheck compares all of it later
		}
		equal, err := leading(file, hashes, limit, s.piece)
		if err != nil {
			f.close()
			return err
		}
		if equal < limit {
			return s.next(f, record, differs(sealed, print), equal+1)
		}
	}
	f.read, f.reader = sealed.lines, newLineReader(f.file, sealed.bytes, s.piece)
	return nil
}

// differs is what to call it that a file isn't the one that was sealed.
func differs(sealed extent, print fingerprint) Kind {
	switch {
	case sealed.inode != print.inode:
		return Replaced
	case print.size < sealed.bytes:
		return Truncated
	}
	return Changed
}

// next begins the next part with the open file, whose sealed lines aren't, or not all, those of the part so far: kind says why. It is
// no finding if the old lines are all there under another name, as after a rotation.
func (s *Sealer) next(f *follower, record *Record, kind Kind, line uint64) error {
	if elsewhere := s.elsewhere(f); elsewhere == "" {
		s.found(f, record, kind, line, "")
	} else if err := s.finish(f, elsewhere, record); err != nil {
		return err
	}
	return s.begin(f)
}

// finish seals what was appended to a file that was renamed while no sealer ran.
func (s *Sealer) finish(f *follower, elsewhere string, record *Record) error {
	s.log.Info("an audit file was rotated", "file", f.part.file, "to", elsewhere)
	if strings.HasSuffix(elsewhere, ".gz") || strings.HasSuffix(elsewhere, packedSuffix) {
		return nil // nobody has written to it for long
	}
	file, print, err := openAudit(s.audit, elsewhere)
	if err != nil {
		return err
	}
	defer file.Close()
	hashes, err := s.seals.hashes(f.part)
	if err != nil {
		return err
	}
	defer hashes.Close()
	sealed := s.seals.parts[f.part]
	old := &follower{part: f.part, seen: print, file: file, hashes: hashes, read: sealed.lines, reader: newLineReader(file, sealed.bytes, s.piece)}
	if _, err := s.seal(old, record); err != nil {
		return err
	}
	if err := datasync(hashes); err != nil {
		return fmt.Errorf("%w: %w", errLog, err)
	}
	return nil
}

// begin begins the next part with the open file.
func (s *Sealer) begin(f *follower) error {
	number := f.part
	if s.seals.parts[f.part].lines > 0 || f.read > 0 {
		number.part++
	}
	hashes, err := s.seals.hashes(number)
	if err != nil {
		f.close()
		return err
	}
	_ = f.hashes.Close()
	f.part, f.hashes, f.read = number, hashes, 0
	f.reader, f.unchecked = newLineReader(f.file, 0, s.piece), false
	return nil
}

// shrunk deals with a file that is shorter than what was read of it. It is looked at again in the next pass.
func (s *Sealer) shrunk(f *follower, record *Record) error {
	equal, err := leading(f.file, f.hashes, f.read, s.piece)
	if err != nil {
		return err
	}
	if equal == f.read { // only a line that had not ended was taken back
		f.reader = newLineReader(f.file, f.reader.end, s.piece)
		return nil
	}
	return s.next(f, record, Truncated, equal+1)
}

// switched deals with a file that another one has replaced under its name: what was appended to the old one is sealed, then the new one
// is opened.
func (s *Sealer) switched(f *follower, record *Record) (more bool, err error) {
	if ended, more, err := s.drain(f, record); !ended {
		return more, err
	}
	f.close()
	f.seen = fingerprint{}
	return true, nil
}

// drain seals what is left of an open file that has lost its name. ended says that there is nothing left, and nothing will come: a
// process that had the file open before it lost its name notices with its next write, at the latest. So it ends in a
// pass that has found nothing new, not in the first one.
func (s *Sealer) drain(f *follower, record *Record) (ended, more bool, err error) {
	before := len(record.Sealed)
	more, err = s.seal(f, record)
	ended = f.moved && !more && err == nil && len(record.Sealed) == before
	f.moved = true
	return ended, more, err
}

// lost deals with a file whose name is gone: what was appended to it is sealed.
func (s *Sealer) lost(f *follower, record *Record) (more bool, err error) {
	if f.gone {
		return false, nil
	}
	if f.file == nil && s.isPacked(f) { // by this process or the one before
		f.gone, f.seen = true, fingerprint{}
		return false, nil
	}
	if f.file != nil {
		if ended, more, err := s.drain(f, record); !ended {
			return more, err
		}
	}
	open, elsewhere := f.file != nil, s.elsewhere(f)
	switch {
	case elsewhere != "" && open:
		s.log.Info("an audit file was renamed", "file", f.part.file, "to", elsewhere)
	case elsewhere != "":
		err = s.finish(f, elsewhere, record)
	case f.seen != (fingerprint{}) && s.seals.parts[f.part].lines > 0: // this process has seen it
		s.found(f, record, Removed, 0, "")
	}
	f.close()
	f.gone, f.seen = true, fingerprint{}
	return false, err
}

// elsewhere is the name of a file in the folder that has all lines of the follower's part, other than the part's own; "" if there is none.
func (s *Sealer) elsewhere(f *follower) string {
	hashes, err := s.seals.root.OpenFile(hashesDir+"/"+f.part.hashesName(), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return ""
	}
	defer hashes.Close()
	entries, err := fs.ReadDir(s.audit.FS(), ".")
	if err != nil {
		return ""
	}
	limit := max(f.read, s.seals.parts[f.part].lines)
	for _, e := range entries {
		if name := e.Name(); name != packedName(f.part.file) && s.files[strings.TrimSuffix(name, packedSuffix)] != nil {
			continue // the file of another category or day, or the follower's own name
		}
		file, err := openStored(s.audit, e.Name())
		if err != nil {
			continue
		}
		equal, err := leading(file, hashes, limit, s.piece)
		file.close()
		if err == nil && equal == limit && limit > 0 {
			return e.Name()
		}
	}
	return ""
}

// found notes that sealed lines are not what they were: in the log of the seals, where it can't be removed any more, in the status and in the
// process's log.
func (s *Sealer) found(f *follower, record *Record, kind Kind, line uint64, detail string) {
	record.Found = append(record.Found, Found{File: f.part.file, Part: f.part.part, Kind: kind, Line: line})
	attrs := []any{"file", f.part.file, "kind", string(kind), "hint", "run: docker compose run --rm rumi audit verify"}
	if line > 0 {
		attrs = append(attrs, "line", line)
	}
	if detail != "" {
		attrs = append(attrs, "detail", detail)
	}
	// Operators remove the files of days that are over, as GET /api/storage proposes.
	if kind == Removed && dayOf(f.part.file) < record.At.Format(time.DateOnly) {
		s.log.Warn("a sealed file of the audit log was removed", attrs...)
		return
	}
	s.log.Error("sealed lines of the audit log were changed", attrs...)
	s.status.changes++
	s.status.last = Finding{Kind: kind, File: f.part.file, Line: line, Text: string(kind)}.String()
}

// recheck compares sealed lines with their hashes, a little in each pass: nothing else tells of a change in the middle of a file that
// is still written to.
func (s *Sealer) recheck(now time.Time, record *Record) error {
	if s.check == nil {
		if err := s.beginCheck(now); s.check == nil {
			return err
		}
	}
	c := s.check
	done, err := c.step(recheckBudget)
	if !done && err == nil {
		return nil
	}
	c.close()
	s.check = nil
	switch f := c.of; {
	case err != nil:
		return fmt.Errorf("compare %s with its seals: %w", f.part, err)
	case c.equal < c.limit && f.file != nil:
		s.found(f, record, Changed, c.equal+1, "")
		return s.begin(f)
	case c.equal < c.limit: // at rest: to be opened, and compared as a whole
		s.found(f, record, Changed, c.equal+1, "")
		return s.reseal(f)
	}
	return nil
}

// reseal opens a file that is at rest, and begins its next part.
func (s *Sealer) reseal(f *follower) error {
	file, print, err := openAudit(s.audit, f.part.file)
	if err != nil {
		return err
	}
	hashes, err := s.seals.hashes(f.part)
	if err != nil {
		_ = file.Close()
		return err
	}
	f.file, f.hashes, f.seen = file, hashes, print
	return s.begin(f)
}

// beginCheck takes a file whose sealed lines may have changed.
func (s *Sealer) beginCheck(now time.Time) error {
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		f := s.files[name]
		sealed := s.seals.parts[f.part]
		if !f.unchecked || f.gone || sealed.lines == 0 || now.Sub(f.checkedAt) < recheckInterval {
			continue
		}
		f.unchecked, f.checkedAt = false, now
		file, print, err := openAudit(s.audit, f.part.file)
		if err != nil {
			return err
		}
		if f.file != nil && !print.same(f.seen) { // follow sees to it
			_ = file.Close()
			continue
		}
		hashes, err := s.seals.root.OpenFile(hashesDir+"/"+f.part.hashesName(), os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if err != nil {
			_ = file.Close()
			return err
		}
		s.check = &recheck{of: f, file: file, hashes: hashes,
			checker: checker{lines: newLineReader(file, 0, s.checkPiece), hashes: hashes, limit: sealed.lines}}
		return nil
	}
	return nil
}
