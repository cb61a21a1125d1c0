package sealstatus

import (
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
