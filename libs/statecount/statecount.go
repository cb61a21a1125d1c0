// Package statecount exposes how many things are in which state, as a gauge that is counted when it is scraped.
//
// A gauge that is raised and lowered where the states change drifts: one path that forgets it, one other replica that writes to the same database, and
// it is wrong until the next start. So a Gauge counts anew at each scrape. All states of its fixed set are exposed, those without any things
// as 0, so that rules over them work from the first scrape on.
//
// What lies in memory is counted there. What lies in a database or a folder goes through a Cached count.
package statecount

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of a Cached count. A scrape never waits longer than scrapeWait, whatever the database does: Prometheus would count the whole service as
// down after its scrape time-out, with all metrics that are fine.
const (
	cachedFor  = 5 * time.Second  // so that two Prometheus servers, or an impatient operator, cost no more than one
	scrapeWait = time.Second      // then the last counts are exposed
	queryTime  = 10 * time.Second // of one count; it goes on when the scrape that began it has left
	keptFor    = time.Minute      // after which old counts are exposed no more: no value is better than a wrong one
)

// Counts are numbers of things by state. States that are missing have none.
type Counts map[string]int

// Count counts things. ok is false where that isn't known: then nothing is exposed.
type Count func() (counts Counts, ok bool)

// Gauge is a gauge with one label, or with none. It implements prometheus.Collector.
type Gauge struct {
	desc   *prometheus.Desc
	states []string
	count  Count
}

// New makes a gauge with a label of which states are all values. A state of count that isn't among them is not exposed.
func New(name, help, label string, states []string, count Count) *Gauge {
	return &Gauge{prometheus.NewDesc(name, help, []string{label}, nil), states, count}
}

// NewTotal makes a gauge without a label. Its number is the one of the state "".
func NewTotal(name, help string, count Count) *Gauge {
	return &Gauge{prometheus.NewDesc(name, help, nil, nil), nil, count}
}

// Describe implements prometheus.Collector.
func (g *Gauge) Describe(into chan<- *prometheus.Desc) { into <- g.desc }

// Collect implements prometheus.Collector.
func (g *Gauge) Collect(into chan<- prometheus.Metric) {
	counts, ok := g.count()
	if !ok {
		return
	}
	if g.states == nil {
		into <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(counts[""]))
	}
	for _, state := range g.states {
		into <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(counts[state]), state)
	}
}

// Memory makes a Count of one that always knows.
func Memory(count func() Counts) Count { return func() (Counts, bool) { return count(), true } }

// Cached makes a Count of a query. Counts of the last 5 seconds are used again; one query runs at a time. A scrape waits a second for it at most:
// then, and where the query fails, the last counts are used for a minute, and none after that.
func Cached(query func(context.Context) (Counts, error)) Count {
	return (&cached{query: query}).count
}

// cached is a query with its last result.
type cached struct {
	query func(context.Context) (Counts, error)

	mu      sync.Mutex
	counts  Counts
	at      time.Time     // when the query of counts began; zero for none
	running chan struct{} // closed when the query under way has ended; nil for none
}

func (c *cached) count() (Counts, bool) {
	if wait := c.refresh(); wait != nil {
		timer := time.NewTimer(scrapeWait)
		defer timer.Stop()
		select {
		case <-wait:
		case <-timer.C:
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts, !c.at.IsZero() && time.Since(c.at) < keptFor
}

// refresh starts the query unless it runs or its result is new enough. What it returns is closed when the query ends; nil for nothing to wait for.
func (c *cached) refresh() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == nil && (c.at.IsZero() || time.Since(c.at) >= cachedFor) {
		c.running = make(chan struct{})
		go c.run(c.running)
	}
	return c.running
}

func (c *cached) run(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTime)
	defer cancel()
	began := time.Now()
	counts, err := c.query(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.counts, c.at = counts, began
	}
	c.running = nil
	close(done)
}
