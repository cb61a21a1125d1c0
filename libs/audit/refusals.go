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

// summarise is how long refusals are counted before the count is written.
const summarise = time.Second

// Submitter is where entries go; *Log is it.
type Submitter interface {
	Submit(ctx context.Context, entries ...Entry) (wait func() error)
}

// Refusals writes the entries of what packs were refused, and keeps a pack that is refused without end from filling the
// disk. A pack may leave a number of them a day one by one. What is beyond is accounted for by two of each kind a second
// at most: the first of a second's is written as it is, the others by one that counts them. A refusal is answered when its
// own entry, or the first that it is counted with, is where Log.Write brings it: what a kill can lose is the count of the
// last second, not the fact. Use NewRefusals.
type Refusals struct {
	to    Submitter
	daily float64 // 0 for any number
	log   *slog.Logger

	mu    sync.Mutex
	packs map[string]*refused
}

// refused is what is remembered of one pack.
type refused struct {
	left  float64 // entries that it may still leave, as of at
	at    time.Time
	count *count // of the running second; nil while it has entries left
	owed  *count // of seconds before, that could not be written
}

// count is of refusals within a second.
type count struct {
	first   chan struct{} // closed when the entries of the first are written
	failure error         // of that, once first is closed
	entries []Entry       // of the first
	actor   string

	from, to time.Time // the others: when the earliest and the latest was,
	n        int64     // how many there are
	reasons  map[string]int64
}

// NewRefusals bounds the refusals of a pack that have entries of their own to daily a day, all of which may come at
// once; 0 is no bound.
func NewRefusals(to Submitter, daily int, log *slog.Logger) *Refusals {
	return &Refusals{to: to, daily: float64(daily), log: log, packs: make(map[string]*refused)}
}

// Submit hands the entries of one refusal over, or counts it; alone says which. It is Log.Submit otherwise. entries are
// about the same refusal and their OwnerPack; reason is of a fixed set.
func (r *Refusals) Submit(ctx context.Context, packID, reason string, entries ...Entry) (wait func() error, alone bool) {
	if r.daily == 0 {
		return r.to.Submit(ctx, entries...), true
	}
	now := time.Now()
	r.mu.Lock()
	p := r.packs[packID]
	if p == nil {
		p = &refused{left: r.daily, at: now}
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
	go func() { // others wait for it, whatever becomes of the caller
		c.failure = written()
		close(c.first)
	}()
	return c.wait, true
}

func (c *count) wait() error {
	<-c.first
	return c.failure
}

func (p *refused) refill(now time.Time, daily float64) {
	p.left = min(daily, p.left+now.Sub(p.at).Hours()/24*daily)
	p.at = now
}

func (c *count) add(reason string, now time.Time) {
	if c.n == 0 {
		c.from = now
	}
	c.to = now
	c.n++
	c.reasons[reason]++
}

// Follow writes what was counted, each second until ctx ends.
func (r *Refusals) Follow(ctx context.Context) error {
	return periodic.Run(ctx, summarise, func(ctx context.Context) {
		_ = r.Flush(ctx) // the log has said so; the next second's count has what failed
	})
}

// Flush writes what was counted so far. Call it when nobody submits any more, too.
func (r *Refusals) Flush(ctx context.Context) error {
	now := time.Now()
	due := make(map[string]*count)
	r.mu.Lock()
	for id, p := range r.packs {
		c := p.owed.plus(p.count)
		p.count, p.owed = nil, nil
		if c != nil && c.n > 0 {
			due[id] = c
		} else if p.refill(now, r.daily); p.left >= r.daily {
			delete(r.packs, id) // as if it had never been refused anything
		}
	}
	r.mu.Unlock()
	var problems []error
	for id, c := range due {
		if err := r.write(ctx, id, c); err != nil {
			problems = append(problems, err)
			r.owe(id, c)
		}
	}
	return errors.Join(problems...)
}

// plus is both counts, the receiver's being the earlier; either may be nil.
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

func (r *Refusals) write(ctx context.Context, packID string, c *count) error {
	ctx = origin.With(context.WithoutCancel(ctx), origin.Origin{Actor: c.actor})
	entries := make([]Entry, 0, len(c.entries))
	for _, e := range c.entries {
		entries = append(entries, Entry{
			Category: e.Category, Severity: e.Severity, Action: e.Action, OwnerPack: packID,
			Details: map[string]any{
				"allowed": false, "count": c.n, "first_ts": stamp(c.from), "last_ts": stamp(c.to), "by_reason": c.reasons,
			},
			RejectionReason: "refusals beyond those that a pack has entries of their own for, counted",
		})
	}
	if err := r.to.Submit(ctx, entries...)(); err != nil {
		return err
	}
	r.log.WarnContext(ctx, "counted refusals of a pack that has no entries left", "pack_id", packID, "count", c.n, "by_reason", c.reasons)
	return nil
}

// owe leaves a count for the next flush.
func (r *Refusals) owe(packID string, c *count) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.packs[packID].owed = c
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }
