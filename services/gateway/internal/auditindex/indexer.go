package auditindex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/periodic"
)

const (
	interval = time.Second      // between two looks at the log
	patience = 30 * time.Second // after a failure to write: a full disk doesn't get free space by attempts
	dayEnds  = 5 * time.Minute  // after midnight, until the rest of a day gets a segment however small it is
	lockFile = "lock"
	tempFile = ".new"
)

// merging is how many neighbours, at least, are made anew as one.
const merging = 8

// Index keeps the folder up to date, and tells which segments there are. Use Open, then Run; it can be asked before Run and without it.
type Index struct {
	log     *slog.Logger
	audit   *auditfile.Dir
	dir     string
	sizes   Sizes
	catalog atomic.Pointer[catalog] // nil while the folder can't be opened: everything is read from the log
	lock    *flock.File
	writes  bool
	pause   time.Time // nothing is written before it
	said    string    // the failure that was logged last
	done    sync.Map  // auditfile.ID → auditfile.Fingerprint: files of days that are over, and whose lines all have segments

	Lag      atomic.Int64 // bytes of the log that no segment covers, as of the last look
	Failing  atomic.Bool  // the folder can't be written, or read
	Built    atomic.Int64 // segments that this process has made
	Rejected atomic.Int64 // segments that were damaged or didn't fit
}

// Open opens the index of the log in a folder, which is made where it is missing. It doesn't fail: without an index questions take longer.
func Open(dir string, audit *auditfile.Dir, sizes Sizes, log *slog.Logger) *Index {
	x := &Index{log: log, audit: audit, dir: dir, sizes: sizes, lock: flock.New(filepath.Join(dir, lockFile))}
	x.report(x.open())
	return x
}

func (x *Index) open() error {
	c := x.catalog.Load()
	if c == nil {
		if err := os.Mkdir(x.dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make audit index: %w", err)
		}
		root, err := os.OpenRoot(x.dir)
		if err != nil {
			return fmt.Errorf("open audit index: %w", err)
		}
		c = &catalog{root: root, log: x.log}
		defer x.catalog.Store(c)
	}
	return c.refresh()
}

// report logs a failure once, and its end.
func (x *Index) report(err error) {
	x.Failing.Store(err != nil)
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch text {
	case x.said:
	case "":
		x.log.Info("the audit index is written again")
	default:
		x.log.Warn("the audit index can't be kept up to date; GET /api/audit reads the log itself and is slower", "error", text)
	}
	x.said = text
}

// Run keeps the index up to date until ctx ends.
func (x *Index) Run(ctx context.Context) error {
	defer x.lock.Close()
	return periodic.Run(ctx, interval, func(ctx context.Context) {
		if err := x.Update(ctx); err != nil && ctx.Err() == nil {
			x.report(err)
			x.pause = time.Now().Add(patience)
		}
	}, periodic.Immediately)
}

// Update brings the index up to date once. It must not be called while Run runs.
func (x *Index) Update(ctx context.Context) error {
	if err := x.open(); err != nil {
		return err
	}
	if time.Now().Before(x.pause) {
		return nil
	}
	if !x.writes {
		if err := x.lock.Try(); errors.Is(err, flock.ErrLocked) {
			x.report(nil)
			return x.measure() // another gateway writes
		} else if err != nil {
			return fmt.Errorf("lock audit index: %w", err)
		}
		x.writes = true
	}
	if err := x.update(ctx); err != nil {
		return err
	}
	x.report(nil)
	return x.measure()
}

// update makes segments of what has none, the newest days first, since these are asked for most.
func (x *Index) update(ctx context.Context) error {
	stored, err := x.stored()
	if err != nil {
		return err
	}
	if err := x.removeUnused(stored); err != nil {
		return err
	}
	for _, s := range stored {
		if err := x.updateFile(ctx, s.ID); err != nil && !errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return err
		}
	}
	return x.verifyOne(ctx)
}

// stored are the files of the log, the newest first.
func (x *Index) stored() ([]auditfile.Stored, error) {
	stored, err := x.audit.List()
	slices.SortFunc(stored, func(a, b auditfile.Stored) int {
		return cmp.Or(-cmp.Compare(a.Day, b.Day), cmp.Compare(a.Category, b.Category))
	})
	return stored, err
}

func (x *Index) removeUnused(stored []auditfile.Stored) error {
	ids := map[auditfile.ID]bool{}
	for _, s := range stored {
		ids[s.ID] = true
	}
	unused := x.catalog.Load().unused(ids)
	for _, name := range unused {
		if err := x.catalog.Load().root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove from audit index: %w", err)
		}
	}
	if len(unused) == 0 {
		return nil
	}
	return x.catalog.Load().refresh()
}

// updateFile makes the segments that a file lacks, and joins small ones.
func (x *Index) updateFile(ctx context.Context, id auditfile.ID) error {
	print, err := x.audit.Fingerprint(id)
	if err != nil || x.isDone(id, print) {
		return err
	}
	f, err := x.audit.Open(id)
	if err != nil {
		return err
	}
	defer f.Close()
	over := time.Since((id.Day + 1).Start()) > dayEnds
	for {
		size, err := f.Size()
		if err != nil {
			return err
		}
		covered, err := x.Cover(f)
		if err != nil {
			return err
		}
		from, length := x.sizes.next(covered, size, over)
		if length == 0 {
			x.rest(id, print, over)
			return nil
		}
		if done, err := x.make(ctx, f, from, length); done || err != nil {
			return err
		}
	}
}

