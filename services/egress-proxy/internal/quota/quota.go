// Package quota bounds the bytes that a pack may send out in a day (RUMI_EGRESS_DAILY_BYTES): a bound on how much a pack
// that is allowed to reach one host can carry off.
//
// Spending takes no write: it is decided by what this replica last read from the store plus what it spent since, and Run
// exchanges the two once a second. Several replicas can therefore overspend together by what each lets through in a second.
// A restarted replica reads the day's sums before it serves, so a restart gives a pack nothing back but what was spent in
// the second before a kill.
package quota

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/flush"
)

// Usage is the number of bytes that a pack sent on a day.
type Usage struct {
	PackID string
	Day    int64 // days since 1970, UTC
	Bytes  int64
}

// Store keeps the sums; all replicas share one.
type Store interface {
	// AddUsage adds usage, which may be empty, to the sums and returns those of day, by pack.
	AddUsage(ctx context.Context, usage []Usage, day int64) (map[string]int64, error)
}

// Quota decides how much packs may still send today. It is safe for concurrent use.
type Quota struct {
	store Store
	log   *slog.Logger

	// flushing is held for a whole flush, mu only while memory is read or changed: Spend must not wait for the database.
	flushing sync.Mutex

	mu     sync.Mutex
	budget budget
}

// New makes a quota of daily bytes for each pack and UTC day, 0 for no bound. Flush must have succeeded once before it is
// used: until then it doesn't know what packs sent before this process started.
func New(store Store, daily int64, log *slog.Logger) *Quota {
	return &Quota{store: store, log: log, budget: newBudget(daily)}
}

// Limited says whether there is a bound at all. Without one, Spend always succeeds and needs not be called.
func (q *Quota) Limited() bool { return q.budget.daily > 0 }

// Spend takes n bytes from what the pack may still send today. It says whether they were left; if not, none is taken.
func (q *Quota) Spend(packID string, n int) bool {
	if !q.Limited() || n == 0 {
		return true
	}
	day := today()
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.budget.spend(packID, day, int64(n))
}

// Flush stores what was spent here and reads what was spent at all replicas. On an error nothing is lost and nothing is
// counted twice: the next flush stores it.
func (q *Quota) Flush(ctx context.Context) error {
	if !q.Limited() {
		return nil
	}
	q.flushing.Lock()
	defer q.flushing.Unlock()
	day := today()
	q.mu.Lock()
	usage := q.budget.usage()
	q.mu.Unlock()
	totals, err := q.store.AddUsage(ctx, usage, day)
	if err != nil {
		return fmt.Errorf("store bytes sent: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.budget.stored(usage, totals, day)
	return nil
}

// Run flushes each second until ctx ends. What is spent after that is stored by a last Flush. Without a bound there is nothing
// to do, and it waits for ctx.
func (q *Quota) Run(ctx context.Context) error {
	return flush.Run(ctx, q.Flush, func(err error) {
		q.log.ErrorContext(ctx, "can't store the bytes that packs sent; they are kept in memory and stored once the database answers", "error", err)
	})
}

func today() int64 { return time.Now().Unix() / int64(24*time.Hour/time.Second) }
