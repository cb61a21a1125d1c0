package packdata

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most := heap(), uint64(0)
	u, err := Measure(&looking{t.Context(), 0, func(asked int) {
		if asked%(files/4) == files/8 {
			most = max(most, heap())
		}
	}}, dir)
	if err != nil || u.Files != files+1 {
		t.Fatalf("Measure = %+v, %v; want %d files", u, err, files+1)
	}
	if most > before+512<<10 {
		t.Errorf("took %d KiB more while it measured %d files", (most-before)>>10, files)
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
	if u, err := Measure(t.Context(), dir); err != nil || u.Files != 3 {
		t.Errorf("with a link beside: %+v, %v; want 3 files", u, err)
	}
	for at := 1; at <= 4; at++ {
		u, err := Measure(&looking{t.Context(), 0, func(asked int) {
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
	if err := os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", maxDepth-1)), 0o755); err != nil {
		t.Fatal(err)
	}
	if u, err := Measure(t.Context(), dir); err != nil || u.Files != maxDepth {
		t.Errorf("%d deep: %+v, %v; want %d folders", maxDepth, u, err, maxDepth)
	}
	if err := os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", maxDepth)), 0o755); err != nil {
		t.Fatal(err)
	}
	if u, err := Measure(t.Context(), dir); err == nil {
		t.Errorf("deeper: %+v; want an error", u)
	}
	if u, err := Measure(t.Context(), filepath.Join(dir, "missing")); err != nil || u != (Usage{}) {
		t.Errorf("a folder that isn't there: %+v, %v; want nothing used", u, err)
	}
}

// Empty files take no blocks, but inodes, of which the host has only so many.
func TestEveryNameCounts(t *testing.T) {
	const files = 100
	dir := t.TempDir()
	for i := range files / 2 {
		name := filepath.Join(dir, fmt.Sprint(i))
		if err := errors.Join(os.WriteFile(name, nil, 0o644), os.Symlink("nowhere", name+".link")); err != nil {
			t.Fatal(err)
		}
	}
	u, err := Measure(t.Context(), dir)
	if want := int64(files+1) * minFileBytes; err != nil || u.Files != files+1 || u.Bytes < want || u.Bytes > 2*want {
		t.Fatalf("Measure = %+v, %v; want %d names and some %d bytes", u, err, files+1, want)
	}
}

// What takes blocks counts for these, not for its name beside them.
func TestBytesCountOnce(t *testing.T) {
	const size = 1 << 20
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
	var is, folder unix.Stat_t
	if err := errors.Join(unix.Stat(filepath.Join(dir, "f"), &is), unix.Stat(dir, &folder)); err != nil {
		t.Fatal(err)
	}
	want := is.Blocks*512 + max(folder.Blocks*512, minFileBytes)
	if u, err := Measure(t.Context(), dir); err != nil || u.Bytes != want {
		t.Errorf("Measure = %+v, %v; want %d bytes", u, err, want)
	}
}