// rest remembers that a file needs no further look. It was inspected before it was read: what is appended meanwhile makes it another one.
func (x *Index) rest(id auditfile.ID, print auditfile.Fingerprint, over bool) {
	if over {
		x.done.Store(id, print)
	}
}

// next is the range of which a segment has to be made next; its length is 0 where there is none. over says that nothing is appended any more.
func (z Sizes) next(covered []*Segment, size int64, over bool) (from, length int64) {
	for _, s := range covered {
		if s.From() > from {
			return from, min(z.Max, s.From()-from)
		}
		from = s.To()
	}
	if rest := size - from; rest >= z.Min || over && rest > 0 {
		return from, min(z.Max, rest)
	}
	return z.join(covered)
}

// join is the range of the last segments, if these are many and small. The largest has at most half of it, so each byte is read again only a
// few times.
func (z Sizes) join(covered []*Segment) (from, length int64) {
	sum, largest := int64(0), int64(0)
	for i, s := range slices.Backward(covered) {
		size := s.To() - s.From()
		if sum+size > z.Max {
			break
		}
		sum, largest = sum+size, max(largest, size)
		if len(covered)-i >= merging && largest <= sum/2 {
			from, length = s.From(), sum
		}
	}
	return from, length
}

func (x *Index) isDone(id auditfile.ID, print auditfile.Fingerprint) bool {
	known, ok := x.done.Load(id)
	return ok && known == print
}

// make makes a segment. done says that there is nothing to make one of. It rests as long as it has worked: those who wait for
// the gateway come first.
func (x *Index) make(ctx context.Context, f *auditfile.File, from, length int64) (done bool, err error) {
	began := time.Now()
	m, data, err := build(ctx, f, from, length)
	if err != nil || m == nil {
		return true, err
	}
	if err := atomicfile.Write(x.catalog.Load().root, m.name(), data, 0o640, atomicfile.TempName(tempFile)); err != nil {
		return true, fmt.Errorf("write audit index: %w", err)
	}
	x.Built.Add(1)
	if err := x.catalog.Load().refresh(); err != nil {
		return true, err
	}
	select {
	case <-ctx.Done():
		return true, ctx.Err()
	case <-time.After(time.Since(began)):
		return false, nil
	}
}

// verifyOne reads the range of one segment, which it has not read before, and compares it with the segment's sum. Otherwise a change in the middle of a
// range would be noticed by the sealer only, and entries that it brought in would not be found.
func (x *Index) verifyOne(ctx context.Context) error {
	for _, s := range x.catalog.Load().all() {
		f, err := x.audit.Open(s.id())
		if err != nil {
			continue // gone; the next look removes the segment
		}
		err = x.verify(s, f)
		_ = f.Close()
		if !errors.Is(err, errVerified) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// errVerified says that there was nothing to do.
var errVerified = errors.New("the segment is verified")

func (x *Index) verify(s *Segment, f *auditfile.File) error {
	identity, err := f.Identity()
	if err != nil {
		return err
	}
	if known := s.verified.Load(); known != nil && *known == identity {
		return errVerified
	}
	got, err := sum(f, s.From(), s.To())
	if err != nil || got != s.Sum {
		x.Reject(s, "the log isn't what was indexed")
		return nil
	}
	s.verified.Store(&identity)
	return nil
}

// measure sets Lag, as far as it can be told without opening compressed files.
func (x *Index) measure() error {
	stored, err := x.audit.List()
	if err != nil {
		return err
	}
	lag := int64(0)
	for _, s := range stored {
		print, err := x.audit.Fingerprint(s.ID)
		if err != nil || x.isDone(s.ID, print) {
			continue
		}
		size := max(print.PlainSize, print.PackedSize)
		for _, seg := range x.catalog.Load().of(s.ID) {
			size -= seg.To() - seg.From()
		}
		lag += max(0, size)
	}
	x.Lag.Store(lag)
	return nil
}

// Reject gives up a segment that a question found to be wrong. The writer makes it anew.
func (x *Index) Reject(s *Segment, why string) {
	x.Rejected.Add(1)
	x.done.Delete(s.id())
	x.catalog.Load().drop(s, why)
}

// Cover are the segments of an open file that fit it, in the order of their ranges.
func (x *Index) Cover(f *auditfile.File) (fitting []*Segment, err error) {
	c := x.catalog.Load()
	if c == nil {
		return nil, nil
	}
	identity, err := f.Identity()
	if err != nil {
		return nil, err
	}
	for _, s := range c.of(f.ID) {
		fits, err := s.fitsFile(f, identity)
		if err != nil {
			return nil, err
		}
		if fits {
			fitting = append(fitting, s)
			continue
		}
		x.Reject(s, "the log isn't what was indexed")
	}
	return fitting, nil
}
