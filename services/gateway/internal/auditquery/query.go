// Package auditquery answers GET /api/audit: which entries of the audit log a filter asks for, the newest first.
//
// The files of a day, one for each category, are read from their ends to their beginnings, and merged by time. Within a file entries come in the
// order in which they were written, so a cursor is an offset for each file, and no entry is lost or answered twice while others are appended. A question
// has a limited time. Where that is over, the answer has what was found so far, says that it isn't complete, and has a cursor to go on with.
package auditquery

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/services/gateway/internal/auditindex"
)

// Bounds.
const (
	MaxLimit     = 1000            // entries of an answer
	DefaultLimit = 100             // likewise, where the question names no number
	maxAnswer    = 4 << 20         // bytes of an answer's entries; one more entry may come on top
	timeBudget   = 2 * time.Second // of one question
	parallel     = 4               // questions at a time: each takes some MiB of memory and a processor
)

// Log answers questions about the audit log in a folder. It is safe for concurrent use.
type Log struct {
	dir   *auditfile.Dir
	index *auditindex.Index
	slots chan struct{}

	Metrics *Metrics // nil for none
}

// New makes a Log.
func New(dir *auditfile.Dir, index *auditindex.Index) *Log {
	return &Log{dir: dir, index: index, slots: make(chan struct{}, parallel)}
}

// Question is what is asked.
type Question struct {
	Filter auditfile.Filter
	Packs  []string          // entries of these packs only; nil for all entries
	Limit  int               // from 1
	Cursor *auditfile.Cursor // where the last answer ended; nil to begin with the newest entry
	budget *budget           // nil for the usual one; for tests
}

// Answer has the entries, the newest first.
type Answer struct {
	Entries  []jsontext.Value
	Next     *auditfile.Cursor // to go on with; nil where there is nothing left
	Complete bool              // false where the time was over: between the last entry and Next not all was looked through
	Scanned  int64             // lines that were read

	size int // bytes of Entries
}

// budget bounds the work for one question.
type budget struct {
	ctx      context.Context
	deadline time.Time
	left     int64 // lines
	scanned  int64
}

// spend takes a line off, and says whether there is still time for it.
func (b *budget) spend() bool {
	if b.scanned++; b.scanned > b.left {
		return false
	}
	return b.scanned%64 != 0 || time.Now().Before(b.deadline) && b.ctx.Err() == nil
}

// over says whether the time is over, between two steps that read no line.
func (b *budget) over() bool {
	return b.scanned > b.left || !time.Now().Before(b.deadline) || b.ctx.Err() != nil
}

// Ask answers a question. The end of ctx while it waits for its turn is an error; later it only ends the search.
func (l *Log) Ask(ctx context.Context, q Question) (answer *Answer, err error) {
	began := time.Now()
	defer func() { l.Metrics.observe(began, answer, err) }()
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if q.budget == nil {
		q.budget = &budget{left: 1 << 62, deadline: time.Now().Add(timeBudget)}
	}
	q.budget.ctx = ctx
	days, err := l.days(&q)
	if err != nil {
		return nil, err
	}
	answer = &Answer{Complete: true}
	for _, d := range days {
		more, err := l.askDay(&q, d, answer)
		answer.Scanned = q.budget.scanned
		if more || err != nil {
			return answer, err
		}
	}
	return answer, nil
}

// day is the files of a day.
type day struct {
	day   auditfile.Day
	files []auditfile.ID // in the order of categories
}

// days lists what may have entries that are asked for, the newest first.
func (l *Log) days(q *Question) (days []day, err error) {
	stored, err := l.dir.List()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(stored, func(a, b auditfile.Stored) int {
		return cmp.Or(-cmp.Compare(a.Day, b.Day), cmp.Compare(a.Category, b.Category))
	})
	for _, s := range stored {
		if !q.wants(s.ID) {
			continue
		}
		if n := len(days); n == 0 || days[n-1].day != s.Day {
			days = append(days, day{day: s.Day})
		}
		last := &days[len(days)-1]
		last.files = append(last.files, s.ID)
	}
	return days, nil
}

// wants says whether a file may have entries that are asked for.
func (q *Question) wants(id auditfile.ID) bool {
	f := &q.Filter
	return f.Wants(id.Category) && (q.Cursor == nil || id.Day <= q.Cursor.Day) &&
		(f.Since.IsZero() || (id.Day + 1).Start().After(f.Since)) && (f.Until.IsZero() || id.Day.Start().Before(f.Until))
}

// askDay adds the entries of a day. more says that the answer ends here, and has a cursor.
func (l *Log) askDay(q *Question, d day, answer *Answer) (more bool, err error) {
	var sources []*source
	defer func() {
		for _, s := range sources {
			s.close()
		}
	}()
	for _, id := range d.files {
		s, err := l.open(q, id)
		if err != nil {
			return false, err
		}
		if s != nil {
			sources = append(sources, s)
		}
	}
	for _, s := range sources {
		if err := s.advance(); err != nil {
			return false, err
		}
	}
	for {
		if slices.ContainsFunc(sources, func(s *source) bool { return s.stopped }) {
			answer.Complete, answer.Next = false, cursorOf(d.day, sources)
			return true, nil
		}
		newest := newestOf(sources)
		if newest == nil {
			return false, nil
		}
		answer.add(newest.take())
		if len(answer.Entries) == q.Limit || answer.size >= maxAnswer { // the next entry isn't looked for: that may take long
			answer.Next = cursorOf(d.day, sources)
			return true, nil
		}
		if err := newest.advance(); err != nil {
			return false, err
		}
	}
}

func (a *Answer) add(e *auditfile.Entry) {
	a.Entries = append(a.Entries, e.Raw)
	a.size += len(e.Raw)
}

// newestOf is the source whose next entry is the newest; of several with one time the first. nil where none has an entry.
func newestOf(sources []*source) (newest *source) {
	for _, s := range sources {
		if s.head != nil && (newest == nil || s.head.TS.After(newest.head.TS)) {
			newest = s
		}
	}
	return newest
}

// cursorOf is the place before all entries that were answered, and after all that are left.
func cursorOf(d auditfile.Day, sources []*source) *auditfile.Cursor {
	c := &auditfile.Cursor{Kind: auditfile.Back, Day: d}
	for _, s := range sources {
		c.Positions = append(c.Positions, auditfile.Position{ID: s.id, Offset: s.position()})
	}
	return c
}
