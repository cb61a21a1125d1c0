package audit

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowFile is a real file whose syncs take a second of virtual time and end as told.
func slowFile(t *testing.T, results ...error) (f *file, syncs *int) {
	t.Helper()
	f, err := openFile(filepath.Join(t.TempDir(), "security_2000-01-01.jsonl"), "2000-01-01")
	if err != nil {
		t.Fatal(err)
	}
	syncs = new(int)
	f.syncFile = func(*os.File) error {
		time.Sleep(time.Second)
		*syncs++
		if *syncs <= len(results) {
			return results[*syncs-1]
		}
		return nil
	}
	return f, syncs
}

func mustWrite(t *testing.T, f *file) int64 {
	t.Helper()
	ticket, err := f.write([]byte("{}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

func TestWaitersShareASync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, syncs := slowFile(t)
		start := time.Now()
		var wg sync.WaitGroup
		write := func() {
			ticket := mustWrite(t, f)
			wg.Go(func() {
				if err := f.sync(ticket); err != nil {
					t.Error(err)
				}
			})
		}
		write()
		synctest.Wait() // the first sync runs; what is written from now on isn't in it
		for range 1000 {
			write()
		}
		wg.Wait()
		if *syncs != 2 || time.Since(start) != 2*time.Second {
			t.Errorf("%d syncs in %v", *syncs, time.Since(start))
		}
	})
}

func TestFailedSyncFailsThoseItWasFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken disk")
		f, _ := slowFile(t, broken)
		var wg sync.WaitGroup
		expect := func(want error) {
			ticket := mustWrite(t, f)
			wg.Go(func() {
				if err := f.sync(ticket); !errors.Is(err, want) {
					t.Errorf("error is %v, want %v", err, want)
				}
			})
		}
		expect(broken)
		synctest.Wait()
		expect(nil) // written while the sync that fails runs: the next one decides
		wg.Wait()
		if len(f.failed) != 0 {
			t.Errorf("kept %v", f.failed)
		}
	})
}

func TestRetiredFileStaysOpenForItsWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := slowFile(t)
		ticket := mustWrite(t, f)
		f.retire()
		if err := f.sync(ticket); err != nil {
			t.Error(err)
		}
		if err := f.f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("left open: %v", err)
		}
	})
}
