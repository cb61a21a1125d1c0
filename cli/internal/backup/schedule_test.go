package backup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/rumi-ai/rumi/libs/backupstatus"
)

func TestRetention(t *testing.T) {
	day := func(n int, verified bool) Kept {
		return Kept{Name: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, -n).Format("0102"), At: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, -n), Verified: verified}
	}
	var daily, broken []Kept
	for n := range 30 {
		daily = append(daily, day(n, true))
		broken = append(broken, day(n, false))
	}
	for name, c := range map[string]struct {
		all         []Kept
		keep, weeks int
		left        []int // days ago
	}{
		"the newest":                   {daily, 3, 0, []int{0, 1, 2}},
		"and one a week":               {daily, 2, 3, []int{0, 1, 7, 14}}, // March 1 of 2026 is a Sunday
		"never none":                   {daily, 0, 0, []int{0}},
		"few":                          {daily[:2], 7, 4, []int{0, 1}},
		"none is verified":             {broken, 2, 4, []int{0, 1}},
		"the verified one is very old": {append(slices.Clone(broken), day(40, true)), 1, 0, []int{0, 40}},
	} {
		var left []int
		gone := expired(c.all, c.keep, c.weeks)
		for _, k := range c.all {
			if !slices.Contains(gone, k) {
				left = append(left, int(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).Sub(k.At).Hours()/24))
			}
		}
		if !slices.Equal(left, c.left) {
			t.Errorf("%s: left are those of %v days ago, want %v", name, left, c.left)
		}
	}
}

// TestSchedule takes backups with real files: a good one, one of a home with a problem, one that fails.
func TestSchedule(t *testing.T) {
	h := newHome(t)
	h.fill()
	dir := filepath.Join(h.temp, "backups")
	must(t, os.Mkdir(dir, 0o755))
	now := time.Date(2026, 1, 1, 3, 0, 0, 0, time.UTC)
	o := h.options()
	o.Now = func() time.Time { return now }
	s := Schedule{Options: o, Dir: dir, Interval: time.Hour, Keep: 1}
	status, err := s.resume()
	must(t, err)
	if s.wait(status) != 0 {
		t.Error("with no backup the first one waits")
	}
	status = s.once(t.Context(), status)
	if status.Problem != "" || status.Newest == nil || status.Newest.Name != "rumi-20260101T030000Z.age" || s.wait(status) != time.Hour {
		t.Fatalf("after a good backup: %+v, and the next in %v; want it as the newest, and the next in an hour", status, s.wait(status))
	}
	h.write("user_data/capabilities/handlers/alpha/sum/handler.py", "evil")
	must(t, os.WriteFile(filepath.Join(dir, ".rumi-20250101T000000Z.age.new"), nil, 0o600), os.WriteFile(filepath.Join(dir, "mine.age"), nil, 0o600))
	for range 3 {
		now = now.Add(time.Hour)
		status = s.once(t.Context(), status)
	}
	if !strings.Contains(status.Problem, "alpha/sum") || status.Newest.Name != "rumi-20260101T030000Z.age" || s.wait(status) != retryAfter {
		t.Errorf("after backups of a home with a problem: %+v, the next in %v; want the problem, the good one as the newest, the next in %v", status, s.wait(status), retryAfter)
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"mine.age", "rumi-20260101T030000Z.age", "rumi-20260101T060000Z-unverified.age"}; !slices.Equal(names, want) {
		t.Errorf("the folder has %v, want %v", names, want)
	}
	s.Recipients = []age.Recipient{failing{}}
	now = now.Add(time.Hour)
	if status = s.once(t.Context(), status); !strings.Contains(status.Problem, "no key today") {
		t.Errorf("after a backup that failed: %+v, want why", status)
	}
	must(t, backupstatus.File.Write(h.path(StatusDir), status), os.Remove(filepath.Join(dir, "rumi-20260101T030000Z.age")))
	if status, err = s.resume(); err != nil || status.Newest != nil || !strings.Contains(status.Problem, "no key today") {
		t.Errorf("after a restart, with the good one gone: %+v, %v; want no newest one, and the problem still", status, err)
	}
	if written, ok, err := backupstatus.File.Read(h.path(StatusDir)); err != nil || !ok || written.Newest != nil {
		t.Errorf("the status in the home is %+v, %v, %v", written, ok, err)
	}
}

type failing struct{}

func (failing) Wrap([]byte) ([]*age.Stanza, error) { return nil, errors.New("no key today") }

// A schedule runs until it is stopped, writes its status, and is the only one on its folder.
func TestRunningSchedule(t *testing.T) {
	h := newHome(t)
	h.fill()
	dir := filepath.Join(h.temp, "backups")
	must(t, os.Mkdir(dir, 0o755))
	s := Schedule{Options: h.options(), Dir: dir, Interval: time.Hour, Keep: 1}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if status, ok, err := backupstatus.File.Read(h.path(StatusDir)); err == nil && ok && status.Newest != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no backup after 30 s")
		}
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second schedule on the folder: %v, want it refused", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("stopped: %v, want no error", err)
	}
}
