package main

import (
	"fmt"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/build"
)

// installs are the values of the metrics of installs. All but refused ones have a duration.
func installs(ok, refused, failed float64) map[string]float64 {
	return map[string]float64{
		`rumi_installs_total{result="ok"}`: ok, `rumi_installs_total{result="refused"}`: refused, `rumi_installs_total{result="failed"}`: failed,
		`rumi_installs_total{result="cancelled"}`: 0, "rumi_install_duration_seconds_count": ok + failed,
	}
}

// TestInstallsByResult: each install that is asked for is counted by what became of it. What is refused has no duration.
func TestInstallsByResult(t *testing.T) {
	w := prepared(t, nil)
	w.server.WantValues(t, "at first", installs(0, 0, 0))
	w.call("POST", request(key, "approve"), `{}`) // the pack isn't approved
	w.server.WantValues(t, "not approved", installs(0, 1, 0))
	w.approve("weather")
	w.builder.buildErr = &build.Failure{Reason: "No matching distribution"}
	w.call("POST", request(key, "approve"), `{}`)
	w.server.WantValues(t, "pip says no", installs(0, 1, 1))
	w.builder.buildErr = fault.DockerUnavailable()
	w.call("POST", request(key, "approve"), `{}`)
	w.server.WantValues(t, "no Docker", installs(0, 1, 2))
	*w.builder = fakeBuilder{t: t}
	w.call("POST", request(key, "approve"), `{}`)
	w.server.WantValues(t, "installed", installs(1, 1, 2))
}

// TestCandidatesByState: candidates are counted as the database has them.
func TestCandidatesByState(t *testing.T) {
	w := prepared(t, nil)
	states := func(pending, rejected, installed float64) map[string]float64 {
		return map[string]float64{
			`rumi_candidates{state="pending"}`: pending, `rumi_candidates{state="rejected"}`: rejected, `rumi_candidates{state="installed"}`: installed,
			`rumi_candidates{state="failed"}`: 0, `rumi_candidates{state="blocked"}`: 0, `rumi_candidates{state="superseded"}`: 0,
		}
	}
	w.server.Eventually(t, "scanned", states(1, 0, 0))
	w.call("POST", request(key, "reject"), `{"reason": "no"}`)
	w.server.Eventually(t, "rejected", states(0, 1, 0))
	w.approve("weather")
	w.call("POST", request(key, "approve"), `{}`)
	w.server.Eventually(t, "installed", states(0, 0, 1))
}

// TestLocksMakeNoSeries: whatever packs and their locks are called, and whatever builds fail of, no time series comes of it.
func TestLocksMakeNoSeries(t *testing.T) {
	w := prepared(t, nil)
	w.approve("weather")
	w.server.WantNoNewSeries(t, func() {
		for i := range 50 {
			w.write(fmt.Sprint("pack", i), "requirements.lock", fmt.Sprintf("made-up-%d==%d\n", i, i))
			w.builder.buildErr = &build.Failure{Reason: fmt.Sprint("made up ", i)}
			w.call("POST", request(key, "approve"), `{}`)
			w.call("POST", fmt.Sprintf("/api/pip/requests/made%d/approve", i), `{}`)
		}
		w.call("POST", "/api/pip/candidates/scan", "")
	})
}
