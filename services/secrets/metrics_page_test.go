package main

import "testing"

// TestMetricsPage compares what the service exposes with docs/metrics.md.
func TestMetricsPage(t *testing.T) {
	suite, server := start(t)
	suite.CheckMetrics(server)
}
