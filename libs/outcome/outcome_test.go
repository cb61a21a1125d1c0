package outcome_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/outcome"
)

func TestOf(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{nil, outcome.OK},
		{fault.Invalid("no"), outcome.Refused},
		{fmt.Errorf("approve: %w", fault.Conflict("no")), outcome.Refused},
		{fault.Denied("no"), outcome.Refused},
		{fault.NotFound("no"), outcome.Refused},
		{fault.Limited("no"), outcome.Refused},
		{fault.Unavailable("no"), outcome.Failed},
		{errors.New("disk full"), outcome.Failed},
		{fmt.Errorf("read: %w", context.DeadlineExceeded), outcome.Failed},
		{fmt.Errorf("read: %w", context.Canceled), outcome.Canceled},
	} {
		if got := outcome.Of(test.err); got != test.want {
			t.Errorf("%v: got %s, want %s", test.err, got, test.want)
		}
	}
}

// TestOperations: all results are there from the start, each operation counts once, and what was refused isn't measured.
func TestOperations(t *testing.T) {
	registry := prometheus.NewRegistry()
	o := outcome.New(registry, outcome.Config{
		Total: "things_total", TotalHelp: "Things.", Duration: "thing_duration_seconds", DurationHelp: "Time of things.",
		Buckets: []float64{1, 10}, Results: []string{outcome.OK, outcome.Refused, outcome.Failed},
	})
	want := func(ok, refused, failed float64, measured uint64) {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]float64)
		var n uint64
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if h := m.GetHistogram(); h != nil {
					n = h.GetSampleCount()
				} else {
					got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
				}
			}
		}
		if want := (map[string]float64{"ok": ok, "refused": refused, "failed": failed}); fmt.Sprint(got) != fmt.Sprint(want) || n != measured {
			t.Errorf("got %v and %d durations, want %v and %d", got, n, want, measured)
		}
	}
	want(0, 0, 0, 0)
	o.Done(t.Context(), time.Now(), outcome.OK)
	o.Done(t.Context(), time.Now(), outcome.Refused)
	o.Done(t.Context(), time.Now(), outcome.Failed)
	want(1, 1, 1, 2)
}
