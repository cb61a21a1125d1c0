package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/e2e/bench/internal/load"
	"github.com/rumi-ai/rumi/e2e/bench/internal/table"
)

// filesEach is how many files a pack has, as in the goals of design.md.
const filesEach = 50

// packs measures scans, approvals and imports of packs.
func (b *bench) packs(ctx context.Context) error {
	for i := range b.scale.packs {
		if err := b.write(packName(i), packFiles(i)); err != nil {
			return err
		}
	}
	if err := b.scans(ctx); err != nil {
		return err
	}
	var took []time.Duration
	for i := range min(b.scale.approved, b.scale.packs) {
		began := time.Now()
		if err := b.approve(ctx, packName(i)); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	p50, p99 := load.Durations(took)
	b.row(table.Row{Path: fmt.Sprintf("approve a pack of %d files, p50", filesEach), Unit: table.Seconds, Goal: table.Goal{Bound: 10e-3}, Ours: p50.Seconds(),
		OursMore: "(p99 " + table.Seconds.Format(p99.Seconds()) + ")", Published: "original 9–20 ms, without keeping a copy"})
	return b.imports(ctx)
}

func packName(i int) string { return fmt.Sprintf("bench-%03d", i) }

// packFiles are the files of pack number i, without its descriptor. No two files are equal, so that the blob store must keep each.
func packFiles(i int) map[string]string {
	files := map[string]string{}
	for n := range filesEach - 1 {
		files[fmt.Sprintf("backend/m%02d.py", n)] = fmt.Sprintf("# %d %d\n%s", i, n, strings.Repeat("x = 1\n", 700))
	}
	return files
}

// scans measures the first scan of new packs, beside sha256sum over the same files, and further scans, which find everything unchanged.
func (b *bench) scans(ctx context.Context) error {
	hash := func() (time.Duration, error) {
		cmd := exec.CommandContext(ctx, "sh", "-c", "find . -type f -print0 | xargs -0 sha256sum >/dev/null")
		cmd.Dir = filepath.Join(b.suite.Home, "ecosystem")
		began := time.Now()
		err := cmd.Run()
		return time.Since(began), err
	}
	scan := func() (time.Duration, error) {
		began := time.Now()
		err := b.scan(ctx)
		return time.Since(began), err
	}
	plain, err := hash()
	if err != nil {
		return fmt.Errorf("run sha256sum: %w", err)
	}
	first, err := scan()
	if err != nil {
		return err
	}
	what := fmt.Sprintf("scan of %d packs × %d files", b.scale.packs, filesEach)
	b.row(table.Row{Path: what + ", first", Unit: table.Seconds, Goal: table.Goal{Bound: 100e-3}, Ours: first.Seconds(),
		Beside: "sha256sum of the files", Theirs: plain.Seconds(), Published: "original 656 ms"})
	var again []time.Duration
	for range b.scale.repeats {
		took, err := scan()
		if err != nil {
			return err
		}
		again = append(again, took)
	}
	p50, _ := load.Durations(again)
	b.row(table.Row{Path: what + ", again", Unit: table.Seconds, Goal: table.Goal{Bound: 5e-3}, Ours: p50.Seconds(), Published: "original 17 ms"})
	return nil
}
