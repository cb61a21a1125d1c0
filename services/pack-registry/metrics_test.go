package main

import (
	"fmt"
	"testing"
)

// TestImportsAndChangesAreCounted: from an import to the uninstall, each step by what became of it.
func TestImportsAndChangesAreCounted(t *testing.T) {
	s := start(t)
	imports := func(ok, refused float64) map[string]float64 {
		return map[string]float64{
			`rumi_imports_total{result="ok"}`: ok, `rumi_imports_total{result="refused"}`: refused, `rumi_imports_total{result="failed"}`: 0,
			`rumi_imports_total{result="cancelled"}`: 0, "rumi_import_duration_seconds_count": ok, "rumi_imports_running": 0,
		}
	}
	changes := func(operation string, ok, refused, failed float64) map[string]float64 {
		name := func(result string) string {
			return fmt.Sprintf("rumi_pack_changes_total{operation=%q,result=%q}", operation, result)
		}
		return map[string]float64{name("ok"): ok, name("refused"): refused, name("failed"): failed}
	}
	s.registry.WantValues(t, "at first", imports(0, 0))
	a := s.upload([3]string{"file", "p.zip", archived(t, "p", "1")})
	s.upload([3]string{"file", "p.zip", "PK no archive"})
	s.registry.WantValues(t, "one import, and one that is none", imports(1, 1))
	s.registry.Eventually(t, "one pack waits", map[string]float64{"rumi_staged_packs": 1, "rumi_pack_changes_unfinished": 0})

	s.call("POST", "/api/packs/apply", `{"staging_id": "0123456789abcdef"}`)
	s.call("POST", "/api/packs/apply", fmt.Sprintf(`{"staging_id": %q}`, a.Data["staging_id"]))
	s.registry.WantValues(t, "applied", changes("apply", 1, 1, 0))
	s.registry.Eventually(t, "none waits", map[string]float64{"rumi_staged_packs": 0})
	s.call("POST", "/api/packs/p/rollback", `{"backup": "20260101T000000.000000000Z"}`)
	s.registry.WantValues(t, "no such backup", changes("rollback", 0, 1, 0))
	s.fail("egress-proxy")
	s.call("DELETE", "/api/packs/p", "")
	s.fail()
	s.call("DELETE", "/api/packs/p", "")
	s.registry.WantValues(t, "uninstalled at the second time", changes("uninstall", 1, 0, 1))
}

// TestNamesOfPacksMakeNoSeries: whatever an archive holds, no time series comes of it.
func TestNamesOfPacksMakeNoSeries(t *testing.T) {
	s := start(t)
	s.registry.WantNoNewSeries(t, func() {
		for i := range 100 {
			s.upload([3]string{"file", fmt.Sprintf("p%d.zip", i), archived(t, fmt.Sprintf("pack_%d", i), fmt.Sprint(i))})
			s.upload([3]string{fmt.Sprint("field", i), "", "x"})
			s.call("POST", fmt.Sprintf("/api/packs/made%d/rollback", i), fmt.Sprintf(`{"backup": "b%d"}`, i))
			s.call("DELETE", fmt.Sprintf("/api/packs/made%d", i), "")
		}
	})
}
