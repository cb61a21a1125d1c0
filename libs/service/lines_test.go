package service

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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
			if i == 0 {
				synctest.Wait() // it is on its way
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
