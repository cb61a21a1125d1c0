package auditlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/libs/origin"
)

// DefaultQuiet is for how long this process must have seen a file stay as it is before it is compressed or removed. The race: a machine that was suspended
// for days wakes up, and a process writes the entry that it had decided on before, while the sealer takes the day for long over. The time
// is that of the monotonic clock, which stands still while the machine is suspended.
const DefaultQuiet = time.Hour

const (
	packedSuffix   = ".zst"
	packedTemp     = ".packed.new"
	retainInterval = time.Minute // between two looks
	retainedAtOnce = 100         // files that are removed by one record
)

// packedName returns the name of a log file's compressed form.
func packedName(name string) string { return name + packedSuffix }

// retention compresses and removes files of days that are over. Only what is sealed: so `rumi audit verify` compares what is left, and names what else is gone.
type retention struct {
	looked  time.Time
	quiet   map[string]quiet // by file name: since when a file has stayed as it is
	packing *packing         // that is under way; nil for none
	left    []leftover
	entries *audit.Log
	step    func(string) error // called between the steps; for tests that end the process there
}

type quiet struct {
	print fingerprint
	since time.Time
}

// packing is a file that is compressed, or compared with its compressed form, by a goroutine of its own: it may take minutes.
type packing struct {
	follower *follower
	file     *os.File
	print    fingerprint
	limit    uint64 // sealed lines
	stop     context.CancelFunc
	done     chan error
}

// leftover is a file that was removed after it was compressed, and is looked at once more.
type leftover struct {
	name string
	file *os.File
	size int64
	at   time.Time
}

// errStale says that a compressed file isn't what the plain one is now.
var errStale = errors.New("the compressed file is another one")

func (r *retention) close() {
	if r.packing != nil {
		r.packing.stop()
		<-r.packing.done
		_ = r.packing.file.Close()
	}
	for _, l := range r.left {
		_ = l.file.Close()
	}
	if r.entries != nil {
		_ = r.entries.Close()
	}
}

// at is called between two steps.
func (r *retention) at(step string) error {
	if r.step == nil {
		return nil
	}
	return r.step(step)
}

// retain does what is due. A failure that concerns the audit files is reported, and tried again; an error is one of the log's, or of a test.
func (s *Sealer) retain(now time.Time) error {
	r := &s.retention
	if s.cfg.CompressDays+s.cfg.KeepDays == 0 {
		return nil
	}
	if p := r.packing; p != nil {
		select {
		case err := <-p.done:
			r.packing = nil
			if err := s.packed(p, err, now); err != nil {
				return err
			}
		default:
		}
	}
	if now.Sub(r.looked) < retainInterval {
		return nil
	}
	r.looked = now
	old, err := s.oldFiles(now)
	if err == nil {
		err = s.rescue(now)
	}
	if s.report("retention", err); err != nil {
		return nil
	}
	if err := s.removeOld(old, now); err != nil {
		return err
	}
	s.report("compression", s.packNext(old, now))
	return nil
}

// oldFile is a file in the folder whose day is over, and that has been quiet.
type oldFile struct {
	name string
	id   auditfile.ID
	size int64
}

// oldFiles lists them, the oldest first.
func (s *Sealer) oldFiles(now time.Time) (old []oldFile, err error) {
	entries, err := fs.ReadDir(s.audit.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("list the audit log: %w", err)
	}
	seen := map[string]quiet{}
	for _, e := range entries {
		id, _, ok := auditfile.ParseName(e.Name())
		if !ok || id.Day.String() >= firstYoung(now) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // gone
		}
		print, err := fingerprintOf(info)
		if err != nil {
			continue // no file
		}
		q := quiet{print, now}
		if known, ok := s.retention.quiet[e.Name()]; ok && known.print == print {
			q.since = known.since
		}
		if seen[e.Name()] = q; now.Sub(q.since) >= s.cfg.Quiet {
			old = append(old, oldFile{e.Name(), id, print.size})
		}
	}
	s.retention.quiet = seen
	slices.SortStableFunc(old, func(a, b oldFile) int { return int(a.id.Day) - int(b.id.Day) })
	return old, nil
}

// endedBefore says whether a file's day has ended more than days ago; never for 0.
func (f oldFile) endedBefore(now time.Time, days int) bool {
	return days > 0 && f.id.Day+auditfile.Day(days) < auditfile.DayOf(now)
}

