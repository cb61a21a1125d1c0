package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/testenv"
)

// The image that the tests run, built from the Dockerfile here. The tag stays, so that the next build finds its layers.
const packImage = "rumi-runtime-test:pack"

var testInstance = "runtime-" + strings.ToLower(rand.Text())

// built makes the image for the first test that needs it: a machine without an engine has no such test.
var built atomic.Bool
var buildOnce = sync.OnceValue(func() error {
	built.Store(true)
	build := exec.Command("docker", "build", "-q", "-f", "Dockerfile", "--target", "pack", "-t", packImage, "..")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", packImage, err, out)
	}
	return nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built.Load() {
		if err := removeContainers(); err != nil {
			fmt.Fprintln(os.Stderr, "remove the tests' containers:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func removeContainers() error {
	engine, err := sandbox.Connect(context.Background(), sandbox.Config{Instance: testInstance})
	if err != nil {
		return err
	}
	defer engine.Close()
	_, err = engine.Sweep(context.Background(), "", nil)
	return err
}

// testEngine gives the engine, which has the image.
func testEngine(t *testing.T) *sandbox.Engine {
	t.Helper()
	testenv.NeedsEngine(t)
	testenv.NeedsProgram(t, "docker")
	if err := buildOnce(); err != nil {
		t.Fatal(err)
	}
	engine, err := sandbox.Connect(t.Context(), sandbox.Config{Instance: testInstance})
	if err != nil {
		t.Fatal(err)
	}
	return engine
}

// container makes one of the pack image with testdata/pack in it.
func container(t *testing.T, kind sandbox.Kind, args ...string) (*sandbox.Engine, sandbox.Container) {
	t.Helper()
	engine := testEngine(t)
	pack, err := filepath.Abs("testdata/pack")
	if err != nil {
		t.Fatal(err)
	}
	c, err := engine.Create(t.Context(), sandbox.Spec{
		Kind: kind, Name: strings.ToLower(rand.Text()), Image: packImage, Stdin: kind == sandbox.Handler,
		Command: append([]string{"/usr/local/bin/rumi-runtime"}, args...),
		Mounts:  []sandbox.Mount{{Source: pack, Target: "/pack"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Remove(context.WithoutCancel(t.Context()), c.ID); err != nil {
			t.Error(err)
		}
		engine.Close()
	})
	return engine, c
}

// run runs a program to its end and gives its status and output.
func run(t *testing.T, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	engine, c := container(t, sandbox.Pack, args...)
	if err := engine.Start(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	exit, err := engine.Wait(ctx, c.ID)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for line, err := range engine.Logs(ctx, c.ID, sandbox.LogOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString(line.Text + "\n")
	}
	return exit.Code, out.String()
}

func TestExitStatusIsKept(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"status":         {[]string{"run", "--", "sh", "-c", "exit 7"}, 7, ""},
		"signal":         {[]string{"run", "sh", "-c", "kill -9 $$"}, 137, ""},
		"arguments":      {[]string{"run", "echo", "--", "a b", ""}, 0, "-- a b \n"},
		"no such":        {[]string{"run", "nosuch"}, 127, "nosuch"},
		"no such path":   {[]string{"run", "/no/such"}, 127, "/no/such"},
		"no program":     {[]string{"run", "/etc/passwd"}, 126, "permission denied"},
		"Python":         {[]string{"run", "blocks/sibling.py"}, 0, ""},
		"Python missing": {[]string{"run", "nosuch.py"}, 2, "/pack/nosuch.py"},
		"Python raises":  {[]string{"run", "leaves.py"}, 9, ""},
		"usage":          {[]string{"walk"}, 64, "use:"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out := run(t, c.args...)
			if code != c.code || !strings.Contains(out, c.says) {
				t.Errorf("%q ended with %d and %q, want %d and %q", c.args, code, out, c.code, c.says)
			}
		})
	}
}

// An entrypoint as packs have one: unbuffered, in /pack, with SIGTERM passed on, orphans reaped, PID 1 out of reach.
func TestEntrypoint(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	engine, c := container(t, sandbox.Pack, "run", "program.py", "one", "two words")
	if err := engine.Start(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line, err := range engine.Logs(ctx, c.ID, sandbox.LogOptions{Follow: true}) {
		if err != nil {
			t.Fatalf("%v after %q", err, got)
		}
		got = append(got, line.Text)
		if line.Text == "ready" {
			if err := engine.Stop(ctx, c.ID, 20*time.Second); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := []string{
		"argv ['one', 'two words']", "folder /pack", "pid 1 environ PermissionError", "pid 1 mem PermissionError",
		"orphans left 0", "ready", "stopping",
	}
	if !slices.Equal(got, want) {
		t.Errorf("it said %q, want %q", got, want)
	}
	if exit, err := engine.Wait(ctx, c.ID); err != nil || exit.Code != 5 {
		t.Errorf("it ended with %+v, %v; want 5", exit, err)
	}
}

func TestCommand(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want []string }{
		{[]string{"serve"}, []string{"python3", "-u", worker}},
		{[]string{"run", "backend/main.py", "x"}, []string{"python3", "-u", filepath.Join(here, "backend/main.py"), "x"}},
		{[]string{"run", "--", "-x.py"}, []string{"python3", "-u", filepath.Join(here, "-x.py")}},
		{[]string{"run", "python3", "main.py"}, []string{"python3", "main.py"}},
		{[]string{"run", "--", "--"}, []string{"--"}},
		{nil, nil}, {[]string{"run"}, nil}, {[]string{"run", "--"}, nil}, {[]string{"run", ""}, nil}, {[]string{"serve", "x"}, nil},
	} {
		got, err := command(c.args)
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("command(%q) = %q, %v; want %q", c.args, got, err, c.want)
		}
	}
}
