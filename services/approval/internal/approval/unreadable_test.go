package approval

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/tree"
)

// vanishing has the folder that is read taken away as soon as it is begun with, as an apply does.
type vanishing struct {
	t   *testing.T
	dir string
}

func (v vanishing) Create(int64) (tree.Blob, error) {
	check(v.t, os.RemoveAll(v.dir))
	return nil, fs.ErrNotExist
}

// What a pack's folder answers while somebody replaces or removes it is the operator's to repeat, and no failure of ours.
func TestAPackThatChangesWhileItIsReadIsAConflict(t *testing.T) {
	dir := t.TempDir() + "/p"
	check(t, os.Mkdir(dir, 0o755))
	check(t, os.WriteFile(dir+"/a", []byte("x"), 0o644))
	root, err := os.OpenRoot(dir)
	check(t, err)
	defer root.Close()
	_, begun := tree.Scan(t.Context(), root, vanishing{t, dir})
	_, gone := tree.Scan(t.Context(), root, nil)
	for _, err := range []error{begun, gone, fmt.Errorf("inspect: %w", syscall.ENOENT), &fs.PathError{Op: "open", Err: syscall.ESTALE}} {
		f := fault.Of(unreadable("p", err))
		if err == nil || f.Kind != fault.KindConflict || f.Code != "pack_changing" || f.Message != "Cannot read pack 'p': it changed while it was read; try again" {
			t.Errorf("%v: %+v", err, f)
		}
	}
	if other := errors.New("disk failure"); !errors.Is(unreadable("p", other), other) || fault.Is(unreadable("p", other), fault.KindConflict) {
		t.Error("what is no change is one, too")
	}
}

// A pack that there is no room for can be approved when there is some.
func TestAFullDiskIsUnavailable(t *testing.T) {
	for _, errno := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		f := fault.Of(unreadable("p", &fs.PathError{Op: "write", Err: errno}))
		if f.Kind != fault.KindUnavailable || f.Message != "No space left for approvals" || !errors.Is(f, errno) {
			t.Errorf("%v: %+v", errno, f)
		}
	}
	if roomless(nil) != nil {
		t.Error("nothing is a full disk")
	}
}
