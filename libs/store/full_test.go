package store_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack/packtest"
	"github.com/rumi-ai/rumi/libs/store"
)

// A full disk is told as one, and is no surprise that nobody can do anything about.
func TestAFullDisk(t *testing.T) {
	if !packtest.CanMount() {
		t.Skip("only root can mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("small", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("can't mount here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	migrations := fstest.MapFS{"00001_x.sql": {Data: []byte("-- +goose Up\nCREATE TABLE x (v TEXT);\n-- +goose Down\nDROP TABLE x;\n")}}
	db, err := store.Open(t.Context(), store.Config{Dir: dir, Service: "x"}, migrations)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for range 100 {
		err = db.Tx(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`INSERT INTO x (v) VALUES (?)`, strings.Repeat("x", 64<<10))
			return err
		})
		if err != nil {
			break
		}
	}
	if f := fault.Of(err); err == nil || f.Kind != fault.KindUnavailable || f.Message != "No space left for records" || f.Code != "no_space" {
		t.Errorf("got %v, want 503 No space left for records", err)
	}
}
