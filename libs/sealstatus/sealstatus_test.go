package sealstatus

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestVerdict(t *testing.T) {
	now := time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		status        Status
		state, detail string
	}{
		"good":                        {Status{At: now.Add(-time.Second)}, OK, ""},
		"old":                         {Status{At: now.Add(-time.Minute)}, Late, "for 1m0s"},
		"an error":                    {Status{At: now, Error: "no space"}, Failed, "no space"},
		"a change":                    {Status{At: now, Changes: 2, Last: "x, line 7: changed"}, Changed, "x, line 7"},
		"a change, and then an error": {Status{At: now.Add(-time.Hour), Changes: 1, Last: "x", Error: "no space"}, Changed, "x"},
	} {
		if state, detail := c.status.Verdict(now); state != c.state || !strings.Contains(detail, c.detail) || (detail == "") != (state == OK) {
			t.Errorf("%s: got %s, %q; want %s with %q", name, state, detail, c.state, c.detail)
		}
	}
}

func TestWriteAndRead(t *testing.T) {
	dir := t.TempDir()
	if _, ok, err := Read(filepath.Join(dir, "missing")); ok || err != nil {
		t.Errorf("without a folder: %v, %v; want none and no error", ok, err)
	}
	if _, ok, err := Read(dir); ok || err != nil {
		t.Errorf("without a status: %v, %v; want none and no error", ok, err)
	}
	want := Status{At: time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC), Records: 7, Changes: 1, Last: "x"}
	if err := Write(dir, want); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := Read(dir); got != want || !ok || err != nil {
		t.Errorf("got %+v, %v, %v; want %+v", got, ok, err, want)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte("{"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(dir); err == nil {
		t.Error("half a status: no error, want one")
	}
}
