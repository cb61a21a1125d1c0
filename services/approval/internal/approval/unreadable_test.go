package approval

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/pack/packtest"
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
		f := fault.Of(new(Service).readFault("p", "p", err))
		if err == nil || f.Kind != fault.KindConflict || f.Code != "pack_changing" || f.Message != "Cannot read pack 'p': it changed while it was read; try again" {
			t.Errorf("%v becomes %+v, want a conflict with the code pack_changing", err, f)
		}
	}
	if other := errors.New("disk failure"); !errors.Is(new(Service).readFault("p", "p", other), other) || fault.Is(new(Service).readFault("p", "p", other), fault.KindConflict) {
		t.Error("what is no change is one, too")
	}
}

// A pack that there is no room for can be approved when there is some.
func TestAFullDiskIsUnavailable(t *testing.T) {
	for _, errno := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		f := fault.Of(new(Service).readFault("p", "p", &fs.PathError{Op: "write", Err: errno}))
		if f.Kind != fault.KindUnavailable || f.Message != "No space left for approvals" || !errors.Is(f, errno) {
			t.Errorf("%v: %+v; want unavailable, message \"No space left for approvals\", the errno", errno, f)
		}
	}
	if noSpaceFault(nil) != nil {
		t.Error("nothing is a full disk")
	}
}

// What can't be read is named, with what mends it, wherever the pack lies.
func TestUnreadableNamesTheFileAndWhatMendsIt(t *testing.T) {
	ecosystem, err := os.OpenRoot(t.TempDir())
	check(t, err)
	defer ecosystem.Close()
	check(t, ecosystem.MkdirAll("packs/x/sub", 0o755))
	check(t, ecosystem.WriteFile("packs/x/sub/a.py", nil, 0o600))
	s := &Service{Dependencies: Dependencies{Ecosystem: ecosystem}}
	f := fault.Of(s.readFault("x", "packs/x", fmt.Errorf("scan tree: %w", &fs.PathError{Op: "open", Path: "sub/a.py", Err: syscall.EACCES})))
	if f.Kind != fault.KindConflict || f.Code != "pack_unreadable" ||
		!strings.HasPrefix(f.Message, "Cannot read pack 'x': ecosystem/packs/x/sub/a.py can't be read: ecosystem/packs/x ") ||
		!strings.HasSuffix(f.Message, fault.Of(pack.Advise(ecosystem, "packs/x", syscall.EACCES)).Message[len("ecosystem/packs/x "):]) {
		t.Errorf("got %s (%s), want the file and the advice of package pack", f.Message, f.Code)
	}
}

// A pack whose file can't be opened says which.
func TestScanNamesWhatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	check(t, os.MkdirAll(dir+"/sub", 0o755))
	check(t, os.WriteFile(dir+"/sub/a.py", nil, 0))
	root, err := os.OpenRoot(dir)
	check(t, err)
	defer root.Close()
	packtest.AsNobody(t, func() { _, err = tree.Scan(t.Context(), root, nil) })
	if at, ok := errors.AsType[*fs.PathError](err); !ok || at.Path != "sub/a.py" {
		t.Errorf("got %v, want an error of sub/a.py", err)
	}
}

// Without room for its entry nothing is decided, and that is said.
func TestAFullAuditLogIsUnavailable(t *testing.T) {
	f := fault.Of(auditFault(&fs.PathError{Op: "write", Err: syscall.ENOSPC}))
	if f.Kind != fault.KindUnavailable || f.Code != "no_space" || !strings.HasPrefix(f.Message, "No space left for the audit log") {
		t.Errorf("got %v %s, want no_space", f.Kind, f)
	}
}
