package setup

import (
	"os"
	"path/filepath"
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

// What only the operator's own compose files use is a setting, too.
func TestSettingsOfOverridesAreKnown(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"docker-compose.yml": "RUMI_PORT", "docker-compose.override.yml": "x: ${RUMI_MINE}", "extra.yml": "x: ${RUMI_EXTRA:-1}",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	compose := filepath.Join(dir, "docker-compose.yml")
	if err := CheckSettings(compose, []string{"RUMI_MINE=1", "RUMI_EXTRA=1", "COMPOSE_FILE=docker-compose.yml:extra.yml:../other.yml:/none.yml"}); err != nil {
		t.Errorf("settings of the operator's files: %v", err)
	}
	for _, name := range []string{"RUMI_EXTRA", "RUMI_MIN"} {
		if err := CheckSettings(compose, []string{name + "=1"}); err == nil || !strings.Contains(err.Error(), name+" is no setting of Rumi") {
			t.Errorf("%s without a file that uses it: %v; want that it is no setting", name, err)
		}
	}
}
