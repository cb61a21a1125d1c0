package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/rumi-ai/rumi/e2e/bench/internal/load"
	"github.com/rumi-ai/rumi/e2e/bench/internal/table"
)

// idleWait is the longest wait until the container of an idle handler is removed. RUMI_CAPABILITY_WORKER_IDLE is a second here.
const idleWait = time.Minute

// capability measures calls that the broker answers itself (secrets.get), and calls of a trivial handler, which may have one worker here. Then
// it measures first calls, which start the worker.
func (b *bench) capability(ctx context.Context) error {
	const pack, key = "bench-capability", "BENCH_KEY"
	if err := b.install(ctx, pack, map[string]string{
		"share/capability_handlers/echo/handler.json": `{"handler_id": "echo_handler", "permission_id": "bench.echo", "entrypoint": "handler.py:execute", "description": "answers with what it is asked", "risk": "low"}`,
		"share/capability_handlers/echo/handler.py":   "def execute(context, args):\n    return args\n",
	}); err != nil {
		return err
	}
	ours := []int{b.suite.PID("capability-broker")}
	call := func(permission, args string) func() (*load.Client, error) {
		return load.Frames(b.suite.Socket("capability", pack),
			fmt.Appendf(nil, `{"permission_id": %q, "args": %s, "timeout_seconds": 30}`, permission, args), `"success":true`)
	}
	if err := errors.Join(
		b.post(ctx, "/api/secrets/set", map[string]any{"key": key, "value": "a value"}, nil),
		b.grantCapability(ctx, pack, "secrets.get", map[string]any{"allowed_keys": []string{key}}),
	); err != nil {
		return err
	}
	s, err := load.Compare(ctx, b.plan(1), load.Contestant{Name: "secrets.get", PIDs: ours, Open: call("secrets.get", fmt.Sprintf(`{"key": %q}`, key))})
	if err != nil {
		return err
	}
	b.row(latency("secrets.get, 1 in flight, p50", table.Goal{Bound: 300e-6}, s[0], "", load.Summary{}, "original 307 ms"))

	if err := b.docker(ctx); err != nil {
		for _, path := range []string{"capability call, warm handler", "capability calls, one worker", "first call of a cold handler"} {
			b.row(table.Row{Path: path, Missing: "needs Docker and " + b.image})
		}
		return nil
	}
	if err := errors.Join(b.trustHandlers(ctx), b.grantCapability(ctx, pack, "bench.echo", nil)); err != nil {
		return err
	}
	handler := load.Contestant{Name: "a handler", PIDs: ours, Open: call("bench.echo", `{"x": 1}`)}
	if s, err = load.Compare(ctx, b.plan(1), handler); err != nil {
		return err
	}
	b.row(latency("capability call, warm handler, 1 in flight, p50", table.Goal{Bound: 1e-3}, s[0], "", load.Summary{}, "original 27 ms (new process each call)"))
	if s, err = load.Compare(ctx, b.plan(few), handler); err != nil {
		return err
	}
	b.row(rate("capability calls, one worker, 16 in flight", table.Goal{Bound: 1000}, s[0], "", load.Summary{}, ""))
	return b.cold(ctx, handler)
}

// docker returns an error unless a Docker engine with the image of packs answers.
func (b *bench) docker(ctx context.Context) error {
	_, err := dockerCommand(ctx, "image", "inspect", "--format", "{{.Id}}", b.image)
	return err
}

// cold measures first calls of a handler without a container, beside `docker run` of the same image.
func (b *bench) cold(ctx context.Context, handler load.Contestant) error {
	var first, plain []time.Duration
	for i := range b.scale.repeats {
		name := fmt.Sprintf("%s-plain-%d", b.suite.Instance, i)
		began := time.Now()
		_, err := dockerCommand(ctx, "run", "--network", "none", "--name", name, b.image, "run", "python3", "-c", "pass")
		took := time.Since(began)
		_, removeErr := dockerCommand(context.WithoutCancel(ctx), "rm", "--force", name)
		if err := errors.Join(err, removeErr); err != nil {
			return err
		}
		plain = append(plain, took)

		if err := b.until(ctx, idleWait, "the handler's container to go", func() (bool, error) {
			out, err := dockerCommand(ctx, "ps", "--quiet", "--filter", "label=io.rumi.instance="+b.suite.Instance, "--filter", "label=io.rumi.kind=handler")
			return len(out) == 0, err
		}); err != nil {
			return err
		}
		client, err := handler.Open()
		if err != nil {
			return err
		}
		began = time.Now()
		err = client.Do()
		took = time.Since(began)
		if err := errors.Join(err, client.Close()); err != nil {
			return fmt.Errorf("call a cold handler: %w", err)
		}
		first = append(first, took)
	}
	ours, _ := load.Durations(first)
	theirs, _ := load.Durations(plain)
	b.row(table.Row{Path: "first call of a cold handler", Unit: table.Seconds, Goal: table.Goal{Ratio: 1.3}, Ours: ours.Seconds(), Beside: "docker run", Theirs: theirs.Seconds()})
	return nil
}

// dockerCommand runs Docker's client and returns its output.
func dockerCommand(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("run docker %s: %w\n%s", args[0], err, problems.String())
	}
	return out.String(), nil
}
