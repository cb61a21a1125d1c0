package store_test

import (
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
)

// Each transaction counts once, whether it succeeds or not, under the name that OpenTelemetry has for the database.
func TestTransactionsAreMeasured(t *testing.T) {
	test := func(t *testing.T, cfg store.Config, system string) {
		registry := prometheus.NewRegistry()
		cfg.Metrics = registry
		for range 2 { // opening it again, as after a failure, must not fail
			db, err := store.Open(t.Context(), cfg, migrations)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			_ = db.Tx(t.Context(), func(tx *store.Tx) error { _, err := tx.Exec("DELETE FROM items"); return err })
			_ = db.Tx(t.Context(), func(tx *store.Tx) error { _, err := tx.Exec("no SQL"); return err })
			_ = db.View(t.Context(), func(tx *store.Tx) error { return nil })
		}
		want := map[string]uint64{system + " write": 4, system + " read": 2}
		if got := counts(t, registry); !maps.Equal(got, want) {
			t.Errorf("measured %v, want %v", got, want)
		}
	}
	t.Run("sqlite", func(t *testing.T) { test(t, store.Config{Dir: t.TempDir(), Service: "test"}, "sqlite") })
	t.Run("postgres", func(t *testing.T) { test(t, storetest.Postgres(t), "postgresql") })
}

// counts gathers how often each operation was measured.
func counts(t *testing.T, registry *prometheus.Registry) map[string]uint64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]uint64{}
	for _, f := range families {
		for _, m := range f.Metric {
			found[m.Label[1].GetValue()+" "+m.Label[0].GetValue()] = m.Histogram.GetSampleCount()
		}
	}
	return found
}
