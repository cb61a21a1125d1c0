package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// engine is a Docker engine with one compose project, as far as an upgrade uses it, and the git of its folder. It keeps what a real one would:
// which containers there are, of which image, in which state; which image a name has; which version is checked out.
type engine struct {
	t      *testing.T
	dir    string
	head   string            // what is checked out
	images map[string]string // name → id
	made   map[string]*made  // by service
	saved  bool              // the databases were copied
	schema string            // the version that the databases are of
	calls  []string

	fail   func(call string) error // lets a call fail
	broken string                  // a service that isn't healthy in the new version
}

type made struct{ id, image, state string }

var parts = []string{"approval", "capability-broker", "gateway", "init", "reconciler", "secrets"}

func newEngine(t *testing.T) *engine {
	e := &engine{t: t, dir: t.TempDir(), head: "old", images: map[string]string{}, made: map[string]*made{}, schema: "old", fail: func(string) error { return nil }}
	for _, p := range parts {
		e.images["rumi-"+p+":local"] = p + "-old"
		e.made[p] = &made{id: "c-" + p + "-1", image: p + "-old", state: "running"}
	}
	e.made["init"].state = "exited"
	return e
}

// versionOf is the version that a compose command is about.
func (e *engine) versionOf(args []string) string {
	if slices.Contains(args, filepath.Join(e.dir, Folder, composeName)) {
		return "old"
	}
	return e.head
}

func (e *engine) run(_ context.Context, _ string, name string, args ...string) (string, error) {
	call := name + " " + strings.Join(args, " ")
	e.calls = append(e.calls, call)
	if err := e.fail(call); err != nil {
		return "", err
	}
	if name == "git" {
		return e.git(args)
	}
	switch args[0] {
	case "compose":
		return e.compose(args)
	case "ps":
		var ids []string
		for _, m := range e.made {
			ids = append(ids, m.id)
		}
		return strings.Join(ids, "\n"), nil
	case "inspect":
		var out strings.Builder
		for service, m := range e.made {
			fmt.Fprintln(&out, m.id, service, m.state, m.image, 0)
		}
		return out.String(), nil
	case "tag":
		id := args[1]
		e.images[args[2]] = id
		return "", nil
	case "exec":
		return "", e.exec(args[1])
	}
	for _, m := range e.made {
		if slices.Contains(args[1:], m.id) {
			m.state = map[string]string{"pause": "paused", "unpause": "running", "kill": "exited"}[args[0]]
		}
	}
	return "", nil
}

func (e *engine) git(args []string) (string, error) {
	switch args[0] {
	case "show":
		return "compose of " + args[1], nil
	case "checkout":
		e.head = args[len(args)-1]
	case "rev-parse":
		if args[1] == "--abbrev-ref" {
			return "old", nil
		}
		return "old", nil
	}
	return "", nil
}

func (e *engine) exec(id string) error {
	for service, m := range e.made {
		if m.id == id && (m.state != "running" || service == e.broken && strings.HasSuffix(m.image, "-new")) {
			return errors.New("unhealthy")
		}
	}
	return nil
}

func (e *engine) compose(args []string) (string, error) {
	version := e.versionOf(args)
	has := func(word string) bool { return slices.Contains(args, word) }
	switch {
	case has("config"):
		return e.config(), nil
	case has("build"):
		for _, p := range parts {
			e.images["rumi-"+p+":local"] = p + "-new"
		}
	case has("save"):
		e.saved = true
	case has("back"):
		if !e.saved {
			return "", errors.New("there is no set")
		}
		changed := ""
		if e.schema != "old" {
			changed, e.schema = "approval", "old"
		}
		return changed, nil
	case has("stop"):
		e.made["gateway"].state = "exited"
	case has("start"):
		e.made["gateway"].state = "running"
	case has("up"):
		return "", e.up(version, args)
	}
	return "", nil
}

