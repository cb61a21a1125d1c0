package candidate_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/store"
)

// TestGaugeOnBothDatabases: candidates are counted by state, and the last counts stand when the database goes away.
func TestGaugeOnBothDatabases(t *testing.T) {
	suite(t, func(t *testing.T, _ *owner, open func() *store.DB) {
		db := open()
		o := newOwner(db)
		if _, err := o.Scan(operator(t), found("a:1", "a:2", "b:1"), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := o.Reject(operator(t), "b:1", "no"); err != nil {
			t.Fatal(err)
		}
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(o.Gauge())
		scrape := func() map[string]float64 {
			t.Helper()
			began := time.Now()
			families, err := registry.Gather()
			if took := time.Since(began); err != nil || took > 5*time.Second {
				t.Fatalf("the scrape took %v: %v; want it within 5s, without an error", took, err)
			}
			counts := make(map[string]float64)
			for _, f := range families {
				for _, m := range f.GetMetric() {
					counts[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
				}
			}
			return counts
		}
		want := map[string]float64{"pending": 2, "rejected": 1, "installed": 0, "failed": 0, "blocked": 0, "superseded": 0}
		if got := scrape(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5100 * time.Millisecond) // the counts are asked for again
		if got := scrape(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("without the database: got %v, want the last counts %v", got, want)
		}
	})
}
