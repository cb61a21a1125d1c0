package setup

import (
	"strings"
	"testing"
)

func TestMisspeltSettingsAreRefused(t *testing.T) {
	const compose = "../../../docker-compose.yml"
	if err := CheckSettings(compose, []string{"RUMI_EGRESS_RATE_LIMIT=5", "RUMI_HOME=/x", "RUMI_PORT=1", "PATH=/bin", "RUMI_VERSION=1"}); err != nil {
		t.Errorf("known settings: %v", err)
	}
	err := CheckSettings(compose, []string{"RUMI_EGRES_RATE_LIMIT=5", "RUMI_CAPABILITY_WORKER=5"})
	for _, want := range []string{"RUMI_EGRES_RATE_LIMIT is no setting of Rumi (RUMI_EGRESS_RATE_LIMIT?)", "RUMI_CAPABILITY_WORKER is no setting of Rumi (RUMI_CAPABILITY_WORKERS?)"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := CheckSettings(compose+".none", nil); err == nil {
		t.Error("without a list of settings everything passes")
	}
}
