package main

import (
	"fmt"
	"testing"
)

// TestMetricsFollowWhatHappens: secrets, grants, candidates and containers are counted as they are, over real sockets and a real pack.
func TestMetricsFollowWhatHappens(t *testing.T) {
	w := newPermissiveWorld(t)
	w.broker.WantValues(t, "at first", map[string]float64{
		`rumi_secret_reads_total{result="ok"}`: 0, `rumi_grants{state="active"}`: 0, `rumi_containers{state="running"}`: 0,
	})
	w.secrets["KEY"] = "v4lue"
	files := packFiles()
	files["backend/main.py"] = "import time\ntime.sleep(3600)\n"
	w.write("p", files)
	w.approve("p")
	w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": "secrets.get",
		"config": map[string]any{"allowed_keys": []string{"KEY", "GONE"}}})
	w.broker.WantValues(t, "granted", map[string]float64{`rumi_grants{state="active"}`: 1, `rumi_grants{state="suspended"}`: 0})
	pack := w.dial("p")
	for _, key := range []string{"KEY", "KEY", "GONE", "OTHER"} {
		pack.ask(map[string]any{"permission_id": "secrets.get", "args": map[string]any{"key": key}})
	}
	w.broker.WantValues(t, "asked", map[string]float64{
		`rumi_secret_reads_total{result="ok"}`: 2, `rumi_secret_reads_total{result="not_found"}`: 1, `rumi_secret_reads_total{result="failed"}`: 0,
		`rumi_capability_calls_total{result="ok"}`: 2, `rumi_capability_calls_total{result="access_denied"}`: 2,
		`rumi_capability_denials_total{reason="not_in_config"}`: 2, "rumi_capability_call_duration_seconds_count": 4,
	})
	w.must("POST", "/api/containers/p/start", nil)
	w.broker.WantValues(t, "started", map[string]float64{
		`rumi_containers{state="running"}`: 1, `rumi_container_starts_total{result="ok"}`: 1, "rumi_container_start_duration_seconds_count": 1,
	})
	w.SetPolicy(`{"version": 1, "capability": {"permissions": {"deny": ["secrets.*"]}}}`)
	w.broker.Eventually(t, "the policy", map[string]float64{`rumi_grants{state="active"}`: 0, `rumi_grants{state="suspended"}`: 1})
	w.must("POST", "/api/containers/p/stop", nil)
	w.broker.WantValues(t, "stopped", map[string]float64{
		`rumi_containers{state="running"}`: 0, `rumi_containers{state="stopped"}`: 1, `rumi_container_ends_total{reason="stopped"}`: 1,
	})
	w.broker.WantNoNewSeries(t, func() {
		for i := range 300 {
			pack.ask(map[string]any{"permission_id": fmt.Sprintf("made.up_%d", i), "args": map[string]any{fmt.Sprint("a", i): i}, "pack_id": fmt.Sprint("claim", i)})
		}
	})
}
