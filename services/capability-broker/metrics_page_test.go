package main

import (
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

// TestMetricsPage compares what the service exposes with docs/metrics.md.
func TestMetricsPage(t *testing.T) {
	s, run := servicetest.New(t, "capability-broker"), t.TempDir()
	s.CheckMetrics(servicetest.Start(s, "capability-broker", build, map[string]string{
		"RUMI_CAPABILITY_SOCK_DIR": filepath.Join(run, "c"), "RUMI_EGRESS_SOCK_DIR": filepath.Join(run, "e"),
		"RUMI_CAPABILITY_SOCKET_GID": strconv.Itoa(socketGID()), "RUMI_DOCKER_SOCKET": filepath.Join(run, "none"),
	}))
}
