package servicetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// Values are a service's metrics as a scrape shows them, by name and labels: `rumi_grants{state="active"}`. A histogram is its number of values,
// under its name and _count, and their sum, under _sum.
func (s *Server) Values(t testing.TB) map[string]float64 {
	t.Helper()
	families, err := s.Metrics.Gather()
	if err != nil {
		t.Fatalf("gather the metrics of %s: %v", s.Name, err)
	}
	values := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := labelsOf(m)
			if h := m.GetHistogram(); h != nil {
				values[f.GetName()+"_count"+labels], values[f.GetName()+"_sum"+labels] = float64(h.GetSampleCount()), h.GetSampleSum()
				continue
			}
			values[f.GetName()+labels] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

func labelsOf(m *dto.Metric) string {
	var labels []string
	for _, l := range m.GetLabel() {
		labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
	}
	if labels == nil {
		return ""
	}
	return "{" + strings.Join(labels, ",") + "}"
}

// WantValues fails for each metric, named as by Values, that hasn't the value.
func (s *Server) WantValues(t testing.TB, what string, want map[string]float64) {
	t.Helper()
	got := s.Values(t)
	for name, value := range want {
		if now, ok := got[name]; !ok || now != value {
			t.Errorf("%s: %s is %v (exposed: %t), want %v", what, name, now, ok, value)
		}
	}
}

// WantNoNewSeries fails for each series of a service's own (rumi_…) that do makes.
func (s *Server) WantNoNewSeries(t testing.TB, do func()) {
	t.Helper()
	before := s.Values(t)
	do()
	for name := range s.Values(t) {
		if _, known := before[name]; !known && strings.HasPrefix(name, "rumi_") {
			t.Errorf("a new series: %s", name)
		}
	}
}

// Eventually waits until all metrics, named as by Values, have their values: what is counted by a query is used again for some seconds.
func (s *Server) Eventually(t testing.TB, what string, want map[string]float64) {
	t.Helper()
	for began := time.Now(); time.Since(began) < 20*time.Second; time.Sleep(100 * time.Millisecond) {
		got, same := s.Values(t), true
		for name, value := range want {
			now, ok := got[name]
			same = same && ok && now == value
		}
		if same {
			return
		}
	}
	s.WantValues(t, what+", after 20s", want)
}