func (e *engine) config() string {
	var services []string
	for _, p := range parts {
		restart := "unless-stopped"
		if p == "init" {
			restart = "no"
		}
		services = append(services, fmt.Sprintf(`"%s":{"image":"rumi-%s:local","restart":"%s","healthcheck":{"test":["CMD","/usr/local/bin/%s","healthcheck"]}}`, p, p, restart, p))
	}
	return `{"name":"rumi","services":{` + strings.Join(services, ",") + `}}`
}

// up starts what is named, or all. A service of the old version doesn't start on the databases of the new one.
func (e *engine) up(version string, args []string) error {
	named := slices.DeleteFunc(slices.Clone(args[slices.Index(args, "--no-build")+1:]), func(arg string) bool { return arg == "--no-deps" })
	for _, p := range parts {
		if len(named) > 0 && !slices.Contains(named, p) || p == "init" {
			continue
		}
		image := e.images["rumi-"+p+":local"]
		if strings.HasSuffix(image, "-old") && e.schema != "old" {
			return fmt.Errorf("%s: made by a newer program", p)
		}
		if strings.HasSuffix(image, "-new") {
			e.schema = "new"
		}
		if m := e.made[p]; m.image != image || m.state != "running" {
			e.made[p] = &made{id: m.id + "x", image: image, state: "running"}
		}
	}
	if version == "old" && e.head != "old" && e.schema != "old" {
		return errors.New("made by a newer program")
	}
	return nil
}

// is checks that one version runs, all of it.
func (e *engine) is(version string) {
	e.t.Helper()
	for _, p := range parts {
		m := e.made[p]
		if want := p + "-" + version; p != "init" && (m.image != want || m.state != "running") {
			e.t.Errorf("%s is %s of %s, want it running of %s", p, m.state, m.image, want)
		}
		if want := p + "-" + version; e.images["rumi-"+p+":local"] != want {
			e.t.Errorf("the name of %s's image is that of %s, want %s", p, e.images["rumi-"+p+":local"], want)
		}
	}
	if e.head != version {
		e.t.Errorf("%s is checked out, want %s", e.head, version)
	}
}

func (e *engine) upgradeTo() Config {
	return Config{Dir: e.dir, To: "new", Timeout: 300 * time.Millisecond, Progress: io.Discard, Run: e.run, Now: time.Now, Poll: 10 * time.Millisecond}
}

func TestUpgrade(t *testing.T) {
	e := newEngine(t)
	if err := Run(t.Context(), e.upgradeTo()); err != nil {
		t.Fatal(err)
	}
	e.is("new")
	position := func(part string) int {
		return slices.IndexFunc(e.calls, func(call string) bool { return strings.Contains(call, part) })
	}
	order := []string{"build", "backup create before-upgrade", "stop gateway", "docker pause", "databases save", "docker kill", "up --detach --no-build approval"}
	for i := 1; i < len(order); i++ {
		if position(order[i-1]) < 0 || position(order[i-1]) >= position(order[i]) {
			t.Errorf("%q is call %d and %q is call %d, want both, in this order", order[i-1], position(order[i-1]), order[i], position(order[i]))
		}
	}
	if strings.Contains(e.calls[position("up --detach --no-build approval")], "gateway") {
		t.Error("the gateway is started before the other services are healthy")
	}
	changed, err := Back(t.Context(), e.upgradeTo())
	if err != nil || changed != "approval" {
		t.Errorf("back: %q, %v; want the database of approval put back", changed, err)
	}
	e.is("old")
	if _, err := Back(t.Context(), e.upgradeTo()); err == nil {
		t.Error("back a second time: no error")
	}
}

