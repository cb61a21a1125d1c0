package spelling

import "testing"

func TestHint(t *testing.T) {
	known := []string{"RUMI_HOME", "RUMI_EGRESS_RATE_LIMIT", "RUMI_API_RATE_LIMIT"}
	for name, want := range map[string]string{
		"RUMI_EGRES_RATE_LIMIT": " (RUMI_EGRESS_RATE_LIMIT?)", "RUMI_HOEM": " (RUMI_HOME?)", "RUMI_API_RATE_LIMITS": " (RUMI_API_RATE_LIMIT?)",
		"RUMI_SOMETHING_ELSE": "", "": "",
	} {
		if got := Hint(name, known); got != want {
			t.Errorf("Hint(%q) = %q, want %q", name, got, want)
		}
	}
}
