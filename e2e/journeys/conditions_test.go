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

// A suite doesn't stay as it was on its first day: another one is started beside it, odd things gather in its home, its folder
// is renamed and with it its project, the machine is started anew. Each of these is a journey of its own, and the suite stays
// in that condition. RUMI_E2E_CONDITIONS=rough takes them first, so that all other journeys are taken under them; they are taken
// last otherwise.
var conditions = []struct {
	name string
	take func(t *testing.T)
}{
	{"a second suite", secondSuite},
	{"odd entries", oddEntries},
	{"another project name", renamed},
	{"a reboot", rebooted},
}

func rough() bool { return os.Getenv("RUMI_E2E_CONDITIONS") == "rough" }

// TestConditionsFirst is the first test of this package: Go takes them in the order of their files.
func TestConditionsFirst(t *testing.T) {
	if rough() {
		takeConditions(t)
	}
}

func takeConditions(t *testing.T) {
	t.Helper()
	for _, c := range conditions {
		if !t.Run(c.name, c.take) {
			t.FailNow() // the next ones stand on it
		}
	}
}

// neighbour is a second suite on the machine, nil before it is started.
var neighbour *installation

// teller is a pack that says, as often as secrets may be read, whether it reads a secret.
const tellerSource = `import time
import rumi_capability
while True:
    print("secret: %s" % rumi_capability.get_secret("TOLD"), flush=True)
    time.sleep(1.5)
`

func tellerPack(id string) files {
	return plainPack(id).with(files{"backend/main.py": tellerSource})
}

// in has f use another suite than the one that the tests share.
func (s *installation) in(f func()) {
	before := suite
	suite = s
	defer func() { suite = before }()
	f()
}

// tells starts a teller and gives what it says of its secret.
func tells(t *testing.T, id string) string {
	t.Helper()
	tellerPack(id).place(t, id)
	post(t, "/api/packs/scan", nil)
	post(t, "/api/packs/"+id+"/approve", nil)
	post(t, "/api/containers/"+id+"/start", nil)
	return says(t, id)
}

// says waits for a line that a teller prints from now on, and gives it.
func says(t *testing.T, id string) (line string) {
	t.Helper()
	before := len(containerLog(t, id))
	eventually(t, id+" to say something", func() bool {
		lines := containerLog(t, id)
		if len(lines) > before {
			line = lines[len(lines)-1]
		}
		return line != ""
	})
	return line
}

// Two suites on one machine share nothing: not a pack of the same id, its secret or its container, and not a run folder.
func secondSuite(t *testing.T) {
	const id = "twin"
	post(t, "/api/secrets/set", map[string]any{"key": "TOLD", "value": "of the first suite"})
	tellerPack(id).place(t, id)
	post(t, "/api/packs/scan", nil)
	post(t, "/api/packs/"+id+"/approve", nil)
	post(t, "/api/capability/grants/grant", map[string]any{"principal_id": id, "permission_id": "secrets.get", "config": map[string]any{"allowed_keys": []string{"TOLD"}}})
	post(t, "/api/containers/"+id+"/start", nil)
	if got := says(t, id); got != "secret: of the first suite" {
		t.Fatalf("the first suite's pack says %q", got)
	}

	second, err := newInstallation(suite.project + "-second")
	if err != nil {
		t.Fatal(err)
	}
	neighbour = second

	// The run folder of another suite is refused, and stays as it was.
	mine := second.env
	second.env = append(slices.Clone(mine), "RUMI_RUN_DIR="+filepath.Join(suite.top, "run"))
	out, err := second.compose(t.Context(), "up", "--detach", "--no-build")
	logs, _ := second.compose(t.Context(), "logs", "--no-color", "init")
	if err == nil || !strings.Contains(out+logs, "RUMI_RUN_DIR") {
		t.Errorf("with the run folder of another suite: %v, %s; want init to fail and to name RUMI_RUN_DIR", err, logs)
	}
	if _, err := second.compose(t.Context(), "down", "--timeout", "5"); err != nil {
		t.Fatal(err)
	}
	if got := says(t, id); got != "secret: of the first suite" {
		t.Errorf("after that the first suite's pack says %q", got)
	}

	second.env = mine
	if err := second.up(t.Context()); err != nil {
		t.Fatal(err)
	}
	second.in(func() {
		if got := tells(t, id); got != "secret: None" {
			t.Errorf("the second suite's pack says %q, want none", got)
		}
	})
	if got := says(t, id); got != "secret: of the first suite" {
		t.Errorf("beside a second suite the first one's pack says %q", got)
	}
	second.in(func() {
		post(t, "/api/packs/"+id+"/reject", nil) // it ends in the second suite only
		eventually(t, "the second suite's container to end", func() bool { return len(second.runningPacks(t)) == 0 })
	})
	if got := says(t, id); got != "secret: of the first suite" {
		t.Errorf("after a rejection in the second suite the first one's pack says %q", got)
	}
	removePack(t, id)
}

