package pending

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/fault"
)

func TestSummaryFollowsWhatItCounts(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var packs atomic.Pointer[Packs]
		packs.Store(&Packs{PendingCount: 1, PendingIDs: []string{"a"}})
		var down atomic.Bool
		down.Store(true)
		export := New(dir, Sources{
			Packs:      func(context.Context) (Packs, error) { return *packs.Load(), nil },
			Capability: func(context.Context) (candidate.Counts, error) { return candidate.Counts{Pending: 2}, nil },
			Pip: func(context.Context) (candidate.Counts, error) {
				if down.Load() {
					return candidate.Counts{}, fault.Unavailable("Service unavailable: pip-installer")
				}
				return candidate.Counts{Installed: 3}, nil
			},
		}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- export.Run(ctx) }()
		path := filepath.Join(dir, "summary.json")
		want := func(parts ...string) {
			t.Helper()
			synctest.Wait()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			flat := strings.Join(strings.Fields(string(text)), "")
			for _, part := range parts {
				if !strings.Contains(flat, part) {
					t.Fatalf("no %s in %s; want strings.Contains(flat, part)", part, flat)
				}
			}
		}
		want(`"version":"1.0"`, `"pending_ids":["a"]`, `"modified_ids":[]`, `"capability":{"pending_count":2,`, `"pip":{"error":"Serviceunavailable:pip-installer"}`)
		before, _ := os.Stat(path)

		export.Notify() // but nothing did
		time.Sleep(2 * debounce)
		synctest.Wait()
		if after, _ := os.Stat(path); !os.SameFile(before, after) {
			t.Error("written again although nothing changed")
		}
		packs.Store(&Packs{BlockedCount: 1, BlockedIDs: []string{"a"}})
		export.Notify()
		time.Sleep(2 * debounce)
		want(`"pending_ids":[]`, `"blocked_count":1,"blocked_ids":["a"]`)

		down.Store(false)
		time.Sleep(pollInterval + debounce) // nobody said so
		want(`"pip":{"pending_count":0,"rejected_count":0,"blocked_count":0,"failed_count":0,"installed_count":3}`)
		cancel()
		<-done
	})
}

// Replicas write the same file; whoever reads it meanwhile reads all of what one of them wrote.
func TestReplicasWriteOneAfterTheOther(t *testing.T) {
	dir := t.TempDir()
	var writers, reader sync.WaitGroup
	stop := make(chan struct{})
	for replica := range 4 {
		export := New(dir, Sources{}, slog.New(slog.DiscardHandler))
		packs := Packs{PendingIDs: make([]string, 1+2000*replica)}
		writers.Go(func() {
			for range 25 {
				if err := export.write(summary{Packs: packs}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			text, err := os.ReadFile(filepath.Join(dir, "summary.json"))
			if os.IsNotExist(err) {
				continue // not yet
			}
			var s map[string]any
			if err == nil {
				err = json.Unmarshal(text, &s)
			}
			if err != nil {
				t.Errorf("%d bytes were read: %v", len(text), err)
				return
			}
		}
	})
	writers.Wait()
	close(stop)
	reader.Wait()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v; want 1", left, err)
	}
}

// A summary that somebody removed, emptied or replaced is written again, though nothing that it counts has changed.
func TestSummaryIsWrittenAgain(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "summary.json")
	synctest.Test(t, func(t *testing.T) {
		counts := func(context.Context) (candidate.Counts, error) { return candidate.Counts{Pending: 2}, nil }
		export := New(dir, Sources{
			Packs:      func(context.Context) (Packs, error) { return Packs{PendingCount: 1, PendingIDs: []string{"a"}}, nil },
			Capability: counts, Pip: counts,
		}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- export.Run(ctx) }()
		synctest.Wait()
		for name, spoil := range map[string]func() error{
			"removed": func() error { return os.Remove(path) },
			"emptied": func() error { return os.Truncate(path, 0) },
			"overwritten": func() error {
				return os.WriteFile(path, []byte(`{"version":"1.0","packs":{"pending_count":0}}`), 0o640)
			},
			"a FIFO": func() error { return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o640)) },
		} {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(pollInterval)
			synctest.Wait()
			if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
				t.Fatalf("%s: %v, %v, want the summary", name, info, err)
			}
			if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), `"a"`) {
				t.Errorf("%s: the summary is %q, %v, want it written again", name, text, err)
			}
		}
		cancel()
		<-done
	})
}
