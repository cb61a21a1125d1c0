package uds

import (
	"context"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
)

// load is what all sockets of a Set hold. Reading it takes no lock: a file system that hangs holds up the Set's, and must not hold up metrics.
type load struct{ sockets, connections, memory atomic.Int64 }

// newLoad registers the metrics of a Set; nil registers them nowhere.
func newLoad(registry prometheus.Registerer) *load {
	l := &load{}
	if registry == nil {
		return l
	}
	gauge := func(name, help string, value *atomic.Int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value.Load()) })
	}
	registry.MustRegister(
		gauge("rumi_sockets", "Sockets of packs that this replica serves.", &l.sockets),
		gauge("rumi_socket_connections", "Open connections of packs to these sockets.", &l.connections),
		gauge("rumi_socket_memory_reserved_bytes", "Memory that long requests and answers of packs have reserved; each socket has a budget.", &l.memory),
	)
	return l
}

// budget is a semaphore of bytes that counts in a load what it has given.
type budget struct {
	*semaphore.Weighted
	given *atomic.Int64
}

func newBudget(bytes int, of *load) *budget {
	return &budget{semaphore.NewWeighted(int64(bytes)), &of.memory}
}

// TryAcquire is semaphore.Weighted's.
func (b *budget) TryAcquire(n int64) bool {
	ok := b.Weighted.TryAcquire(n)
	if ok {
		b.given.Add(n)
	}
	return ok
}

// Acquire is semaphore.Weighted's.
func (b *budget) Acquire(ctx context.Context, n int64) error {
	err := b.Weighted.Acquire(ctx, n)
	if err == nil {
		b.given.Add(n)
	}
	return err
}

// Release is semaphore.Weighted's.
func (b *budget) Release(n int64) {
	b.given.Add(-n)
	b.Weighted.Release(n)
}
