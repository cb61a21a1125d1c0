package sandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// synced is a buffer that a container's stderr and a test may use at the same time.
type synced struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *synced) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *synced) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func attached(t *testing.T, kind Kind, stderr io.Writer) (*Engine, Container, Stream) {
	t.Helper()
	engine := testEngine(t)
	spec := probe(t, kind, "echo")
	spec.Stdin = true
	c := create(t, engine, spec)
	stream, err := engine.Attach(t.Context(), c.ID, stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Close() })
	if err := engine.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	return engine, c, stream
}

func frame(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func TestAttachCarriesFramesBothWays(t *testing.T) {
	var stderr synced
	engine, c, stream := attached(t, Handler, &stderr)
	for _, size := range []int{1, 4096, 1 << 20, 5 << 20} {
		body := bytes.Repeat([]byte{0, 1, 2, 3, 255}, size/5+1)[:size]
		go func() {
			if _, err := stream.Write(frame(body)); err != nil {
				t.Error(err)
			}
		}()
		got := make([]byte, 4+size)
		if _, err := io.ReadFull(stream, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, frame(body)) {
			t.Fatalf("a frame of %d bytes came back changed", size)
		}
	}
	if err := stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(stream); err != nil || len(rest) > 0 {
		t.Errorf("after the end: got %q, %v; want nothing more", rest, err)
	}
	if exit, err := engine.Wait(t.Context(), c.ID); err != nil || exit.Code != 0 {
		t.Errorf("it ended with %+v, %v; want 0", exit, err)
	}
	stream.Close()
	if want := "1\n4096\n1048576\n5242880\nend\n"; stderr.String() != want {
		t.Errorf("stderr = %q, want %q", stderr.String(), want)
	}
}

// A broker that dies closes nothing properly; its handlers must not outlive it.
func TestHandlerEndsWithItsStream(t *testing.T) {
	engine, c, attached := attached(t, Handler, io.Discard)
	if _, err := attached.Write(frame([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(attached, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	attached.(*stream).conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := engine.Wait(ctx, c.ID); err != nil {
		t.Error(err)
	}
}

func TestPackIsAttachedToAgain(t *testing.T) {
	engine, c, stream := attached(t, Pack, io.Discard)
	stream.Close()
	for range 2 {
		again, err := engine.Attach(t.Context(), c.ID, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.Write(frame([]byte("again"))); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 9)
		if _, err := io.ReadFull(again, got); err != nil || !bytes.Equal(got, frame([]byte("again"))) {
			t.Fatalf("read %q, %v; want the frame \"again\"", got, err)
		}
		again.Close()
	}
}

func TestEndedContainerIsNotAttachedTo(t *testing.T) {
	engine := testEngine(t)
	c := create(t, engine, probe(t, Pack, "exit", "0"))
	if err := engine.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := engine.Wait(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if stream, err := engine.Attach(t.Context(), c.ID, io.Discard); err == nil {
		stream.Close()
		t.Error("attached to a container that has ended")
	}
}

func TestCloseFreesAReader(t *testing.T) {
	_, _, stream := attached(t, Handler, io.Discard)
	read := make(chan error)
	go func() {
		_, err := stream.Read(make([]byte, 1))
		read <- err
	}()
	stream.Close()
	if err := <-read; err == nil {
		t.Error("read something")
	}
}

func TestKilledContainerEndsTheStream(t *testing.T) {
	engine, c, stream := attached(t, Handler, io.Discard)
	if err := engine.Remove(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(stream); len(rest) > 0 {
		t.Errorf("read %q, %v; want nothing after the removal", rest, err)
	}
}

// readLog reads a container's log to its end.
func readLog(t *testing.T, engine *Engine, id string, opts LogOptions) (lines []Line) {
	t.Helper()
	for line, err := range engine.Logs(t.Context(), id, opts) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	return lines
}

// checkLongLine checks the pieces of a line of 200,000 times "x".
func checkLongLine(t *testing.T, pieces []string) {
	t.Helper()
	long := 0
	for _, piece := range pieces {
		if len(piece) > 2*maxLine || strings.Trim(piece, "x") != "" {
			t.Errorf("a piece of the long line has %d bytes: %.40q; want %d at most", len(piece), piece, 2*maxLine)
		}
		long += len(piece)
	}
	if long != 200_000 {
		t.Errorf("the long line has %d bytes, want 200000", long)
	}
}

func TestLogs(t *testing.T) {
	engine := testEngine(t)
	c := create(t, engine, probe(t, Pack, "lines", "10"))
	before := time.Now()
	if err := engine.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	followed := readLog(t, engine, c.ID, LogOptions{Follow: true})
	// What two pipes carry is in order only in each of them.
	var stdout, stderr []string
	for _, line := range followed {
		if line.Time.Before(before.Add(-time.Second)) || line.Time.After(time.Now().Add(time.Second)) {
			t.Errorf("%.40q has the time %s, want that of the test", line.Text, line.Time)
		}
		if line.Stream == "stderr" {
			stderr = append(stderr, line.Text)
		} else {
			stdout = append(stdout, line.Text)
		}
	}
	if want := []string{"line 1", "line 3", "line 5", "line 7", "line 9"}; !slices.Equal(stderr, want) {
		t.Errorf("stderr = %q, want %q", stderr, want)
	}
	if want := []string{"line 0", "line 2", "line 4", "line 6", "line 8"}; len(stdout) < 7 || !slices.Equal(stdout[:5], want) {
		t.Fatalf("stdout begins with %.60q, want %q", stdout, want)
	}
	if last := stdout[len(stdout)-1]; last != "no end" {
		t.Errorf("the last line is %.40q, want %q", last, "no end")
	}
	checkLongLine(t, stdout[5:len(stdout)-1])
	if last := readLog(t, engine, c.ID, LogOptions{Tail: 1}); len(last) != 1 || last[0].Text != "no end" {
		t.Errorf("a tail of one line is %+v, want %q", last, "no end")
	}
	count := 0
	for range engine.Logs(t.Context(), c.ID, LogOptions{}) {
		if count++; count == 3 {
			break
		}
	}
	if count != 3 {
		t.Errorf("broke off after %d lines", count)
	}
}

func TestFollowingLogsEndsWithItsContext(t *testing.T) {
	engine := testEngine(t)
	c := create(t, engine, probe(t, Pack, "sleep"))
	if err := engine.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var failure error
	for line, err := range engine.Logs(ctx, c.ID, LogOptions{Follow: true}) {
		failure = err
		if line.Text == "ready" {
			cancel()
		}
	}
	if !errors.Is(failure, context.Canceled) {
		t.Errorf("the logs ended with %v, want that they were cancelled", failure)
	}
}
