package main

import "testing"

// TestMetricsPage compares what the service exposes with docs/metrics.md.
func TestMetricsPage(t *testing.T) {
	w := start(t)
	w.CheckMetrics(w.server)
}