// sealedWhole says whether all lines of a plain file are sealed. What a crash cut short at its end is no line.
func (s *Sealer) sealedWhole(f *follower, size int64) bool {
	sealed := s.seals.parts[f.part]
	if f.file != nil || f.gone || size < sealed.bytes {
		return false
	}
	if size == sealed.bytes {
		return true
	}
	file, _, err := openAudit(s.audit, f.part.file)
	if err != nil {
		return false
	}
	defer file.Close()
	lines := 0
	_, err = newLineReader(file, sealed.bytes, s.piece).read(1<<62, func(hash, int64) error { lines++; return errFull })
	return err == nil && lines == 0
}

// removeOld removes what is older than KeepDays. The order: an audit entry, a signed record, then the files. So a kill between two steps leaves files that are
// removed later, and never removed files that nothing tells of.
func (s *Sealer) removeOld(old []oldFile, now time.Time) error {
	record := Record{At: now.UTC()}
	var due []oldFile
	for _, f := range old {
		if !f.endedBefore(now, s.cfg.KeepDays) || len(due) == retainedAtOnce {
			continue
		}
		name := f.id.Name()
		known := s.files[name]
		if known == nil || f.name == name && !s.sealedWhole(known, f.size) {
			s.report(f.name, errors.New("the file isn't removed, although it is older than RUMI_AUDIT_KEEP_DAYS: not all of it is sealed"))
			continue
		}
		due = append(due, f)
		record.Removed = append(record.Removed, Retired{name, known.part.part})
	}
	if len(due) == 0 {
		return nil
	}
	if err := s.auditRemoval(due, now); err != nil {
		s.report("retention", err)
		return nil
	}
	if err := s.retention.at("audited"); err != nil {
		return err
	}
	if err := s.commit(&record, nil); err != nil {
		return err
	}
	if err := s.retention.at("recorded"); err != nil {
		return err
	}
	return s.removeFiles(due)
}

func (s *Sealer) removeFiles(due []oldFile) error {
	for _, f := range due {
		if known := s.files[f.id.Name()]; f.name == f.id.Name() {
			known.gone, known.seen, known.unchecked = true, fingerprint{}, false
		}
		if err := s.audit.Remove(f.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.report(f.name, err)
		}
		if err := s.retention.at("removed " + f.name); err != nil {
			return err
		}
	}
	s.log.Info("removed files of the audit log that are older than RUMI_AUDIT_KEEP_DAYS", "files", len(due), "from", due[0].id.Day.String(), "to", due[len(due)-1].id.Day.String())
	return nil
}

// auditRemoval writes an entry for each day.
func (s *Sealer) auditRemoval(due []oldFile, now time.Time) error {
	if s.retention.entries == nil {
		entries, err := audit.Open(s.cfg.Audit, "audit-sealer", s.log)
		if err != nil {
			return err
		}
		s.retention.entries = entries
	}
	ctx := origin.With(context.Background(), origin.Origin{Actor: "system"})
	for len(due) > 0 {
		day, files, bytes := due[0].id.Day, []string{}, int64(0)
		for len(due) > 0 && due[0].id.Day == day {
			files, bytes, due = append(files, due[0].name), bytes+due[0].size, due[1:]
		}
		if err := s.retention.entries.Write(ctx, audit.Entry{Category: audit.System, Action: "audit_day_removed", Success: true, Details: map[string]any{
			"day": day.String(), "files": files, "bytes": bytes, "keep_days": s.cfg.KeepDays,
		}}); err != nil {
			return err
		}
	}
	return nil
}

// packNext begins to compress the oldest file that is to be.
func (s *Sealer) packNext(old []oldFile, now time.Time) error {
	if s.retention.packing != nil {
		return nil
	}
	for _, f := range old {
		known := s.files[f.name]
		if !f.endedBefore(now, s.cfg.CompressDays) || known == nil || f.size == 0 || known.part.part > 1 || !s.sealedWhole(known, f.size) {
			continue
		}
		if late, err := s.hasLateLines(known); late || err != nil {
			s.report(f.name, err)
			continue
		}
		return s.beginPacking(known)
	}
	return nil
}

// hasLateLines says whether a compressed file is beside the plain one that has other lines: then the plain one has what came days late, and stays as it is.
func (s *Sealer) hasLateLines(f *follower) (bool, error) {
	if _, err := s.audit.Lstat(packedName(f.part.file)); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return !s.isPacked(f), nil
}

