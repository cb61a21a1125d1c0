package audit

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/periodic"
)

// summaryInterval is how long refusals are counted before one entry with the count is written.
const summaryInterval = time.Second

// Submitter is where entries go; *Log is it.
type Submitter interface {
	Submit(ctx context.Context, entries ...Entry) (wait func() error)
}

// Refusals writes the audit entries of refused requests, and bounds how many. The attack: a pack that asks ten thousand times a
// second for what it may not have, to fill the disk with entries or to hide one that matters among them.
//
// Each pack has a daily number of entries of its own. Beyond it a pack leaves at most two entries of each kind a second: the
// first refusal of the second as it is, and one that counts the others. A refused request is answered only when its own
// entry, or the entry of the first that it is counted with, has been written as Log.Write writes. So a kill can lose the
// count of the last second, but not the fact that there were refusals. Use NewRefusals.
type Refusals struct {
	to    Submitter
	daily float64 // 0 for any number
	log   *slog.Logger

	mu    sync.Mutex
	packs map[string]*packRefusals
}

// packRefusals is the state of one pack: a token bucket, and the counts of refusals beyond it.
type packRefusals struct {
	left      float64 // entries that the pack may still leave, as of refilled; grows by daily a day
	refilled  time.Time
	count     *count // of the current second; nil while there are entries left
	unwritten *count // of earlier seconds, whose entry could not be written
}

// count is a number of refusals within one second, or more if their entry could not be written earlier.
type count struct {
	first   chan struct{} // closed when the entries of the first are written
	failure error         // why they could not be written; read it once first is closed
	entries []Entry       // of the first
	actor   string

	// The refusals after the first:
	from, to time.Time // of the earliest and the latest
	n        int64     // how many
	reasons  map[string]int64
}

// NewRefusals bounds the refusals of a pack that have entries of their own to daily a day, all of which may come at
// once; 0 is no bound.
func NewRefusals(to Submitter, daily int, log *slog.Logger) *Refusals {
	return &Refusals{to: to, daily: float64(daily), log: log, packs: make(map[string]*packRefusals)}
}

// Submit is Log.Submit for the entries of one refusal, or only counts it: single says which. All entries are about this refusal
// and have packID as their OwnerPack; services refused by each other have "". reason is one of a fixed set, because each makes a field of the count.
func (r *Refusals) Submit(ctx context.Context, packID, reason string, entries ...Entry) (wait func() error, single bool) {
	if r.daily == 0 {
		return r.to.Submit(ctx, entries...), true
	}
	now := time.Now()
	r.mu.Lock()
	p := r.packs[packID]
	if p == nil {
		p = &packRefusals{left: r.daily, refilled: now}
		r.packs[packID] = p
	}
	if c := p.count; c != nil {
		c.add(reason, now)
		r.mu.Unlock()
		return c.wait, false
	}
	p.refill(now, r.daily)
	if p.left >= 1 {
		p.left--
		r.mu.Unlock()
		return r.to.Submit(ctx, entries...), true
	}
	c := &count{first: make(chan struct{}), entries: slices.Clone(entries), actor: origin.Of(ctx).Actor, reasons: make(map[string]int64)}
	p.count = c
	r.mu.Unlock()
	written := r.to.Submit(ctx, entries...)
	go func() { // not in the caller's wait: others wait for it, too, and the caller may never call it
		c.failure = written()
		close(c.first)
	}()
	return c.wait, true
}

func (c *count) wait() error {
	<-c.first
	return c.failure
}

// refill adds the entries that the time since the last call allows.
func (p *packRefusals) refill(now time.Time, daily float64) {
	p.left = min(daily, p.left+now.Sub(p.refilled).Hours()/24*daily)
	p.refilled = now
}

func (c *count) add(reason string, now time.Time) {
	if c.n == 0 {
		c.from = now
	}
	c.to = now
	c.n++
	c.reasons[reason]++
}

// Run writes the per-second summaries of refusals beyond the daily limit of single audit entries, until ctx ends.
func (r *Refusals) Run(ctx context.Context) error {
	return periodic.Run(ctx, summaryInterval, func(ctx context.Context) {
		_ = r.Flush(ctx) // Log.Submit has logged it; the count goes into the next second's
	})
}

// Flush writes the summaries of what was counted so far. Call it once more after the last Submit.
func (r *Refusals) Flush(ctx context.Context) error {
	now := time.Now()
	due := make(map[string]*count)
	r.mu.Lock()
	for id, p := range r.packs {
		c := p.unwritten.plus(p.count)
		p.count, p.unwritten = nil, nil
		if c != nil && c.n > 0 {
			due[id] = c
		} else if p.refill(now, r.daily); p.left >= r.daily {
			delete(r.packs, id) // its bucket is full, as a new one's would be
		}
	}
	r.mu.Unlock()
	var problems []error
	for id, c := range due {
		if err := r.write(ctx, id, c); err != nil {
			problems = append(problems, err)
			r.keepUnwritten(id, c)
		}
	}
	return errors.Join(problems...)
}

// plus adds a later count to c and returns the sum. Either may be nil.
func (c *count) plus(later *count) *count {
	if c == nil || later == nil {
		if c == nil {
			return later
		}
		return c
	}
	if later.n > 0 {
		c.to = later.to
	}
	c.n += later.n
	for reason, n := range later.reasons {
		c.reasons[reason] += n
	}
	return c
}

// write writes the summary of a count: one entry of each kind that the first refusal had.
func (r *Refusals) write(ctx context.Context, packID string, c *count) error {
	ctx = origin.With(context.WithoutCancel(ctx), origin.Origin{Actor: c.actor})
	entries := make([]Entry, 0, len(c.entries))
	for _, e := range c.entries {
		entries = append(entries, Entry{
			Category: e.Category, Severity: e.Severity, Action: e.Action, OwnerPack: packID,
			Details: map[string]any{
				"allowed": false, "count": c.n, "first_ts": formatTime(c.from), "last_ts": formatTime(c.to), "by_reason": c.reasons,
			},
			RejectionReason: "refusals beyond those that have entries of their own, counted",
		})
	}
	if err := r.to.Submit(ctx, entries...)(); err != nil {
		return err
	}
	r.log.WarnContext(ctx, "counted refusals that have no entries of their own", "pack_id", packID, "count", c.n, "by_reason", c.reasons)
	return nil
}

// keepUnwritten keeps a count for the next Flush.
func (r *Refusals) keepUnwritten(packID string, c *count) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.packs[packID].unwritten = c
}

func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }
