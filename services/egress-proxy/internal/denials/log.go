// Package denials logs the requests that packs were refused, so that an operator can see them and a grant can be
// proposed from them (Log.Refusals, grant.Service.Propose). It isn't the audit log: it counts repetitions instead of
// keeping them, and forgets the oldest.
//
// A refusal costs no write: it is counted in memory, and Run stores the counts once a second. A pack that is refused
// without end can therefore neither slow the proxy down nor fill the database. A replica that is killed loses the counts
// of its last second; the audit log has those requests.
package denials

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/flush"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
)

const (
	// MaxDenials is how many distinct denials are kept of a pack; the least recent are dropped.
	MaxDenials = 500
	// MaxPath is the longest path that is kept, in bytes. The path is part of the key of a denial, and a row of a
	// PostgreSQL index holds less than 2,700 bytes.
	MaxPath = 1024
)

// Key distinguishes denials. Its texts are ASCII.
type Key struct {
	Host   string // in hostname's normal form; "numeric form of …" for a spelling of an address that is always refused
	Port   uint16
	Method string
	Reason string // blocked_reason of the audit log
	Path   string // without query, masked; only where Reason is grant.RuleDenied and the path is at most MaxPath long, else ""
}

// Denial is how often, and when, one thing was refused to a pack.
type Denial struct {
	PackID string
	Key
	Count     int64
	FirstSeen time.Time
	LastSeen  time.Time
}

// Store keeps denials; all replicas share one.
type Store interface {
	// AddDenials adds the counts to those that are stored and drops all but the MaxDenials most recent of each pack.
	AddDenials(ctx context.Context, denials []Denial) error
	// Denials are those of a pack, or of all for "", the most recent first.
	Denials(ctx context.Context, packID string) ([]Denial, error)
	// ForgetDenials deletes a pack's denials.
	ForgetDenials(ctx context.Context, packID string) error
}

// Log is the log of denials as this replica sees it: the store's and those that the store doesn't have yet. It is safe for
// concurrent use.
type Log struct {
	store Store
	log   *slog.Logger

	// flushing is held for a whole flush, mu only while memory is read or changed: Add must not wait for the database.
	flushing sync.Mutex

	mu       sync.Mutex
	unstored map[string]*recent // by pack
}

// New makes a log over the store. Run must run for it to be stored.
func New(store Store, log *slog.Logger) *Log {
	return &Log{store: store, log: log, unstored: make(map[string]*recent)}
}

// Add counts a denial. It never waits for the store.
func (l *Log) Add(packID string, key Key) {
	if len(key.Path) > MaxPath {
		key.Path = ""
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.unstored[packID]
	if r == nil {
		r = newRecent()
		l.unstored[packID] = r
	}
	r.add(Denial{PackID: packID, Key: key, Count: 1, FirstSeen: now, LastSeen: now})
}

// List gives the denials of a pack, or of all for "", the most recent first. It flushes first, so that the answer has this
// replica's last second, too; other replicas' last second may be missing.
func (l *Log) List(ctx context.Context, packID string) ([]Denial, error) {
	if err := l.Flush(ctx); err != nil {
		return nil, err
	}
	denials, err := l.store.Denials(ctx, packID)
	if err != nil {
		return nil, fmt.Errorf("list denials: %w", err)
	}
	return denials, nil
}

// Refusals are the denials, at since or later, of destinations that another grant would have allowed the pack. A grant
// can be proposed from them.
func (l *Log) Refusals(ctx context.Context, packID string, since time.Time) ([]grant.Refusal, error) {
	denials, err := l.List(ctx, packID)
	if err != nil {
		return nil, err
	}
	var refused []grant.Refusal
	for _, d := range denials {
		if !d.LastSeen.Before(since) && (d.Reason == grant.Denied || d.Reason == grant.RuleDenied) {
			refused = append(refused, grant.Refusal{Host: d.Host, Port: d.Port, Method: d.Method, Path: d.Path, Reason: d.Reason})
		}
	}
	return refused, nil
}

// Forget deletes a pack's denials, stored or not. A flush under way is waited for: it would bring them back.
func (l *Log) Forget(ctx context.Context, packID string) error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.mu.Lock()
	delete(l.unstored, packID)
	l.mu.Unlock()
	return l.store.ForgetDenials(ctx, packID)
}

// Flush stores what isn't stored yet. On an error nothing is lost: the next flush stores it.
func (l *Log) Flush(ctx context.Context) error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.mu.Lock()
	taken := l.unstored
	l.unstored = make(map[string]*recent)
	l.mu.Unlock()
	var denials []Denial
	for _, r := range taken {
		denials = r.appendTo(denials)
	}
	if len(denials) == 0 {
		return nil
	}
	if err := l.store.AddDenials(ctx, denials); err != nil {
		l.putBack(taken)
		return fmt.Errorf("store denials: %w", err)
	}
	return nil
}

// putBack undoes the taking of a flush that failed. Denials that were added meanwhile are more recent than those taken, so
// they are added to these, not the other way round: recent drops the least recent by the order of adding.
func (l *Log) putBack(taken map[string]*recent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for packID, newer := range l.unstored {
		older := taken[packID]
		if older == nil {
			taken[packID] = newer
			continue
		}
		for _, d := range newer.appendTo(nil) {
			older.add(d)
		}
	}
	l.unstored = taken
}

// Run flushes each second until ctx ends. What is added after that is stored by a last Flush.
func (l *Log) Run(ctx context.Context) error {
	return flush.Run(ctx, l.Flush, func(err error) {
		l.log.ErrorContext(ctx, "can't store denials; they are kept in memory and stored once the database answers", "error", err)
	})
}
