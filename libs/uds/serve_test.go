package uds

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// echo answers what it is asked; some requests ask for trouble.
type echo struct {
	id      string
	entered chan struct{}
	release chan struct{}
	ended   atomic.Int32
}

func newEcho(id string) *echo {
	return &echo{id: id, entered: make(chan struct{}, 1000), release: make(chan struct{})}
}

func (e *echo) Answer(ctx context.Context, request, dst []byte) []byte {
	switch string(request) {
	case "panic":
		panic("as asked")
	case "nothing":
		return dst
	case "who":
		return append(dst, e.id...)
	case "wait":
		e.entered <- struct{}{}
		select {
		case <-e.release:
		case <-ctx.Done():
			e.ended.Add(1)
		}
	}
	return append(dst, request...)
}

func (e *echo) Refuse(err error, dst []byte) []byte { return append(dst, "refused: "+err.Error()...) }

func serve(t testing.TB, h Handler, limits Limits) (path string, stop func()) {
	t.Helper()
	l := mustListen(t, config(t))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Serve(ctx, l, h, limits, slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("got %v, want no error", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return l.Path(), stop
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func ask(c net.Conn, request string) (string, error) {
	if err := WriteFrame(c, []byte(request)); err != nil {
		return "", err
	}
	got, err := ReadFrame(c, math.MaxInt32)
	return string(got), err
}

func TestManyRequestsOnOneConnection(t *testing.T) {
	path, _ := serve(t, newEcho(""), Limits{})
	c := dial(t, path)
	for _, want := range []string{"a", "bc", strings.Repeat("x", 1020), strings.Repeat("y", 1021), strings.Repeat("z", 1<<20), "end"} {
		if got, err := ask(c, want); err != nil || got != want {
			t.Fatalf("sent %d bytes, got %d, %v; want the same back", len(want), len(got), err)
		}
	}
	// Two requests in one write are answered one after the other.
	io.WriteString(c, "\x00\x00\x00\x01a\x00\x00\x00\x01b")
	for _, want := range []string{"a", "b"} {
		if got, err := ReadFrame(c, 8); err != nil || string(got) != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
}

func TestBadFrames(t *testing.T) {
	path, _ := serve(t, newEcho(""), Limits{Frame: 50 * time.Millisecond})
	prefix := func(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
	tests := []struct {
		name, send, want string
	}{
		{"length 0", prefix(0), "refused: " + ErrEmpty.Error()},
		{"1 MiB + 1", prefix(1<<20 + 1), "refused: read frame: 1048577 bytes are over the limit of 1048576"},
		{"1 MiB + 1, all of it sent", prefix(1<<20+1) + strings.Repeat("x", 1<<20+1), "refused: read frame: 1048577 bytes are over the limit of 1048576"},
		{"2^32-1", prefix(math.MaxUint32), "refused: read frame: 4294967295 bytes are over the limit of 1048576"},
		{"half a prefix, then silence", "\x00", "refused: i/o timeout"},
		{"half a frame, then silence", prefix(10) + "abc", "refused: i/o timeout"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, path)
			if _, err := io.WriteString(c, tt.send); err != nil {
				t.Fatal(err)
			}
			if got, err := ReadFrame(c, 1<<10); err != nil || string(got) != tt.want {
				t.Fatalf("got %q, %v; want %q", got, err, tt.want)
			}
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("the connection is still open")
			}
			if got, err := ask(dial(t, path), "next"); err != nil || got != "next" {
				t.Errorf("the next connection got %q, %v, want %q", got, err, "next")
			}
		})
	}
	t.Run("slow but steady, then idle", func(t *testing.T) {
		c := dial(t, path)
		for range 3 {
			io.WriteString(c, "\x00\x00")
			time.Sleep(5 * time.Millisecond)
			io.WriteString(c, "\x00\x02a")
			time.Sleep(5 * time.Millisecond)
			io.WriteString(c, "b")
			if got, err := ReadFrame(c, 8); err != nil || string(got) != "ab" {
				t.Fatalf("got %q, %v, want %q", got, err, "ab")
			}
			time.Sleep(100 * time.Millisecond) // longer than a frame may take: being idle is no offence
		}
	})
}

func TestPanicIsContained(t *testing.T) {
	path, _ := serve(t, newEcho(""), Limits{})
	for _, request := range []string{"panic", "nothing"} {
		if _, err := ask(dial(t, path), request); !errors.Is(err, io.EOF) {
			t.Errorf("request %q: got %v, want io.EOF: the connection is closed", request, err)
		}
	}
	if got, err := ask(dial(t, path), "still here"); err != nil || got != "still here" {
		t.Errorf("got %q, %v, want %q", got, err, "still here")
	}
}

// A client that doesn't read its answers holds its own connection up, and not for ever.
func TestClientThatDoesNotRead(t *testing.T) {
	path, _ := serve(t, newEcho(""), Limits{Write: 20 * time.Millisecond})
	c := dial(t, path)
	big := strings.Repeat("x", 1<<20)
	for range 4 {
		if err := WriteFrame(c, []byte(big)); err != nil {
			return // closed while we were still writing, as it should be
		}
	}
	if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection is still open: %v", err)
	}
}

func TestIdleConnectionsAreEvicted(t *testing.T) {
	l := mustListen(t, config(t))
	s := newServer(l, newEcho(""), Limits{Conns: 3}, slog.New(slog.DiscardHandler), newLoad(nil))
	var accepting sync.WaitGroup
	accepting.Go(func() { s.accept() })
	defer accepting.Wait()
	defer s.stop(0)
	defer l.Close()
	path := l.Path()
	allIdle := func() bool { // an answer is out a moment before its connection counts as idle
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			if c.state.Load() != idle {
				return false
			}
		}
		return true
	}
	var conns []net.Conn
	for range 3 {
		c := dial(t, path)
		if _, err := ask(c, "hello"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if _, err := ask(conns[0], "again"); err != nil { // now the second is the one idle for longest
		t.Fatal(err)
	}
	for !allIdle() {
		time.Sleep(time.Millisecond)
	}
	if _, err := ask(dial(t, path), "one more"); err != nil {
		t.Fatal(err)
	}
	if _, err := conns[1].Read(make([]byte, 1)); err == nil {
		t.Error("the connection idle for longest is still open")
	}
	if got, err := ask(conns[0], "mine"); err != nil || got != "mine" {
		t.Errorf("a connection used since was closed: %v, want it answered", err)
	}
}

func TestBusyConnectionsAreNotEvicted(t *testing.T) {
	h := newEcho("")
	path, _ := serve(t, h, Limits{Conns: 2})
	var wg sync.WaitGroup
	for range 2 {
		c := dial(t, path)
		wg.Go(func() {
			if got, err := ask(c, "wait"); err != nil || got != "wait" {
				t.Errorf("got %q, %v, want %q", got, err, "wait")
			}
		})
		<-h.entered
	}
	late := dial(t, path)
	wg.Go(func() {
		if got, err := ask(late, "late"); err != nil || got != "late" {
			t.Errorf("got %q, %v, want %q", got, err, "late")
		}
	})
	close(h.release)
	wg.Wait()
}

func TestStopSendsAnswersUnderWay(t *testing.T) {
	h := newEcho("")
	path, stop := serve(t, h, Limits{Drain: 10 * time.Second})
	idleConn, busyConn := dial(t, path), dial(t, path)
	if _, err := ask(idleConn, "x"); err != nil {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() { _, err := ask(busyConn, "wait"); answer <- err }()
	<-h.entered
	go stop()
	if _, err := idleConn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the idle connection: got %v, want EOF", err)
	}
	close(h.release)
	if err := <-answer; err != nil {
		t.Errorf("the busy connection: %v", err)
	}
	stop()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestStopDoesNotWaitForEver(t *testing.T) {
	h := newEcho("")
	path, stop := serve(t, h, Limits{Drain: time.Millisecond})
	c := dial(t, path)
	go ask(c, "wait")
	<-h.entered
	stop()
	if h.ended.Load() != 1 {
		t.Error("the handler's context did not end")
	}
}

// holdersEnv makes the test binary a client that holds idle connections to the socket it names: in one process both
// ends of 10,000 connections need more descriptors than many machines allow.
const holdersEnv = "RUMI_TEST_HOLD_CONNECTIONS"

const holders = 10_000

func TestMain(m *testing.M) {
	if path := os.Getenv(holdersEnv); path != "" {
		for held := 0; held < holders; {
			switch _, err := net.Dial("unix", path); {
			case err == nil:
				held++
			case errors.Is(err, syscall.EAGAIN): // the backlog is full
				time.Sleep(time.Millisecond)
			default:
				fmt.Println(err)
				os.Exit(1)
			}
		}
		fmt.Println("holding")
		io.Copy(io.Discard, os.Stdin) // until the test is done
		return
	}
	os.Exit(m.Run())
}

func TestTenThousandIdleConnections(t *testing.T) {
	path, _ := serve(t, newEcho(""), Limits{Conns: holders + 1})
	heap := func() int64 { // signed: what earlier tests left may go meanwhile
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	before := heap()
	client := exec.Command(os.Args[0])
	client.Env = append(os.Environ(), holdersEnv+"="+path)
	client.Stderr = os.Stderr
	in, err := client.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	defer client.Wait()
	defer in.Close()
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "holding\n" {
		t.Fatalf("the client says %q, want holding", line)
	}
	c := dial(t, path)
	start := time.Now()
	if got, err := ask(c, "x"); err != nil || got != "x" {
		t.Fatalf("the answer is %q, %v; want x", got, err)
	}
	took := time.Since(start)
	grown := heap() - before
	t.Logf("%d idle connections: %d bytes each; a request beside them took %v", holders, grown/holders, took)
	if grown > 100<<20 {
		t.Errorf("%d idle connections hold %d MiB", holders, grown>>20)
	}
	if took > time.Second {
		t.Errorf("a request beside them took %v", took)
	}
}

func setConfig(dir string) SetConfig {
	return SetConfig{Dir: dir, GID: -1, Handler: func(id string) Handler { return newEcho(id) }, Log: slog.New(slog.DiscardHandler)}
}

func socketOf(dir, id string) string { return filepath.Join(dir, DirName(id), SocketName) }

func TestSetFollowsWantedSockets(t *testing.T) {
	dir := t.TempDir()
	set := NewSet(setConfig(dir))
	defer set.Close()
	for _, id := range []string{"one", "two", "one"} {
		set.Ensure(id)
	}
	for _, id := range []string{"one", "two"} {
		if got, err := ask(dial(t, socketOf(dir, id)), "who"); err != nil || got != id {
			t.Errorf("%s's socket answers %q, %v, want %q", id, got, err, id)
		}
	}
	c := dial(t, socketOf(dir, "one"))
	go ask(c, "wait")
	set.Remove("one")
	set.Remove("one")
	set.Remove("never there")
	if _, err := os.Lstat(filepath.Join(dir, DirName("one"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the removed directory: got %v, want ErrNotExist", err)
	}
	if set.Serving("one") || !set.Serving("two") {
		t.Error("the wrong one was removed")
	}
	set.Ensure("one")
	if got, err := ask(dial(t, socketOf(dir, "one")), "who"); err != nil || got != "one" {
		t.Errorf("after coming back it answers %q, %v, want %q", got, err, "one")
	}
	set.Close()
	set.Ensure("three")
	if set.Serving("three") {
		t.Error("a closed set serves")
	}
}

func TestSecondReplicaTakesOver(t *testing.T) {
	for _, death := range []struct {
		name string
		die  func(*Set)
	}{
		{"stopped", (*Set).Close},
		{"killed", func(s *Set) { // what the kernel does: descriptors are closed, files stay
			s.mu.Lock()
			m := s.members["p"]
			m.server.listener.UnixListener.Close()
			m.lock.close()
			delete(s.members, "p")
			s.mu.Unlock()
		}},
	} {
		t.Run(death.name, func(t *testing.T) {
			dir := t.TempDir()
			first, second := NewSet(setConfig(dir)), NewSet(setConfig(dir))
			defer first.Close()
			defer second.Close()
			first.Ensure("p")
			second.Ensure("p")
			if !first.Serving("p") || second.Serving("p") {
				t.Fatal("not exactly the first serves")
			}
			start := time.Now()
			death.die(first)
			for !second.Serving("p") {
				if time.Since(start) > time.Second {
					t.Fatal("the second has not taken over within a second")
				}
				time.Sleep(time.Millisecond)
			}
			if got, err := ask(dial(t, socketOf(dir, "p")), "who"); err != nil || got != "p" {
				t.Errorf("got %q, %v, want %q", got, err, "p")
			}
		})
	}
}

func TestSetTriesAgain(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, DirName("p")), 0o750)
	if err := os.Symlink("/dev/null", socketOf(dir, "p")); err != nil {
		t.Fatal(err)
	}
	set := NewSet(setConfig(dir))
	defer set.Close()
	set.Ensure("p")
	if set.Serving("p") {
		t.Fatal("it serves over a link")
	}
	os.Remove(socketOf(dir, "p"))
	for start := time.Now(); !set.Serving("p"); time.Sleep(time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			t.Fatal("it did not try again")
		}
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	l, err := Listen(Config{Dir: b.TempDir(), Name: DirName("b"), GID: -1})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { Serve(ctx, l, newEcho(""), Limits{}, slog.New(slog.DiscardHandler)) })
	defer func() { cancel(); wg.Wait() }()
	request := []byte(strings.Repeat("x", 300))
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("unix", l.Path())
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		var buf []byte
		for pb.Next() {
			if err := WriteFrame(c, request); err != nil {
				b.Error(err)
				return
			}
			if buf, err = AppendFrame(buf[:0], c, 1<<20); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
