package uds

import (
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

const mebi = 1 << 20

// begun is a frame of 1 MiB without its last byte.
var begun = append(binary.BigEndian.AppendUint32(nil, mebi), strings.Repeat("x", mebi-1)...)

// half sends begun, as far as somebody reads it. taken is closed when all of it is sent: more than the socket's buffers hold, so the
// server has reserved the frame's memory and read on.
func half(t *testing.T, path string) (c net.Conn, taken <-chan struct{}) {
	t.Helper()
	c = dial(t, path)
	sent := make(chan struct{})
	go func() {
		if _, err := c.Write(begun); err == nil {
			close(sent)
		}
	}()
	return c, sent
}

// A client that begins many long frames and ends none makes its own later ones wait, and the process hold little.
func TestIncompleteFramesReserveLittle(t *testing.T) {
	const clients = 60
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	path, stop := serve(t, newEcho("p"), Limits{Frame: time.Minute, Drain: time.Minute, Requests: 4 * mebi})
	before := heap()
	for range clients {
		half(t, path)
	}
	most := uint64(0)
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		most = max(most, heap())
	}
	if most > before+16*mebi { // four, grown to up to twice their length, and what connections cost
		t.Errorf("%d half frames hold %d MiB", clients, (most-before)>>20)
	}
	// What is short passes by.
	c := dial(t, path)
	if err := WriteFrame(c, []byte("who")); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFrame(c, 100); err != nil || string(got) != "p" {
		t.Errorf("a short frame beside: %q, %v, want %q", got, err, "p")
	}
	began := time.Now()
	stop()
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("stopping took %v with frames that wait", took)
	}
}

// Long frames that wait for memory are answered when there is some, however long that was, and none is lost.
func TestLongFramesWaitForMemory(t *testing.T) {
	path, _ := serve(t, newEcho("p"), Limits{Frame: 3 * time.Second, Requests: 4 * mebi})
	var stuck []net.Conn
	for range 4 {
		c, taken := half(t, path)
		stuck = append(stuck, c)
		select {
		case <-taken:
		case <-time.After(10 * time.Second):
			t.Fatal("a frame is not taken within 10 s, want four to reserve all the memory")
		}
	}
	done := make(chan error, 8)
	for range cap(done) {
		c := dial(t, path)
		go func() {
			err := WriteFrame(c, []byte(strings.Repeat("y", mebi)))
			if err == nil {
				var got []byte
				if got, err = ReadFrame(c, 2*mebi); err == nil && len(got) != mebi {
					err = io.ErrShortBuffer
				}
			}
			done <- err
		}()
	}
	for range cap(done) { // the first four are refused when their time is over, which releases memory
		if err := <-done; err != nil {
			t.Errorf("got %v, want no error", err)
		}
	}
	for _, c := range stuck {
		if got, err := ReadFrame(c, 1000); err != nil || !strings.HasPrefix(string(got), "refused") {
			t.Errorf("a frame without end: got %q, %v; want it refused", got, err)
		}
	}
}

// A connection that waits for memory is closed to admit another one, as idle ones are.
func TestWaitingConnectionsAreEvicted(t *testing.T) {
	const conns = 8
	path, _ := serve(t, newEcho("p"), Limits{Frame: time.Minute, Conns: conns, Requests: 4 * mebi})
	for range conns {
		half(t, path)
	}
	time.Sleep(200 * time.Millisecond) // nothing tells that a connection waits for memory
	for range conns {
		c := dial(t, path)
		if err := WriteFrame(c, []byte("who")); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadFrame(c, 100); err != nil || string(got) != "p" {
			t.Fatalf("got %q, %v, want %q", got, err, "p")
		}
	}
}
