package backupstatus

import (
	"strings"
	"testing"
	"time"
)

func TestVerdict(t *testing.T) {
	now := time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)
	hour := func(n int) *Backup { return &Backup{Name: "rumi-x.age", At: now.Add(-time.Duration(n) * time.Hour)} }
	for name, c := range map[string]struct {
		status Status
		state  string
		detail string
	}{
		"new":                       {Status{Interval: 3600, Newest: hour(1), LastRun: now}, OK, ""},
		"never tried":               {Status{Interval: 3600}, OK, ""},
		"at twice the interval":     {Status{Interval: 3600, Newest: hour(2), LastRun: now}, OK, ""},
		"old":                       {Status{Interval: 3600, Newest: hour(3), LastRun: now}, Late, "rumi-x.age, is 3h0m0s old"},
		"none":                      {Status{Interval: 3600, LastRun: now}, Late, "no verified backup"},
		"failed":                    {Status{Interval: 3600, Newest: hour(1), LastRun: now, Problem: "no space"}, Failed, "no space"},
		"failed, and there is none": {Status{Interval: 3600, LastRun: now, Problem: "no space"}, Failed, "no space. There is no verified backup"},
	} {
		if state, detail := c.status.Verdict(now); state != c.state || !strings.Contains(detail, c.detail) || (detail == "") != (c.detail == "") {
			t.Errorf("%s: got %s, %q; want %s, %q", name, state, detail, c.state, c.detail)
		}
	}
}