// runningPacks lists the running containers of packs that bear the suite's home.
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

// removePack uninstalls a pack. Services that were started anew a moment ago are 503 until they have heard from each other, and
// an uninstall says itself that it is to be repeated then.
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

// What can't be read or is no pack is an error or a warning of its own. Everything else works, also after a restart.
func oddEntries(t *testing.T) {
	const id = "even"
	odd := packtest.Fill(t, filepath.Join(suite.home, "ecosystem"))
	works := func(when string) {
		t.Helper()
		scanned := string(post(t, "/api/packs/scan", nil).Data)
		for _, broken := range odd.Broken {
			if !strings.Contains(scanned, broken) {
				t.Errorf("%s a scan says nothing of %s: %s", when, broken, scanned)
			}
		}
		plainPack(id).place(t, id)
		post(t, "/api/packs/scan", nil)
		post(t, "/api/packs/"+id+"/approve", nil)
		get(t, "/api/packs")
		removePack(t, id)
	}
	works("at first")
	if _, err := suite.compose(t.Context(), "restart", "approval", "pack-registry"); err != nil {
		t.Fatal(err)
	}
	if err := suite.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	works("after a restart")
}

// A project of another name, as a folder that is renamed makes one, has the same home: its packs are the same, and what nobody
// approves any more is ended, whatever it is called.
func renamed(t *testing.T) {
	const id = "traveller"
	if got := tells(t, id); got != "secret: None" {
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
	if got := says(t, id); got != "secret: None" {
		t.Errorf("it printed %q, want no secret", got)
	}
	began := time.Now()
	post(t, "/api/packs/"+id+"/reject", nil)
	eventually(t, "the rejected pack to end", func() bool { return len(suite.runningPacks(t)) == 0 })
	t.Logf("ended %v after the rejection", time.Since(began).Round(time.Millisecond))
	removePack(t, id)
}

// A reboot takes the run folder and every process; the engine starts what it is told to keep, in any order. Nobody needs to do
// anything.
func rebooted(t *testing.T) {
	const id = "survivor"
	if got := tells(t, id); got != "secret: None" {
		t.Fatalf("it printed %q, want no secret", got)
	}
	services, err := suite.compose(t.Context(), "ps", "--all", "--quiet")
	if err != nil {
		t.Fatal(err)
	}
	of := strings.Fields(services)
	packs, err := suite.ofHome(t.Context())
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
		_, _ = suite.command(t.Context(), commandWait, "docker", "kill", pack) // handlers may have ended by themselves
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
	if err := suite.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "every service to say that it is ready", func() bool {
		a, err := suite.api.Get(t.Context(), "/api/health")
		return err == nil && a.Status == 200 && strings.Contains(string(a.Data), `"status":"ok"`)
	})
	eventually(t, "the pack to run again", func() bool { return status(t, id) == "running" })
	if got := says(t, id); got != "secret: None" {
		t.Errorf("it printed %q, want no secret", got)
	}
	t.Logf("all was as before %v after the reboot", time.Since(began).Round(time.Millisecond))
	removePack(t, id)
}
