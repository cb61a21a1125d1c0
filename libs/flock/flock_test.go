package flock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestOneAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	first, second := New(path), New(path)
	if err := first.Try(); err != nil {
		t.Fatal(err)
	}
	if err := second.Try(); !errors.Is(err, ErrLocked) {
		t.Fatalf("a second holder got %v, want ErrLocked", err)
	}
	first.Close()
	if err := second.Try(); err != nil {
		t.Fatalf("after the first let go: %v", err)
	}
	second.Close()
}

// Who waited on a file that its holder removed must not think that the lock of nothing is the lock.
func TestRemovedFileLocksNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	first, waiting, third := New(path), New(path), New(path)
	if err := first.Try(); err != nil {
		t.Fatal(err)
	}
	if err := waiting.Try(); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	first.Remove()
	if err := third.Try(); err != nil {
		t.Fatal(err)
	}
	if err := waiting.Try(); !errors.Is(err, ErrLocked) {
		t.Fatalf("a second holder got %v, want ErrLocked", err)
	}
	third.Close()
	if err := waiting.Try(); err != nil {
		t.Errorf("got %v, want no error", err)
	}
	waiting.Close()
}

func TestShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	first, second, alone := NewShared(path), NewShared(path), New(path)
	for _, f := range []*File{first, second} {
		if err := f.Try(); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []*File{first, second} {
		if err := alone.Try(); !errors.Is(err, ErrLocked) {
			t.Fatalf("alone with others: got %v, want ErrLocked", err)
		}
		f.Close()
	}
	if err := alone.Try(); err != nil {
		t.Fatal(err)
	}
	if err := first.Try(); !errors.Is(err, ErrLocked) {
		t.Errorf("shared with one that is alone: %v; want ErrLocked", err)
	}
	first.Close()
	alone.Close()
}

func TestLockWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.lock")
	synctest.Test(t, func(t *testing.T) {
		first := New(path)
		if err := first.Try(); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := New(path).Lock(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("gave up with %v, want its deadline's error", err)
		}
		var have atomic.Bool
		second := New(path)
		go func() {
			if err := second.Lock(t.Context()); err != nil {
				t.Errorf("got %v, want no error", err)
			}
			have.Store(true)
		}()
		time.Sleep(time.Second)
		if have.Load() {
			t.Fatal("two hold it")
		}
		first.Close()
		time.Sleep(2 * pollInterval)
		synctest.Wait()
		if !have.Load() {
			t.Error("still waits")
		}
		second.Close()
	})
}

func TestLinkIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.lock")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), path); err != nil {
		t.Fatal(err)
	}
	if err := New(path).Try(); err == nil || errors.Is(err, ErrLocked) {
		t.Errorf("a link as the lock's file: got %v, want an error other than ErrLocked", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "elsewhere")); err == nil {
		t.Error("made a file where a link led")
	}
}

// All of user_data but the secrets can be read by the operator's group: a backup must not stumble over a lock.
func TestLockFilesCanBeRead(t *testing.T) {
	old := syscall.Umask(0o027)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "lock")
	f := New(path)
	if err := f.Try(); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v, want 0640", info.Mode(), err)
	}
}

func TestOpenFolder(t *testing.T) {
	dir := t.TempDir()
	open := func() *os.File {
		t.Helper()
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	first, second, alone := open(), open(), open()
	for _, f := range []*os.File{first, second} {
		if err := TryOpen(f, Shared); err != nil {
			t.Fatalf("TryOpen shared = %v, want no error", err)
		}
	}
	if err := TryOpen(alone, Exclusive); !errors.Is(err, ErrLocked) {
		t.Fatalf("TryOpen alone of a shared folder = %v, want ErrLocked", err)
	}
	got := make(chan error)
	go func() { got <- WaitOpen(alone, Exclusive) }()
	if err := Unlock(first); err != nil {
		t.Fatalf("Unlock = %v, want no error", err)
	}
	select {
	case err := <-got:
		t.Fatalf("WaitOpen = %v while another shares the folder, want it to wait", err)
	case <-time.After(20 * time.Millisecond):
	}
	second.Close()
	if err := <-got; err != nil {
		t.Fatalf("WaitOpen = %v, want the lock when the others are gone", err)
	}
	if err := TryOpen(first, Shared); !errors.Is(err, ErrLocked) {
		t.Errorf("TryOpen of a folder that is locked alone = %v, want ErrLocked", err)
	}
}
