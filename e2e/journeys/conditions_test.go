package journeys

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/e2e/internal/api"
	"github.com/rumi-ai/rumi/libs/pack/packtest"
)

// conditions are what happens to a suite after its first day: a second suite is started beside it, unreadable entries appear in its home,
// its folder and so its project is renamed, the machine reboots. Each one is a journey, and leaves the suite in that condition.
// RUMI_E2E_CONDITIONS=rough runs them before all other journeys, which then run under these conditions. Otherwise they run last.
var conditions = []struct {
	name string
	take func(t *testing.T)
}{
	{"a second suite", secondSuite},
	{"unreadable entries", unreadableEntries},
	{"another project name", renamedProject},
	{"a reboot", reboot},
}

// conditionsFirst reports whether the conditions come before the other journeys.
func conditionsFirst() bool { return os.Getenv("RUMI_E2E_CONDITIONS") == "rough" }

// TestConditionsFirst is the first test of this package, because Go runs tests in the order of their files. So this file must stay the first
// by name, and zz_conditions_test.go the last.
func TestConditionsFirst(t *testing.T) {
	if conditionsFirst() {
		takeConditions(t)
	}
}

func takeConditions(t *testing.T) {
	t.Helper()
	for _, c := range conditions {
		if !t.Run(c.name, c.take) {
			t.FailNow() // the next conditions need this one
		}
	}
}

// secondInstallation is the second suite on the machine; nil until secondSuite has prepared it. TestMain removes it.
var secondInstallation *installation

// secretReaderSource is the program of a pack that reads a secret again and again, and prints the value or None. It sleeps 1.5 s each time:
// RUMI_SECRET_GET_RATE_LIMIT allows 60 reads a minute.
const secretReaderSource = `import time
import rumi_capability
while True:
    print("secret: %s" % rumi_capability.get_secret("TOLD"), flush=True)
    time.sleep(1.5)
`

func secretReaderPack(id string) files {
	return plainPack(id).with(files{"backend/main.py": secretReaderSource})
}

// use runs f with s in place of the suite that the tests share, so that helpers such as post call s.
func (s *installation) use(f func()) {
	before := suite
	suite = s
	defer func() { suite = before }()
	f()
}

// startSecretReader installs and starts a secret reader, and returns the first line that it prints.
func startSecretReader(t *testing.T, id string) string {
	t.Helper()
	secretReaderPack(id).copyToEcosystem(t, id)
	post(t, "/api/packs/scan", nil)
	post(t, "/api/packs/"+id+"/approve", nil)
	post(t, "/api/containers/"+id+"/start", nil)
	return nextLine(t, id)
}

// nextLine waits for a line that a pack prints after the call, and returns it.
func nextLine(t *testing.T, id string) (line string) {
	t.Helper()
	before := len(containerLog(t, id))
	eventually(t, id+" to print a line", func() bool {
		lines := containerLog(t, id)
		if len(lines) > before {
			line = lines[len(lines)-1]
		}
		return line != ""
	})
	return line
}

// secondSuite starts a second suite with a pack of the same id. The two must share nothing: no secret, no container, no decision, no run
// folder.
func secondSuite(t *testing.T) {
	const id = "twin"
	post(t, "/api/secrets/set", map[string]any{"key": "TOLD", "value": "of the first suite"})
	secretReaderPack(id).copyToEcosystem(t, id)
	post(t, "/api/packs/scan", nil)
	post(t, "/api/packs/"+id+"/approve", nil)
	post(t, "/api/capability/grants/grant", map[string]any{"principal_id": id, "permission_id": "secrets.get", "config": map[string]any{"allowed_keys": []string{"TOLD"}}})
	post(t, "/api/containers/"+id+"/start", nil)
	if got := nextLine(t, id); got != "secret: of the first suite" {
		t.Fatalf("the first suite's pack printed %q, want the first suite's secret", got)
	}

	second, err := newInstallation(suite.project + "-second")
	if err != nil {
		t.Fatal(err)
	}
	secondInstallation = second

	// init refuses the run folder of another suite, and doesn't change it.
	ownEnv := second.env
	second.env = append(slices.Clone(ownEnv), "RUMI_RUN_DIR="+filepath.Join(suite.top, "run"))
	out, err := second.compose(t.Context(), "up", "--detach", "--no-build")
	logs, _ := second.compose(t.Context(), "logs", "--no-color", "init")
	if err == nil || !strings.Contains(out+logs, "RUMI_RUN_DIR") {
		t.Errorf("with the run folder of another suite: %v, %s; want init to fail and to name RUMI_RUN_DIR", err, logs)
	}
	if _, err := second.compose(t.Context(), "down", "--timeout", "5"); err != nil {
		t.Fatal(err)
	}
	if got := nextLine(t, id); got != "secret: of the first suite" {
		t.Errorf("after the second suite tried its run folder, the first suite's pack printed %q, want the first suite's secret", got)
	}

	second.env = ownEnv
	if err := second.up(t.Context()); err != nil {
		t.Fatal(err)
	}
	second.use(func() {
		if got := startSecretReader(t, id); got != "secret: None" {
			t.Errorf("the second suite's pack printed %q, want no secret", got)
		}
	})
	if got := nextLine(t, id); got != "secret: of the first suite" {
		t.Errorf("beside a second suite, the first suite's pack printed %q, want the first suite's secret", got)
	}
	second.use(func() {
		post(t, "/api/packs/"+id+"/reject", nil) // this must end the second suite's pack only
		eventually(t, "the second suite's container to end", func() bool { return len(second.runningPacks(t)) == 0 })
	})
	if got := nextLine(t, id); got != "secret: of the first suite" {
		t.Errorf("after a rejection in the second suite, the first suite's pack printed %q, want the first suite's secret", got)
	}
	removePack(t, id)
}

