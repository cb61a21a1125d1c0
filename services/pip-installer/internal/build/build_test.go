package build_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/testenv"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/build"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/lock"
)

// instance is of this process alone: the same tests may run in another checkout at the same time.
var instance = "test-" + strings.ToLower(rand.Text())

// image is the builder image, which `make images` makes.
func image() string {
	if name := os.Getenv("RUMI_BUILDER_IMAGE"); name != "" {
		return name
	}
	return "rumi-builder:local"
}

// builder makes builders of the real image on the real engine.
func builder(t *testing.T, allow []string) (*build.Builder, *sandbox.Engine) {
	t.Helper()
	testenv.NeedsImage(t, image(), "make images")
	engine, err := sandbox.Connect(t.Context(), sandbox.Config{Instance: instance})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close() })
	b := build.New(build.Config{Metrics: prometheus.NewRegistry(),
		Engine: engine, Image: image(), Dir: t.TempDir(), AllowCIDRs: allow, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err := b.Check(t.Context()); err != nil {
		t.Fatalf("%v (%s is made by `make images`)", err, image())
	}
	return b, engine
}

func parse(t *testing.T, text string) []lock.Requirement {
	t.Helper()
	found, err := lock.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Addresses are judged by Python, where pip connects, so they are tested there.
func TestAddresses(t *testing.T) {
	_, engine := builder(t, nil)
	dir := t.TempDir()
	for from, to := range map[string]string{"build.py": "build.py", "testdata/test_judge.py": "test_judge.py"} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := engine.Create(t.Context(), sandbox.Spec{
		Kind: sandbox.Builder, Name: "judge", Image: image(), Command: []string{"python3", "-I", "/build/test_judge.py"},
		Mounts: []sandbox.Mount{{Source: dir, Target: "/build"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = engine.Remove(context.WithoutCancel(t.Context()), c.ID) }()
	if err := engine.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	exit, err := engine.Wait(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	for line, err := range engine.Logs(t.Context(), c.ID, sandbox.LogOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		log.WriteString(line.Text + "\n")
	}
	if exit.Code != 0 || !strings.Contains(log.String(), "OK") {
		t.Errorf("the build ended with the status %d, want 0 and OK:\n%s", exit.Code, log.String())
	}
}

func TestInternalIndexIsRefused(t *testing.T) {
	b, _ := builder(t, nil)
	_, err := b.Build(t.Context(), build.Request{PackID: "pack", Requirements: parse(t, "idna==3.10"), IndexURL: "https://127.0.0.1/simple"})
	if refused, ok := errors.AsType[*build.AddressError](err); !ok || refused.Host != "127.0.0.1" {
		t.Errorf("error is %v; want that 127.0.0.1 is refused", err)
	}
}

// The index is the builder's own loopback, where nobody listens.
func TestUnreachableIndex(t *testing.T) {
	b, engine := builder(t, []string{"127.0.0.0/8"})
	_, err := b.Build(t.Context(), build.Request{PackID: "pack", Requirements: parse(t, "idna==3.10"), IndexURL: "https://127.0.0.1:9/simple"})
	if failure, ok := errors.AsType[*build.Failure](err); !ok || !failure.Unreachable {
		t.Errorf("error is %v; want that the index is unreachable", err)
	}
	if left, err := engine.List(t.Context(), sandbox.Builder); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v; want none", left, err)
	}
}

func TestCallerWhoLeavesEndsTheBuild(t *testing.T) {
	b, engine := builder(t, []string{"127.0.0.0/8"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Build(ctx, build.Request{PackID: "pack", Requirements: parse(t, "idna==3.10"), IndexURL: "https://127.0.0.1:9/simple"})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v; want context.Canceled", err)
	}
	if left, err := engine.List(t.Context(), sandbox.Builder); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v; want none", left, err)
	}
}

func TestCheckSaysWhatIsMissing(t *testing.T) {
	for _, c := range []struct{ host, image, want string }{
		{"unix:///nowhere.sock", image(), "Docker is required but not available"},
		{"", "rumi-no-such-image:local", "Image rumi-no-such-image:local is missing"},
	} {
		t.Run(c.want, func(t *testing.T) {
			if c.host == "" {
				testenv.NeedsEngine(t)
			}
			engine, err := sandbox.Connect(t.Context(), sandbox.Config{Host: c.host, Instance: instance})
			if err != nil {
				t.Fatal(err)
			}
			defer engine.Close()
			err = build.New(build.Config{Metrics: prometheus.NewRegistry(), Engine: engine, Image: c.image, Dir: t.TempDir()}).Check(t.Context())
			if !fault.Is(err, fault.KindUnavailable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v; want unavailable, and that it says %q", err, c.want)
			}
		})
	}
}
