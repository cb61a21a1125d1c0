package main

import (
	"testing"

	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

// TestMetricsPage compares what the service exposes with docs/metrics.md.
func TestMetricsPage(t *testing.T) {
	s := servicetest.New(t, "pack-registry")
	s.CheckMetrics(servicetest.Start(s, "pack-registry", build, map[string]string{"RUMI_ECOSYSTEM": s.Ecosystem()}))
}
