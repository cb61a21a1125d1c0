package backupstatus

import (
	"os"
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

func TestWriteAndRead(t *testing.T) {
	dir := t.TempDir()
	if _, ok, err := Read(dir); ok || err != nil {
		t.Errorf("without a status: %v, %v; want none", ok, err)
	}
	at := time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)
	want := Status{Interval: 90, LastRun: at, Newest: &Backup{Name: "a", At: at, Size: 3, Took: 1.5}, Problem: "p", Problems: []string{"q"}}
	if err := Write(dir, want); err != nil {
		t.Fatal(err)
	}
	got, ok, err := Read(dir)
	if err != nil || !ok || got.Interval != want.Interval || !got.LastRun.Equal(at) || *got.Newest != *want.Newest || got.Problem != "p" {
		t.Errorf("got %+v, %v, %v; want %+v", got, ok, err, want)
	}
	if err := os.WriteFile(dir+"/status.json", []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := Read(dir); ok || err == nil {
		t.Errorf("a damaged status: %v, %v; want an error", ok, err)
	}
}
