package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// looking is a context that looks around now and then while it is asked whether it has ended.
type looking struct {
	context.Context
	asked int
	look  func(asked int)
}

func (l *looking) Err() error {
	l.asked++
	l.look(l.asked)
	return l.Context.Err()
}

// A pack may put any number of files into a folder: measuring them must not take memory for each.
func TestManyFilesAreMeasuredInLittleMemory(t *testing.T) {
	const files = 4_000
	dir := t.TempDir()
	for i := range files {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s%d", strings.Repeat("x", 200), i)))
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	held := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most := held(), uint64(0)
	u, err := usage(&looking{t.Context(), 0, func(asked int) {
		if asked%(files/4) == files/8 {
			most = max(most, held())
		}
	}}, dir)
	if err != nil || u.Files != files+1 {
		t.Fatalf("usage = %+v, %v; want %d files", u, err, files+1)
	}
	if most > before+512<<10 {
		t.Errorf("held %d KiB more while it measured %d files", (most-before)>>10, files)
	}
}

// A folder that the pack swaps for a link while it is measured leads nowhere.
func TestNoLinkIsMeasured(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	inner := filepath.Join(dir, "inner")
	if err := errors.Join(os.Mkdir(inner, 0o755), os.Symlink(outside, filepath.Join(dir, "link")),
		os.WriteFile(filepath.Join(outside, "a"), nil, 0o644), os.WriteFile(filepath.Join(outside, "b"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if u, err := usage(t.Context(), dir); err != nil || u.Files != 3 {
		t.Errorf("with a link beside: %+v, %v; want 3 files", u, err)
	}
	for at := 1; at <= 4; at++ {
		u, err := usage(&looking{t.Context(), 0, func(asked int) {
			if asked == at {
				if err := errors.Join(os.RemoveAll(inner), os.Symlink(outside, inner)); err != nil {
					t.Error(err)
				}
			}
		}}, dir)
		if err != nil || u.Files > 3 {
			t.Errorf("swapped at look %d: %+v, %v; want 3 files at most", at, u, err)
		}
		if err := errors.Join(os.RemoveAll(inner), os.Mkdir(inner, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFoldersTooDeepToMeasure(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", deepest-1)), 0o755); err != nil {
		t.Fatal(err)
	}
	if u, err := usage(t.Context(), dir); err != nil || u.Files != deepest {
		t.Errorf("%d deep: %+v, %v", deepest, u, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", deepest)), 0o755); err != nil {
		t.Fatal(err)
	}
	if u, err := usage(t.Context(), dir); err == nil {
		t.Errorf("deeper: %+v, no error", u)
	}
	if u, err := usage(t.Context(), filepath.Join(dir, "missing")); err != nil || u != (Usage{}) {
		t.Errorf("a folder that isn't there: %+v, %v", u, err)
	}
}
