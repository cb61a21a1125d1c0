// Package ledger remembers what packs were refused and how much they sent: in memory first, so that a denial costs no
// write, and in the store within a second.
package ledger

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/periodic"
)

const (
	// MaxDenials is how many distinct denials are kept of a pack; the least recent are dropped.
	MaxDenials = 500
	// MaxPath is the longest path that is remembered, in bytes: denials are found by it, and PostgreSQL's indexes hold
	// less than 2,700 bytes a row.
	MaxPath = 1024

	flushEvery = time.Second
)

// Key tells denials apart. Its texts are ASCII.
type Key struct {
	Host   string // in hostname's one form, or words for a spelling of an address that is never let through
	Port   uint16
	Method string
	Reason string // blocked_reason of the audit log
	Path   string // without query, of what a grant's rules refused; "" for other reasons and longer ones than MaxPath
}

// Denial is how often, and when, something was refused to a pack.
type Denial struct {
	PackID string
	Key
	Count     int64
	FirstSeen time.Time
	LastSeen  time.Time
}

// Usage is what a pack sent on a day.
type Usage struct {
	PackID string
	Day    int64 // days since 1970, UTC
	Bytes  int64
}

// Store keeps the ledger; all replicas share one.
type Store interface {
	// Record adds denials and usage to what is there, keeps MaxDenials of each pack, and answers what every pack has
	// sent on the day.
	Record(ctx context.Context, denials []Denial, usage []Usage, day int64) (map[string]int64, error)
	// Denials are those of a pack, or of all for "", the most recent first.
	Denials(ctx context.Context, packID string) ([]Denial, error)
	// Forget removes a pack's denials.
	Forget(ctx context.Context, packID string) error
}

// Ledger is this replica's part. It is safe for concurrent use.
type Ledger struct {
	store Store
	log   *slog.Logger

	flushing sync.Mutex // one flush at a time

	mu      sync.Mutex
	refused map[string]*recent // by pack, what the store lacks
	budget  budget
}

// New makes a ledger. daily bounds the bytes that a pack may send a day, 0 for no bound.
func New(store Store, daily int64, log *slog.Logger) *Ledger {
	return &Ledger{store: store, log: log, refused: make(map[string]*recent), budget: newBudget(daily)}
}

// Note remembers a denial. It never waits for the store.
func (l *Ledger) Note(packID string, key Key) {
	if len(key.Path) > MaxPath {
		key.Path = ""
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(packID).add(Denial{PackID: packID, Key: key, Count: 1, FirstSeen: now, LastSeen: now})
}

func (l *Ledger) of(packID string) *recent {
	r := l.refused[packID]
	if r == nil {
		r = newRecent()
		l.refused[packID] = r
	}
	return r
}

// Bounded says whether what packs may send is bounded at all.
func (l *Ledger) Bounded() bool { return l.budget.daily > 0 }

// Spend takes n bytes from what the pack may send today. It says whether they were left; if not, none is taken.
func (l *Ledger) Spend(packID string, n int) bool {
	if l.budget.daily == 0 || n == 0 {
		return true
	}
	day := today()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.budget.spend(packID, day, int64(n))
}

// Denials are those of a pack, or of all for "", the most recent first, with the last second's of this replica.
func (l *Ledger) Denials(ctx context.Context, packID string) ([]Denial, error) {
	if err := l.Flush(ctx); err != nil {
		return nil, err
	}
	return l.store.Denials(ctx, packID)
}

// Forget removes a pack's denials. What it sent today still counts.
func (l *Ledger) Forget(ctx context.Context, packID string) error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.mu.Lock()
	delete(l.refused, packID)
	l.mu.Unlock()
	return l.store.Forget(ctx, packID)
}

// Flush brings the store up to the ledger, and the ledger up to what other replicas let packs send. On an error nothing
// is lost: the next flush has it.
func (l *Ledger) Flush(ctx context.Context) error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	day := today()
	l.mu.Lock()
	taken, usage := l.refused, l.budget.usage()
	l.refused = make(map[string]*recent)
	l.mu.Unlock()
	var denials []Denial
	for _, r := range taken {
		denials = r.appendTo(denials)
	}
	if len(denials) == 0 && l.budget.daily == 0 {
		return nil
	}
	totals, err := l.store.Record(ctx, denials, usage, day)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		for packID, newer := range l.refused { // on top of what was taken, since they are more recent
			older := taken[packID]
			if older == nil {
				taken[packID] = newer
				continue
			}
			for _, d := range newer.appendTo(nil) {
				older.add(d)
			}
		}
		l.refused = taken
		return err
	}
	l.budget.settle(usage, totals, day)
	return nil
}

// Follow flushes each second until ctx ends; what comes after is for a last Flush.
func (l *Ledger) Follow(ctx context.Context) error {
	failing := false
	return periodic.Run(ctx, flushEvery, func(ctx context.Context) {
		err := l.Flush(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			l.log.ErrorContext(ctx, "can't store denials and bytes sent; they are kept in memory", "error", err)
		}
		failing = err != nil
	})
}

func today() int64 { return time.Now().Unix() / int64(24*time.Hour/time.Second) }