// isPacked says whether there is a compressed file that begins with the first sealed line of the follower's part, or of the first part of its name.
func (s *Sealer) isPacked(f *follower) bool {
	packed, err := openStored(s.audit, packedName(f.part.file))
	if err != nil {
		return false
	}
	defer packed.close()
	hashes, err := s.seals.root.OpenFile(hashesDir+"/"+f.part.hashesName(), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer hashes.Close()
	equal, err := leading(packed, hashes, 1, newPiece())
	return err == nil && equal == 1
}

// beginPacking starts the work on a file.
func (s *Sealer) beginPacking(f *follower) error {
	file, print, err := openAudit(s.audit, f.part.file)
	if err != nil {
		return err
	}
	hashes, err := s.seals.root.OpenFile(hashesDir+"/"+f.part.hashesName(), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		_ = file.Close()
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &packing{follower: f, file: file, print: print, limit: s.seals.parts[f.part].lines, stop: stop, done: make(chan error, 1)}
	s.retention.packing = p
	go func() {
		defer hashes.Close()
		p.done <- p.run(ctx, s.audit, hashes)
	}()
	return nil
}

// run compresses the file, unless a run that was killed has done so, and compares what was compressed with the hashes of the sealed lines.
func (p *packing) run(ctx context.Context, root *os.Root, hashes io.ReaderAt) error {
	name := packedName(p.follower.part.file)
	if _, err := root.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		if err := p.compress(ctx, root, name); err != nil {
			return err
		}
	}
	packed, err := openStored(root, name)
	if err != nil {
		return err
	}
	defer packed.close()
	lines := &untilDone{ctx, packed}
	equal, err := leading(lines, hashes, p.limit, newPiece())
	if err != nil {
		return err
	}
	var next [1]byte
	n, _ := packed.ReadAt(next[:], p.print.size)
	last, _ := packed.ReadAt(next[:], p.print.size-1)
	if equal < p.limit || n != 0 || last != 1 {
		return errStale
	}
	return nil
}

func (p *packing) compress(ctx context.Context, root *os.Root, name string) error {
	out, err := atomicfile.Create(root, name, 0o640, atomicfile.TempName(packedTemp))
	if err != nil {
		return err
	}
	defer out.Discard()
	if err := auditfile.Compress(out, io.NewSectionReader(&untilDone{ctx, p.file}, 0, p.print.size)); err != nil {
		return err
	}
	return out.Commit()
}

// untilDone reads until a context ends.
type untilDone struct {
	ctx  context.Context
	from io.ReaderAt
}

// ReadAt is from's.
func (u *untilDone) ReadAt(p []byte, off int64) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.from.ReadAt(p, off)
}

// packed removes the plain file whose lines were all found in the compressed one. It stays open for a while.
func (s *Sealer) packed(p *packing, err error, now time.Time) error {
	name := p.follower.part.file
	if err == nil {
		if err := s.retention.at("compressed"); err != nil {
			_ = p.file.Close()
			return err
		}
		var current fingerprint
		if info, statErr := s.audit.Lstat(name); statErr != nil {
			err = statErr
		} else if current, err = fingerprintOf(info); err == nil && current != p.print {
			err = errStale // appended to since
		}
	}
	if err == nil {
		p.follower.gone, p.follower.seen, p.follower.unchecked = true, fingerprint{}, false
		err = s.audit.Remove(name)
	}
	if errors.Is(err, errStale) {
		err = errors.Join(err, s.audit.Remove(packedName(name)))
	}
	if s.report(packedName(name), err); err != nil {
		_ = p.file.Close()
		return nil
	}
	s.log.Info("compressed a file of the audit log", "file", name, "bytes", p.print.size)
	s.retention.left = append(s.retention.left, leftover{name, p.file, p.print.size, now})
	return s.retention.at("plain removed")
}

// rescue looks once more at files that were removed after they were compressed. The race: a process found the name, as libs/audit looks before each write,
// was stopped there, and wrote after the removal. Such a line goes to a new file of the name.
func (s *Sealer) rescue(now time.Time) error {
	r := &s.retention
	for len(r.left) > 0 && now.Sub(r.left[0].at) >= retainInterval {
		l := r.left[0]
		info, err := l.file.Stat()
		if err != nil {
			return err
		}
		if late := info.Size() - l.size; late > 0 {
			if err := s.appendLate(l, late); err != nil {
				return err
			}
			s.log.Warn("lines of the audit log came days late; they are in a file of their own", "file", l.name, "bytes", late)
		}
		_ = l.file.Close()
		r.left = r.left[1:]
	}
	return nil
}

func (s *Sealer) appendLate(l leftover, late int64) error {
	lines := make([]byte, late)
	if _, err := l.file.ReadAt(lines, l.size); err != nil {
		return err
	}
	f, err := s.audit.OpenFile(l.name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(lines)
	return errors.Join(err, f.Sync(), f.Close())
}
