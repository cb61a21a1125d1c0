package main

import "testing"

// TestMetricsPage compares what the service exposes with docs/metrics.md.
func TestMetricsPage(t *testing.T) {
	r := newRig(t, nil)
	r.suite.CheckMetrics(r.proxy)
}
