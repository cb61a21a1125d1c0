package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// slowDisk is a stream on a real file whose syncs take a second of virtual time and end as told. It must be used in a
// bubble, whose clock starts on 2000-01-01.
func slowDisk(t *testing.T, results ...error) (s *stream, syncs *int) {
	t.Helper()
	s = &stream{prefix: filepath.Join(t.TempDir(), "security_"), synced: true, took: newMetrics().took[Security]}
	today := time.Now().Unix() / secondsADay
	f, err := openFile(s.prefix+"2000-01-01.jsonl", today)
	if err != nil {
		t.Fatal(err)
	}
	s.file, syncs = f, new(int)
	f.syncFile = func(*os.File) error {
		time.Sleep(time.Second)
		*syncs++
		if *syncs <= len(results) {
			return results[*syncs-1]
		}
		return nil
	}
	return s, syncs
}

func TestWaitersShareASync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, syncs := slowDisk(t)
		start := time.Now()
		var wg sync.WaitGroup
		write := func() {
			wg.Go(func() {
				if err := s.submit([]byte("{}")).wait(); err != nil {
					t.Errorf("got %v, want no error", err)
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
			t.Errorf("%d syncs in %v, want 2 in 2s", *syncs, time.Since(start))
		}
		raw, err := os.ReadFile(s.prefix + "2000-01-01.jsonl")
		if err != nil || bytes.Count(raw, []byte("\n")) != 1001 {
			t.Errorf("the file has %d lines, %v; want 1001", bytes.Count(raw, []byte("\n")), err)
		}
	})
}

func TestFailedSyncFailsThoseItWasFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken disk")
		s, _ := slowDisk(t, broken)
		var wg sync.WaitGroup
		expect := func(want error) {
			wg.Go(func() {
				if err := s.submit([]byte("{}")).wait(); !errors.Is(err, want) {
					t.Errorf("error is %v, want %v", err, want)
				}
			})
		}
		expect(broken)
		synctest.Wait()
		for range 3 {
			expect(nil) // while the sync that fails runs: the next one decides
		}
		wg.Wait()
	})
}

// A line that was handed over is written by the next who waits, whoever that is, and by Close at the latest.
func TestLinesNeedNotBeWaitedForInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, syncs := slowDisk(t)
		first, second := s.submit([]byte("{}")), s.submit([]byte("{}"))
		if err := second.wait(); err != nil {
			t.Errorf("got %v, want no error", err)
		}
		began := time.Now()
		if err := first.wait(); err != nil || *syncs != 1 || time.Since(began) != 0 {
			t.Errorf("got %v after %d syncs and %v, want none more, at once", err, *syncs, time.Since(began))
		}
		s.submit([]byte("{}"))
		if err := s.close(); err != nil {
			t.Errorf("got %v, want no error", err)
		}
		raw, err := os.ReadFile(s.prefix + "2000-01-01.jsonl")
		if err != nil || bytes.Count(raw, []byte("\n")) != 3 {
			t.Errorf("the file holds %q, %v, want 3 lines", raw, err)
		}
	})
}

// Lines of two days that wait for the same disk go to two files.
func TestLinesThatWaitOverMidnight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := slowDisk(t)
		time.Sleep(24*time.Hour - 2*time.Second)
		var wg sync.WaitGroup
		write := func() {
			wg.Go(func() {
				if err := s.submit([]byte("{}")).wait(); err != nil {
					t.Errorf("got %v, want no error", err)
				}
			})
		}
		old := s.submit([]byte("{}"))
		time.Sleep(3 * time.Second)
		write()
		write()
		if err := old.wait(); err != nil {
			t.Errorf("got %v, want no error", err)
		}
		wg.Wait()
		for day, want := range map[string]int{"2000-01-01": 1, "2000-01-02": 2} {
			raw, err := os.ReadFile(s.prefix + day + ".jsonl")
			if err != nil || bytes.Count(raw, []byte("\n")) != want {
				t.Errorf("the file of %s holds %q, %v, want %d lines", day, raw, err, want)
			}
		}
	})
}

// What a full disk still took of a batch is no failure.
func TestHalfABatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "system_2000-01-01.jsonl")
	f, err := openFile(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.f.Close()
	r, w, err := os.Pipe() // takes some 64 KiB, then no more
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	f.f = w
	size, err := unix.FcntlInt(r.Fd(), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // nobody reads any more once it is full
		for n := 0; n < size; time.Sleep(time.Millisecond) {
			n, _ = unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ)
		}
		r.Close()
	}()
	line := append(bytes.Repeat([]byte("x"), 999), '\n')
	kept, err := f.write(bytes.Repeat(line, 1000))
	if err == nil || kept == 0 || kept%1000 != 0 || kept > size || !f.torn {
		t.Errorf("kept %d bytes, torn %v, %v; want whole lines, and an error", kept, f.torn, err)
	}
}
