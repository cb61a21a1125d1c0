package sandbox

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"

	"github.com/rumi-ai/rumi/libs/testenv"
)

// Most of these tests run against the engine that DOCKER_HOST or Docker's usual socket leads to. What they make has an instance of
// its own and is removed at the end.
var (
	probeImage   = "rumi-sandbox-probe:" + strings.ToLower(rand.Text())
	testInstance = "test-" + strings.ToLower(rand.Text())
)

// imported makes the probe image for the first test that needs it: a machine without an engine has no such test.
var imported atomic.Bool
var importOnce = sync.OnceValue(func() error {
	imported.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	engine, err := Connect(ctx, Config{Instance: testInstance})
	if err != nil {
		return err
	}
	defer engine.Close()
	return importProbe(ctx, engine)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if imported.Load() {
		if err := removeAll(); err != nil {
			fmt.Fprintln(os.Stderr, "remove what the tests made:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// removeAll removes the containers of these tests, and their image.
func removeAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	engine, err := Connect(ctx, Config{Instance: testInstance})
	if err != nil {
		return err
	}
	defer engine.Close()
	_, err = engine.Sweep(ctx, "", nil)
	_, imageErr := engine.api.ImageRemove(ctx, probeImage, image.RemoveOptions{Force: true})
	return errors.Join(err, imageErr)
}

// importProbe makes an image of nothing but testdata/probe.
func importProbe(ctx context.Context, engine *Engine) error {
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "probe"), "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build probe: %w\n%s", err, text)
	}
	program, err := os.ReadFile(filepath.Join(dir, "probe"))
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "probe", Mode: 0o755, Size: int64(len(program))}); err != nil {
		return err
	}
	if _, err := w.Write(program); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	source := image.ImportSource{Source: &archive, SourceName: "-"}
	// What an image says of itself must not soften the profile, so this one says all it can.
	changes := []string{`ENTRYPOINT ["/nosuch"]`, `USER root`, `VOLUME /volume`, `ENV FROM_PROBE=1`, `HEALTHCHECK CMD /probe exit 0`}
	out, err := engine.api.ImageImport(ctx, source, probeImage, image.ImportOptions{Changes: changes})
	if err != nil {
		return fmt.Errorf("import probe: %w", err)
	}
	defer out.Close()
	var last struct{ Error string }
	if err := json.NewDecoder(out).Decode(&last); err != nil || last.Error != "" {
		return fmt.Errorf("import probe: %w %s", err, last.Error)
	}
	return nil
}

func testEngine(t *testing.T) *Engine {
	t.Helper()
	testenv.NeedsEngine(t)
	if err := importOnce(); err != nil {
		t.Fatal(err)
	}
	engine, err := Connect(t.Context(), Config{Instance: testInstance})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close() })
	return engine
}

// probe is a Spec for testdata/probe with a name that is the test's own.
func probe(t *testing.T, kind Kind, args ...string) Spec {
	name := strings.NewReplacer("/", ".", "#", "-").Replace(t.Name()) + "." + strings.ToLower(rand.Text()[:6])
	return Spec{Kind: kind, Name: name, Image: probeImage, Command: append([]string{"/probe"}, args...)}
}

// create makes a container that goes with the test.
func create(t *testing.T, engine *Engine, spec Spec) Container {
	t.Helper()
	c, err := engine.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Remove(context.WithoutCancel(t.Context()), c.ID); err != nil {
			t.Error(err)
		}
	})
	return c
}

// finish starts a container, waits for its end and gives its exit and output.
func finish(t *testing.T, engine *Engine, spec Spec) (Exit, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := create(t, engine, spec)
	if err := engine.Start(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	exit, err := engine.Wait(ctx, c.ID)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for line, err := range engine.Logs(ctx, c.ID, LogOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString(line.Text + "\n")
	}
	return exit, out.String()
}

// tried runs the probe and decodes what it found.
func tried[T any](t *testing.T, engine *Engine, spec Spec) T {
	t.Helper()
	exit, out := finish(t, engine, spec)
	var found T
	if err := json.Unmarshal([]byte(out), &found); err != nil || exit.Code != 0 {
		t.Fatalf("the probe %q ended with %+v: %v; want 0 and JSON\n%s", spec.Command, exit, err, out)
	}
	return found
}
