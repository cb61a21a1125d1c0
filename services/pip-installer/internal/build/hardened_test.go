package build

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/sandbox/sandboxtest"
	"github.com/rumi-ai/rumi/libs/testenv"
)

// A builder is compared with the profile, field by field, as the engine reports it.
func TestBuilderIsAsHardenedAsTheProfile(t *testing.T) {
	image := "rumi-builder:local"
	if name := os.Getenv("RUMI_BUILDER_IMAGE"); name != "" {
		image = name
	}
	testenv.NeedsImage(t, image, "make images")
	engine, err := sandbox.Connect(t.Context(), sandbox.Config{Instance: "test-" + strings.ToLower(rand.Text())})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	b := New(Config{Engine: engine, Image: image, Dir: t.TempDir(), Metrics: prometheus.NewRegistry()})
	w, err := b.prepare(Request{PackID: "p"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.remove(); err != nil {
			t.Error(err)
		}
	}()
	spec := b.spec(w, []string{"python3", "-I", "/build/build.py"})
	spec.PackID = "p"
	made, err := engine.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := engine.Remove(context.WithoutCancel(t.Context()), made.ID); err != nil {
			t.Error(err)
		}
	}()
	found := sandboxtest.Hardened(t, made.ID, sandbox.Builder, fmt.Sprintf(`{
		"Config": {"Entrypoint": ["/usr/local/bin/rumi-runtime", "run", "--", "python3", "-I", "/build/build.py"], "WorkingDir": "/work"},
		"HostConfig": {"Mounts": [
			{"Type": "bind", "Source": %q, "Target": "/build", "ReadOnly": true, "BindOptions": {"Propagation": "rprivate", "NonRecursive": true}},
			{"Type": "bind", "Source": %q, "Target": "/work", "BindOptions": {"Propagation": "rprivate", "NonRecursive": true}}
		]}}`, w.input(), w.scratch()))
	if found.Labels["io.rumi.kind"] != "builder" || found.Labels["io.rumi.pack_id"] != "p" || found.Labels["io.rumi.principal"] != "" ||
		!strings.HasPrefix(found.Image, "sha256:") {
		t.Errorf("the container is %+v, want p's builder, by the image's digest", found)
	}
}
