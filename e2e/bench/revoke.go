package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rumi-ai/rumi/e2e/bench/internal/load"
	"github.com/rumi-ai/rumi/e2e/bench/internal/suite"
	"github.com/rumi-ai/rumi/e2e/bench/internal/table"
	"github.com/rumi-ai/rumi/e2e/internal/api"
)

// denialWait is the longest wait for a denial.
const denialWait = 30 * time.Second

// revoke measures the time from a revoke, and from a changed file, to the first denial. The grant is revoked at a second egress-proxy, through
// a second gateway, while the first egress-proxy serves the pack's socket: so the change must reach another replica.
func (b *bench) revoke(ctx context.Context) (err error) {
	w, err := b.egressWorld(ctx, "bench-revoke")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	other, stop, err := b.replica(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	var took []time.Duration
	for range b.scale.revokes {
		if err := b.grantNetwork(ctx, w.pack, w.upstream.Port(), "127.0.0.1"); err != nil {
			return err
		}
		d, err := w.untilDenied(ctx, func() error {
			return succeeded(nil)(other.Post(ctx, "/api/network/revoke", map[string]any{"pack_id": w.pack, "reason": "measured"}))
		})
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	p50, p99 := load.Durations(took)
	b.row(table.Row{Path: "revoke → denied, on another replica, p99", Unit: table.Seconds, Goal: table.Goal{Bound: 100e-3}, Ours: p99.Seconds(),
		OursMore: fmt.Sprintf("(p50 %s, %d times)", table.Seconds.Format(p50.Seconds()), len(took)), Published: "original: until restart, for a modified pack"})

	if err := b.grantNetwork(ctx, w.pack, w.upstream.Port(), "127.0.0.1"); err != nil {
		return err
	}
	took = nil
	for i := range b.scale.repeats * 2 {
		file := filepath.Join(b.suite.Home, "ecosystem", w.pack, "main.py")
		d, err := w.untilDenied(ctx, func() error { return os.WriteFile(file, fmt.Appendf(nil, "# %d\n", i), 0o644) })
		if err != nil {
			return err
		}
		took = append(took, d)
		if err := b.approve(ctx, w.pack); err != nil {
			return err
		}
	}
	p50, p99 = load.Durations(took)
	b.row(table.Row{Path: "changed file → denied, the slowest", Unit: table.Seconds, Goal: table.Goal{Bound: 1}, Ours: p99.Seconds(),
		OursMore: fmt.Sprintf("(p50 %s, %d times)", table.Seconds.Format(p50.Seconds()), len(took)), Published: "original: at restart"})
	return nil
}

// replica starts a second egress-proxy, and a gateway that uses only this one. It returns a client of that gateway.
func (b *bench) replica(ctx context.Context) (client *api.Client, stop func() error, err error) {
	at := map[string]string{}
	var started []*suite.Process
	stop = func() error {
		var problems []error
		for _, p := range started {
			problems = append(problems, p.Stop())
		}
		return errors.Join(problems...)
	}
	for _, name := range []string{"egress-proxy", "gateway"} {
		if at[name], err = suite.FreePort(); err != nil {
			return nil, stop, errors.Join(err, stop())
		}
		p, err := b.suite.Launch(name, at[name], at)
		if err != nil {
			return nil, stop, errors.Join(err, stop())
		}
		started = append([]*suite.Process{p}, started...)
	}
	if client, err = b.suite.Client(ctx, at["gateway"]); err != nil {
		return nil, stop, errors.Join(err, stop())
	}
	return client, stop, nil
}

// untilDenied waits until the pack's requests are allowed. Then it calls do, and returns the time from the beginning of do to the first
// denial.
func (w *egressWorld) untilDenied(ctx context.Context, do func() error) (time.Duration, error) {
	url := "http://" + w.upstream.Address() + "/x"
	passes, err := w.framed(url, `"success":true`)()
	if err != nil {
		return 0, err
	}
	defer passes.Close()
	bound, cancel := context.WithTimeout(ctx, denialWait)
	defer cancel()
	for passes.Do() != nil { // the connection stays open after a denial
		if bound.Err() != nil {
			return 0, fmt.Errorf("wait for the pack's requests to pass: %w", bound.Err())
		}
	}
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- do() }()
	for passes.Do() == nil {
		if bound.Err() != nil {
			return 0, errors.Join(fmt.Errorf("wait for the pack's requests to be denied: %w", bound.Err()), <-done)
		}
	}
	took := time.Since(began)
	return took, <-done
}
