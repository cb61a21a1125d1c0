package replica

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func join(t *testing.T, dir string) *Replica {
	t.Helper()
	r, err := Join(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.lock.Close)
	return r
}

func TestWhoIsAlive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "replicas")
	a, b, c := join(t, dir), join(t, dir), join(t, dir)
	for _, other := range []*Replica{a, b, c} {
		if !a.Alive(other.ID) {
			t.Errorf("%s is dead to %s, want it alive", other.ID, a.ID)
		}
	}
	b.lock.Close() // what kill -9 does
	c.Close()
	if !a.Alive(a.ID) || a.Alive(b.ID) || a.Alive(c.ID) {
		t.Error("the dead are alive, or the living dead")
	}
	for _, id := range []string{"", "..", "../../etc/passwd", strings.ToUpper(a.ID), a.ID + "\n"} {
		if a.Alive(id) {
			t.Errorf("%q is alive, want it dead", id)
		}
	}
	if dead, err := a.RemoveDead(); err != nil || dead != 1 {
		t.Errorf("removed %d dead replicas, %v; want one", dead, err)
	}
	if dead, err := a.RemoveDead(); err != nil || dead != 0 || !a.Alive(a.ID) {
		t.Errorf("removed %d dead replicas the second time, %v; want none, and itself alive", dead, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the folder has %v, %v; want one entry", entries, err)
	}
}

// Who buries the dead may find the file of one that is being born, before that has its lock.
func TestJoiningWhileOthersBury(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "replicas")
	first := join(t, dir)
	done := make(chan struct{})
	var removing sync.WaitGroup
	for range 4 {
		removing.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := first.RemoveDead(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 300 {
		r, err := Join(dir)
		if err != nil {
			t.Error(err)
			break
		}
		if !first.Alive(r.ID) {
			t.Errorf("%s is dead, want it alive until it is closed", r.ID)
		}
		r.Close()
	}
	close(done)
	removing.Wait()
}

func TestNodeIsTheSameForAll(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "capabilities")
	var wait sync.WaitGroup
	names := make([]string, 8)
	for i := range names {
		wait.Go(func() {
			var err error
			if names[i], err = Node(dir); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	for _, name := range names {
		if name != names[0] || !validID.MatchString(name) {
			t.Fatalf("names are %q, want the same for all", names)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "node"), nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if name, err := Node(dir); err == nil {
		t.Errorf("an empty file is the name %q, want an error", name)
	}
}
