package service

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slow is a reader that takes what is written when it is told to.
type slow struct {
	take   chan struct{}
	mu     sync.Mutex
	got    bytes.Buffer
	writes int
}

func (s *slow) Write(p []byte) (int, error) {
	<-s.take
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	return s.got.Write(p)
}

// written is how much has been written, and by how many writes.
func (s *slow) written() (writes, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes, s.got.Len()
}

func TestLinesDuringAWriteAreWrittenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &slow{take: make(chan struct{})}
		l := newLines(to)
		var want strings.Builder
		for i := range 100 {
			line := fmt.Sprintf("line %d\n", i)
			want.WriteString(line)
			if n, err := l.Write([]byte(line)); n != len(line) || err != nil {
				t.Fatalf("wrote %d, %v; want %d", n, err, len(line))
			}
			if i == 50 {
				time.Sleep(2 * gatherTime) // those before it are on their way
			}
		}
		flushed := make(chan struct{})
		go func() { l.Flush(); close(flushed) }()
		synctest.Wait()
		select {
		case <-flushed:
			t.Fatal("Flush returned before anything was written")
		default:
		}
		close(to.take)
		<-flushed
		if got := to.got.String(); got != want.String() {
			t.Errorf("written is\n%s\nwant\n%s", got, want.String())
		}
		if to.writes != 2 {
			t.Errorf("%d writes, want 2", to.writes)
		}
		l.Flush() // of nothing
	})
}

func TestWritesWaitForASlowReaderBeyondMaxPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &slow{take: make(chan struct{})}
		l := newLines(to)
		line := append(bytes.Repeat([]byte("x"), 1023), '\n')
		logged := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 3 * maxPending / len(line) {
				l.Write(line)
				logged += len(line)
			}
		}()
		synctest.Wait()
		if logged < maxPending || logged > 2*maxPending {
			t.Errorf("%d bytes were logged though nobody reads, want about %d", logged, maxPending)
		}
		close(to.take)
		<-done
		l.Flush()
		if to.got.Len() != 3*maxPending {
			t.Errorf("%d bytes were written, want %d", to.got.Len(), 3*maxPending)
		}
	})
}

func TestALineLongerThanMaxPendingIsWritten(t *testing.T) {
	to := &slow{take: make(chan struct{})}
	close(to.take)
	l := newLines(to)
	l.Write(bytes.Repeat([]byte("x"), 2*maxPending))
	l.Flush()
	if to.got.Len() != 2*maxPending {
		t.Errorf("%d bytes came out, want %d", to.got.Len(), 2*maxPending)
	}
}

// TestLinesAreGathered: lines of a moment are one write, a line alone waits no longer than gatherTime, and much is written at once.
func TestLinesAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &slow{take: make(chan struct{})}
		close(to.take)
		l := newLines(to)
		for range 10 {
			l.Write([]byte("line\n"))
			time.Sleep(gatherTime / 20)
		}
		synctest.Wait()
		if writes, _ := to.written(); writes != 0 {
			t.Errorf("after half of %v: %d writes, want none", gatherTime, writes)
		}
		time.Sleep(gatherTime)
		synctest.Wait()
		if writes, size := to.written(); writes != 1 || size != 50 {
			t.Errorf("after %v: %d writes of %d bytes, want 1 of 50", gatherTime, writes, size)
		}
		l.Write(bytes.Repeat([]byte("x"), gatherBytes))
		synctest.Wait()
		if writes, _ := to.written(); writes != 2 {
			t.Errorf("after %d bytes at once: %d writes, want 2", gatherBytes, writes)
		}
		began := time.Now()
		l.Write([]byte("the last\n"))
		l.Flush()
		if writes, _ := to.written(); writes != 3 || time.Since(began) != 0 {
			t.Errorf("Flush took %v, and there were %d writes; want no time and 3", time.Since(began), writes)
		}
	})
}
