package watch

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/pack"
)

// Where the kernel refuses to watch a folder that packs lie in, the watcher works: nothing counts as unchanged, and what may run is looked
// at in turns until the folder can be watched.
func TestAFolderThatCannotBeWatched(t *testing.T) {
	for _, folder := range []string{".", pack.LegacyDir} {
		t.Run(folder, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(dir+"/"+pack.LegacyDir, 0o755); err != nil {
				t.Fatal(err)
			}
			var there unix.Stat_t
			if err := unix.Stat(dir+"/"+folder, &there); err != nil {
				t.Fatal(err)
			}
			before := inotifyAdd
			t.Cleanup(func() { inotifyAdd = before })
			inotifyAdd = func(fd int, path string, mask uint32) (int, error) {
				var st unix.Stat_t
				if err := unix.Stat(path, &st); err == nil && st.Ino == there.Ino {
					return 0, unix.ENOSPC
				}
				return before(fd, path, mask)
			}
			p := newFixtureIn(t, dir, 0)
			p.pack("a", true)
			if got := p.Unwatched(); !slices.Equal(got, []string{"a"}) || p.Unchanged("a") {
				t.Errorf("unwatched %v, a unchanged: %v; want a, which nobody knows to be unchanged", got, p.Unchanged("a"))
			}
			if !strings.Contains(p.log.String(), "fs.inotify.max_user_watches") {
				t.Errorf("the log doesn't say what mends it: %s; want strings.Contains(p.log.String(), \"fs.inotify.max_user_watches\")", p.log)
			}
			inotifyAdd = before
			p.check(p.CheckMounts())
			if p.Unchanged("a") {
				t.Error("what happened before it was watched counts as seen")
			}
			p.scan("a", "a", true)
			if got := p.Unwatched(); len(got) != 0 || !p.Unchanged("a") {
				t.Errorf("watched again: unwatched %v, unchanged %v; want none, and true", got, p.Unchanged("a"))
			}
		})
	}
}

// Without an inotify instance nothing is watched, and all that may run is looked at in turns.
func TestWithoutInotify(t *testing.T) {
	before := inotifyInit
	inotifyInit = func(int) (int, error) { return 0, unix.EMFILE }
	defer func() { inotifyInit = before }()
	var log bytes.Buffer
	dir := t.TempDir()
	w, err := New(Config{Root: dir, Log: slog.New(slog.NewTextHandler(&log, nil)), Metrics: prometheus.NewRegistry(), OnChange: func([]string, bool) {}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "fs.inotify.max_user_instances") {
		t.Errorf("the log doesn't say what mends it: %s; want strings.Contains(log.String(), \"fs.inotify.max_user_instances\")", log.String())
	}
	w.BeginScan("a", true).Done()
	if got := fmt.Sprint(w.Unwatched()); got != "[a]" || w.Unchanged("a") {
		t.Errorf("unwatched %s, a unchanged: %v; want [a] and false", got, w.Unchanged("a"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := w.Fence(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("fence: %v, want an error at once", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}
