package diskusage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/pack/packtest"
)

func TestMeasure(t *testing.T) {
	dir := t.TempDir()
	check(t, os.MkdirAll(filepath.Join(dir, "x/deep"), 0o755))
	check(t, os.WriteFile(filepath.Join(dir, "x/a"), make([]byte, 1000), 0o644))
	check(t, os.WriteFile(filepath.Join(dir, "x/deep/b"), make([]byte, 24), 0o644))
	check(t, os.Link(filepath.Join(dir, "x/a"), filepath.Join(dir, "x/deep/again")))
	check(t, os.Symlink("/", filepath.Join(dir, "x/out")))
	check(t, os.WriteFile(filepath.Join(dir, "single"), make([]byte, 7), 0o644))
	root, err := os.OpenRoot(dir)
	check(t, err)
	defer root.Close()
	for name, want := range map[string]Item{
		"x":       {Bytes: 1024, Files: 2}, // one file has two names, and a link is not followed
		"single":  {Bytes: 7, Files: 1},
		"nothing": {},
	} {
		var got Item
		got.Measure(t.Context(), root, name)
		if got != want {
			t.Errorf("%s takes %+v, want %+v", name, got, want)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	var got Item
	if got.Measure(cancelled, root, "x"); got.Error == "" {
		t.Errorf("a measurement that was cut short says %+v, want an error", got)
	}
}

// The largest are named however many there are, and nothing is left out in silence.
func TestReportIsBounded(t *testing.T) {
	var items []Item
	var sum int64
	for i := range MaxItems + 5 {
		items = append(items, Item{Path: fmt.Sprint(i), Bytes: int64(i)})
		sum += int64(i)
	}
	r := NewReport(items)
	if len(r.Items) != MaxItems || r.Omitted != 5 || r.Items[0].Bytes != MaxItems+4 {
		t.Fatalf("got %d items, %d omitted, the first of %d bytes", len(r.Items), r.Omitted, r.Items[0].Bytes)
	}
	for _, item := range r.Items {
		sum -= item.Bytes
	}
	if sum != r.OmittedBytes {
		t.Errorf("%d bytes are omitted, the report says %d", sum, r.OmittedBytes)
	}
	if empty := NewReport(nil); empty.Items == nil {
		t.Error("a report without items has null, want []")
	}
}

// What can't be read of an item is said in it, and the rest is counted.
func TestMeasureCountsAroundWhatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	for _, readable := range []string{dir, filepath.Dir(dir)} {
		check(t, os.Chmod(readable, 0o755))
	}
	packtest.Write(t, filepath.Join(dir, "x/z"), "z")
	packtest.Obstacles["closed folder"](t, filepath.Join(dir, "x/closed"))
	if packtest.CanMount() {
		packtest.DeadMount(t, filepath.Join(dir, "x/dead"))
	}
	root, err := os.OpenRoot(dir)
	check(t, err)
	defer root.Close()
	packtest.AsNobody(t, func() {
		var got Item
		if got.Measure(t.Context(), root, "x"); got.Bytes != 1 || got.Files != 1 || !strings.Contains(got.Error, "can't be read") {
			t.Errorf("got %+v, want 1 byte and an error", got)
		}
	})
}

func TestRemoveCommand(t *testing.T) {
	for path, want := range map[string]string{
		"user_data/import/a-1.zip": "rm -rf -- user_data/import/a-1.zip",
		"user_data/import/a; b":    "rm -rf -- 'user_data/import/a; b'",
		"user_data/import/it's":    `rm -rf -- 'user_data/import/it'\''s'`,
	} {
		if got := RemoveCommand(path); got != want {
			t.Errorf("RemoveCommand(%q) = %s, want %s", path, got, want)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
