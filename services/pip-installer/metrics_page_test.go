package main

import "testing"

// TestMetricsPage compares what the service exposes with docs/metrics.md.
func TestMetricsPage(t *testing.T) {
	w := newWorld(t, nil)
	w.CheckMetrics(w.server)
}
