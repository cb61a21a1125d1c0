package deployment

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/testenv"
)

const unitFile = "deploy/systemd/rumi.service"

// unit reads a unit's settings: "Section.Name" → its values.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, unitFile))
	if err != nil {
		t.Fatal(err)
	}
	settings, section := map[string][]string{}, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch name, value, ok := strings.Cut(line, "="); {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		case ok && section != "":
			settings[section+"."+name] = append(settings[section+"."+name], strings.Fields(value)...)
		default:
			t.Errorf("%s: %q is no setting", unitFile, line)
		}
	}
	return settings
}

// TestSystemdUnit checks that a boot starts the suite after the engine, and that a shutdown stops it before the engine ends.
func TestSystemdUnit(t *testing.T) {
	settings := unit(t)
	for name, want := range map[string][]string{
		"Unit.Requires": {"docker.service"}, "Unit.After": {"docker.service"}, "Install.WantedBy": {"multi-user.target"},
		"Service.Type": {"oneshot"}, "Service.RemainAfterExit": {"yes"},
		"Service.ExecStart": {"/usr/bin/docker", "compose", "up", "--detach"}, "Service.ExecStop": {"/usr/bin/docker", "compose", "stop"},
	} {
		for _, word := range want {
			if !slices.Contains(settings[name], word) {
				t.Errorf("%s: %s is %q, want %q in it", unitFile, name, settings[name], word)
			}
		}
	}
	folder := settings["Service.WorkingDirectory"]
	if got := settings["Unit.AssertPathExists"]; len(folder) != 1 || !slices.Equal(got, []string{folder[0] + "/docker-compose.yml"}) {
		t.Errorf("%s: AssertPathExists is %q, want docker-compose.yml in WorkingDirectory %q", unitFile, got, folder)
	}
}

// TestSystemdAccepts asks systemd about the unit, with the programs and folders that it names made to exist.
func TestSystemdAccepts(t *testing.T) {
	testenv.NeedsProgram(t, "systemd-analyze")
	text, err := os.ReadFile(filepath.Join(root, unitFile))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	there := strings.NewReplacer("/usr/bin/docker", "/bin/true", "/opt/rumi", dir).Replace(string(text))
	path := filepath.Join(dir, "rumi.service")
	engine := filepath.Join(dir, "docker.service")
	for name, content := range map[string]string{path: there, engine: "[Service]\nExecStart=/bin/true\n"} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", path, engine).CombinedOutput()
	if err != nil || strings.Contains(string(out), "rumi.service") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