// runningPacks lists the ids of the running containers of packs that have the label of this suite's home.
func (s *installation) runningPacks(t *testing.T) []string {
	t.Helper()
	id, err := os.ReadFile(filepath.Join(s.home, "user_data/settings/home_id"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.command(t.Context(), commandWait, "docker", "ps", "--quiet", "--filter", "label=io.rumi.home="+strings.TrimSpace(string(id)), "--filter", "label=io.rumi.kind=pack")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(out)
}

// removePack uninstalls a pack. Services that have just started answer 503 until they have heard from each other. The uninstall is then
// repeated, as its answer demands.
func removePack(t *testing.T, id string) {
	t.Helper()
	var a api.Answer
	var err error
	eventually(t, "the uninstall of "+id, func() bool {
		a, err = suite.api.Delete(context.WithoutCancel(t.Context()), "/api/packs/"+id)
		return err == nil && a.Status != 503
	})
	must(t, a, err)
}

// unreadableEntries fills ecosystem/ with entries that can't be read or aren't packs. Each must be an error or a warning of its own; packs
// must work as before, also after a restart.
func unreadableEntries(t *testing.T) {
	const id = "even"
	entries := packtest.Fill(t, filepath.Join(suite.home, "ecosystem"))
	works := func(when string) {
		t.Helper()
		scanned := string(post(t, "/api/packs/scan", nil).Data)
		for _, broken := range entries.Broken {
			if !strings.Contains(scanned, broken) {
				t.Errorf("%s a scan doesn't name %s: %s", when, broken, scanned)
			}
		}
		plainPack(id).copyToEcosystem(t, id)
		post(t, "/api/packs/scan", nil)
		post(t, "/api/packs/"+id+"/approve", nil)
		get(t, "/api/packs")
		removePack(t, id)
	}
	works("at first")
	if _, err := suite.compose(t.Context(), "restart", "approval", "pack-registry"); err != nil {
		t.Fatal(err)
	}
	if err := suite.awaitServices(t.Context()); err != nil {
		t.Fatal(err)
	}
	works("after a restart")
}

// renamedProject gives the compose project another name, as renaming the folder does. The home is the same. So packs run as before, and a
// reject ends a pack, although its container has the old project's name.
func renamedProject(t *testing.T) {
	const id = "traveller"
	if got := startSecretReader(t, id); got != "secret: None" {
		t.Fatalf("it printed %q, want no secret", got)
	}
	if _, err := suite.compose(t.Context(), "down"); err != nil {
		t.Fatal(err)
	}
	suite.project += "-renamed"
	suite.env = append(suite.env, "COMPOSE_PROJECT_NAME="+suite.project)
	if err := suite.up(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pack to run under the new name", func() bool { return len(suite.runningPacks(t)) == 1 && status(t, id) == "running" })
	if got := nextLine(t, id); got != "secret: None" {
		t.Errorf("it printed %q, want no secret", got)
	}
	began := time.Now()
	post(t, "/api/packs/"+id+"/reject", nil)
	eventually(t, "the rejected pack to end", func() bool { return len(suite.runningPacks(t)) == 0 })
	t.Logf("ended %v after the rejection", time.Since(began).Round(time.Millisecond))
	removePack(t, id)
}

// reboot does what a reboot of the machine does: it kills every process and removes the run folder. Then it starts the containers that have
// a restart policy, in any order, as the engine does. The suite must mend itself.
func reboot(t *testing.T) {
	const id = "survivor"
	if got := startSecretReader(t, id); got != "secret: None" {
		t.Fatalf("it printed %q, want no secret", got)
	}
	services, err := suite.compose(t.Context(), "ps", "--all", "--quiet")
	if err != nil {
		t.Fatal(err)
	}
	of := strings.Fields(services)
	packs, err := suite.homeContainers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	docker := func(args ...string) string {
		t.Helper()
		out, err := suite.command(t.Context(), commandWait, "docker", args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	running := docker("ps", "--quiet", "--filter", "label=com.docker.compose.project="+suite.project)
	docker(append([]string{"kill"}, strings.Fields(running)...)...)
	for _, pack := range packs {
		_, _ = suite.command(t.Context(), commandWait, "docker", "kill", pack) // handlers' containers may have ended in the meantime
	}
	if _, err := suite.asRoot(t.Context(), []string{"--volume", suite.top + ":/top"}, "rm -rf /top/run"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, service := range of {
		if policy := strings.TrimSpace(docker("inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", service)); policy != "no" && policy != "" {
			docker("start", service)
		}
	}
	if err := suite.awaitServices(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "every service to say that it is ready", func() bool {
		a, err := suite.api.Get(t.Context(), "/api/health")
		return err == nil && a.Status == 200 && strings.Contains(string(a.Data), `"status":"ok"`)
	})
	eventually(t, "the pack to run again", func() bool { return status(t, id) == "running" })
	if got := nextLine(t, id); got != "secret: None" {
		t.Errorf("it printed %q, want no secret", got)
	}
	t.Logf("the suite and its pack ran again %v after the reboot", time.Since(began).Round(time.Millisecond))
	removePack(t, id)
}