// Whichever call fails, the old version runs at the end, and the error says whether anything was changed.
func TestEachStepFailing(t *testing.T) {
	for name, c := range map[string]struct {
		call    string
		changed bool // a change had begun: the error says that the old version runs again
	}{
		"checkout":            {"git checkout --quiet --detach", false},
		"the new compose":     {"config", false},
		"build":               {" build", false},
		"backup":              {"backup create", false},
		"the key of a backup": {"backup key", false},
		"stop the gateway":    {"stop gateway", true},
		"pause":               {"docker pause", true},
		"copy the databases":  {"databases save", true},
		"kill":                {"docker kill", true},
		"start the new ones":  {"up --detach --no-build approval", true},
		"open the door":       {"up --detach --no-build", true},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			times := 0
			e.fail = func(call string) error {
				if !strings.Contains(call, c.call) || name == "open the door" && strings.Contains(call, "no-build approval") ||
					name == "the new compose" && strings.Contains(call, composeName) {
					return nil
				}
				if times++; times > 1 {
					return nil
				}
				return errors.New("no")
			}
			err := Run(t.Context(), e.upgradeTo())
			_, rolledBack := errors.AsType[*RolledBackError](err)
			if err == nil || rolledBack != c.changed {
				t.Errorf("got %v, want an error that says that the old version runs again: %v", err, c.changed)
			}
			if !c.changed && !strings.Contains(fmt.Sprint(err), "nothing was changed") {
				t.Errorf("got %v, want that nothing was changed", err)
			}
			e.is("old")
		})
	}
}

func TestUnhealthyServices(t *testing.T) {
	for _, broken := range []string{"approval", "gateway"} {
		e := newEngine(t)
		e.broken = broken
		err := Run(t.Context(), e.upgradeTo())
		if _, ok := errors.AsType[*RolledBackError](err); !ok || !strings.Contains(err.Error(), broken) {
			t.Errorf("%s is broken: got %v, want it named, and the old version back", broken, err)
		}
		e.is("old")
	}
}

// A service that ends again and again is given up at once, not after the timeout.
func TestRestartingService(t *testing.T) {
	for restarts, dead := range map[int]bool{0: false, 2: false, 3: true, 10: true} {
		u := &upgrade{Config: Config{Run: func(context.Context, string, string, ...string) (string, error) { return "", nil }}}
		err := u.check(t.Context(), service{}, "approval", []container{{Service: "approval", State: "running", Restarts: restarts}})
		if _, ok := errors.AsType[*deadError](err); ok != dead {
			t.Errorf("after %d restarts: %v, want it given up: %v", restarts, err, dead)
		}
	}
}

// A signal ends the upgrade, not the way back.
func TestInterrupted(t *testing.T) {
	e := newEngine(t)
	ctx, stop := context.WithCancel(t.Context())
	e.fail = func(call string) error {
		if strings.Contains(call, "databases save") {
			stop()
		}
		return nil
	}
	if _, ok := errors.AsType[*RolledBackError](Run(ctx, e.upgradeTo())); !ok {
		t.Error("an interrupted upgrade is not rolled back")
	}
	e.is("old")
}

// A program that was killed in the middle leaves a record; the next one goes back before anything else.
func TestKilled(t *testing.T) {
	e := newEngine(t)
	func() {
		defer func() { _ = recover() }()
		e.fail = func(call string) error {
			if strings.Contains(call, "up --detach --no-build approval") {
				panic("killed")
			}
			return nil
		}
		_ = Run(t.Context(), e.upgradeTo())
	}()
	e.fail = func(string) error { return nil }
	if err := Run(t.Context(), e.upgradeTo()); err == nil || !strings.Contains(err.Error(), "rumi upgrade --back") {
		t.Errorf("the next upgrade: %v, want what to type", err)
	}
	if _, err := Back(t.Context(), e.upgradeTo()); err != nil {
		t.Fatal(err)
	}
	e.is("old")
}

func TestRefusals(t *testing.T) {
	e := newEngine(t)
	e.made["gateway"].state = "exited"
	if err := Run(t.Context(), e.upgradeTo()); err == nil || !strings.Contains(err.Error(), "docker compose up") {
		t.Errorf("without a suite: %v, want what to type", err)
	}
	e = newEngine(t)
	if _, err := Back(t.Context(), e.upgradeTo()); err == nil || errors.Is(err, os.ErrNotExist) && !strings.Contains(err.Error(), "never") {
		t.Errorf("back without an upgrade: %v, want a refusal", err)
	}
}
