package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/testenv"
)

func newHome() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	return hex.EncodeToString(id)
}

// of connects as a process of that home, whose containers go with the test.
func of(t *testing.T, cfg Config) *Engine {
	t.Helper()
	testenv.NeedsEngine(t)
	engine, err := Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := engine.Sweep(context.WithoutCancel(t.Context()), "", nil); err != nil {
			t.Error(err)
		}
		engine.Close()
	})
	return engine
}

func running(t *testing.T, engine *Engine, spec Spec) Container {
	t.Helper()
	c := create(t, engine, spec)
	if err := engine.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	return c
}

func docker(t *testing.T, args ...string) string {
	t.Helper()
	testenv.NeedsProgram(t, "docker")
	out, err := exec.CommandContext(t.Context(), "docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// A home's containers are its own under whatever project, and nobody else's under the same.
func TestHomesOwnContainers(t *testing.T) {
	home, project := newHome(), testInstance+"-own"
	engine, renamed := of(t, Config{Home: home, Instance: project}), of(t, Config{Home: home, Instance: project + "-renamed"})
	stranger := of(t, Config{Home: newHome(), Instance: project})
	c := running(t, engine, probe(t, Pack, "sleep"))
	docker(t, "rename", c.ID, "somebody-renamed-"+c.ID[:12])
	if found, err := renamed.Find(t.Context(), Pack, c.Name); err != nil || len(found) != 1 || found[0].ID != c.ID || found[0].Outdated {
		t.Errorf("under another project: found %+v, %v", found, err)
	}
	for what, engine := range map[string]*Engine{"another home": stranger, "no home": of(t, Config{Instance: project})} {
		if found, err := engine.List(t.Context(), ""); err != nil || len(found) > 0 {
			t.Errorf("%s lists %+v, %v; want nothing", what, found, err)
		}
		if err := engine.Stop(t.Context(), c.ID, 0); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: the stop got %v, want ErrNotFound", what, err)
		}
	}
	if err := renamed.Stop(t.Context(), c.ID, 0); err != nil {
		t.Error(err)
	}
	if now, err := engine.Inspect(t.Context(), c.ID); err != nil || now.Alive() {
		t.Errorf("after its stop it is %+v, %v", now, err)
	}
}

// What was labelled by the project's name alone is ours where it has a folder of ours, and only there.
func TestContainersOfOlderVersionsAreFoundByTheirMounts(t *testing.T) {
	data, elsewhere := t.TempDir(), t.TempDir()
	old := of(t, Config{Instance: testInstance + "-old"}) // labels as older versions do
	mounting := func(dir string) Container {
		spec := probe(t, Pack, "sleep")
		spec.Mounts = []Mount{{Source: dir, Target: "/data"}}
		return running(t, old, spec)
	}
	pack := filepath.Join(data, "weather")
	if err := os.Mkdir(pack, 0o755); err != nil {
		t.Fatal(err)
	}
	ours, sibling := mounting(pack), mounting(elsewhere)
	engine := of(t, Config{Home: newHome(), HomeDirs: []string{data}, Instance: testInstance + "-new"})
	found, err := engine.List(t.Context(), Pack)
	if err != nil || len(found) != 1 || found[0].ID != ours.ID || !found[0].Outdated {
		t.Errorf("found %+v, %v, want %.12s, outdated", found, err, ours.ID)
	}
	if err := engine.Remove(t.Context(), ours.ID); err != nil {
		t.Error(err)
	}
	if left, err := old.List(t.Context(), ""); err != nil || len(left) != 1 || left[0].ID != sibling.ID {
		t.Errorf("left %+v, %v, want %.12s", left, err, sibling.ID)
	}
}

// A name that somebody else has taken keeps nobody from starting.
func TestTakenName(t *testing.T) {
	project := testInstance + "-taken"
	engine, other := of(t, Config{Home: newHome(), Instance: project}), of(t, Config{Home: newHome(), Instance: project})
	spec := probe(t, Pack, "sleep")
	first := create(t, other, spec)
	second := create(t, engine, spec)
	if first.ID == second.ID {
		t.Error("the same container")
	}
	if _, err := engine.Create(t.Context(), spec); !errors.Is(err, ErrExists) {
		t.Errorf("a second one of ours: %v, want %v", err, ErrExists)
	}
	if name := containerName("rumi-x", Pack, "x"); name != "rumi-x-pack-x" {
		t.Errorf("named %s, want rumi-x-pack-x", name)
	}
}

// A paused container is alive, and a stop ends it.
func TestStopOfAPausedContainer(t *testing.T) {
	engine := of(t, Config{Home: newHome(), Instance: testInstance + "-paused"})
	for _, grace := range []time.Duration{0, 5 * time.Second} {
		c := running(t, engine, probe(t, Pack, "sleep"))
		docker(t, "pause", c.ID)
		if now, err := engine.Inspect(t.Context(), c.ID); err != nil || !now.Alive() || now.Running() {
			t.Fatalf("a paused container is %+v, %v; want it alive and not running", now, err)
		}
		if err := engine.Stop(t.Context(), c.ID, grace); err != nil {
			t.Fatal(err)
		}
		if now, err := engine.Inspect(t.Context(), c.ID); err != nil || now.Alive() || now.Exit.Code != 137 {
			t.Errorf("stopped with grace %v: %+v, %v, want an exit by SIGKILL", grace, now, err)
		}
	}
}

func TestEventsOfPausedAndRenamedContainers(t *testing.T) {
	engine := of(t, Config{Home: newHome(), Instance: testInstance + "-events2"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := make(chan string, 100)
	go engine.Events(ctx, func(e Event) { seen <- e.Action })
	if first := <-seen; first != Resync {
		t.Fatalf("the first event is %s, want %s", first, Resync)
	}
	c := running(t, engine, probe(t, Pack, "sleep"))
	docker(t, "pause", c.ID)
	docker(t, "unpause", c.ID)
	docker(t, "rename", c.ID, "renamed-"+c.ID[:12])
	for _, want := range []string{"start", "pause", "unpause", "rename"} {
		select {
		case got := <-seen:
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("no event %s, want one", want)
		}
	}
}

// Tools that go by compose's labels don't take a container for a service of the project that built its image.
func TestComposeLabelsOfImages(t *testing.T) {
	name := strings.Replace(probeImage, "probe:", "probe-compose:", 1)
	built := docker(t, "commit", "--change", "LABEL com.docker.compose.project=rumi", "--change", "LABEL com.docker.compose.service=pack-image",
		"--change", "LABEL com.docker.compose.version=2", create(t, testEngine(t), probe(t, Pack, "sleep")).ID, name)
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", "--force", built).Run() })
	engine := of(t, Config{Home: newHome(), Instance: "rumi-x"})
	spec := probe(t, Pack, "sleep")
	spec.Image = name
	c := create(t, engine, spec)
	raw, err := engine.api.ContainerInspect(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"project": "rumi-x-sandboxes", "service": "pack-" + spec.Name, "version": ""}
	for label, value := range want {
		if got := raw.Config.Labels["com.docker.compose."+label]; got != value {
			t.Errorf("label %s is %q, want %q", label, got, value)
		}
	}
}

// The socket of an engine that made another one in its place has no name: the process must end.
func TestReplacedSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_PATH, 0) // as a mount holds it
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	engine, err := Connect(t.Context(), Config{Host: "unix:///proc/self/fd/" + strconv.Itoa(fd)})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	listener.Close()
	if err := engine.ping(t.Context()); err != nil {
		t.Errorf("an engine that is only away: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := engine.Watch(t.Context()); !errors.Is(err, ErrSocketReplaced) {
		t.Errorf("got %v, want %v", err, ErrSocketReplaced)
	}
	if err := engine.Ready(t.Context()); err != nil {
		t.Errorf("not ready at once: %v", err)
	}
	engine.outage.since = time.Now().Add(-readyGrace)
	if err := engine.Ready(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "Docker has not answered for 30s: ") {
		t.Errorf("ready after half a minute: %v; want that Docker has not answered for 30s", err)
	}
}

// An engine that takes connections and never answers is told as what it is.
func TestHungEngine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	engine, err := Connect(t.Context(), Config{Host: "unix://" + path})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	ctx, cancel := bounded(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = engine.api.ContainerList(ctx, container.ListOptions{})
	want := "Docker is required but not available: the engine does not answer"
	if f := fault.Of(clientError(ctx, "list containers", err)); f.Kind != fault.KindUnavailable || f.Message != want {
		t.Errorf("got %v %q, want unavailable %q", f.Kind, f.Message, want)
	}
}
