package uds

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// waiter answers when its client is gone, and says what its context ended with.
type waiter struct {
	entered chan context.Context
	causes  chan error
	release chan struct{}
}

func newWaiter() *waiter {
	return &waiter{make(chan context.Context, 8), make(chan error, 8), make(chan struct{})}
}

func (h *waiter) wait(ctx context.Context) {
	h.entered <- ctx
	select {
	case <-ctx.Done():
		h.causes <- context.Cause(ctx)
	case <-h.release:
		h.causes <- nil
	}
}

func (h *waiter) Answer(ctx context.Context, request, dst []byte) []byte {
	h.wait(ctx)
	return append(dst, request...)
}

func (h *waiter) Refuse(error, []byte) []byte { return nil }

func (h *waiter) Stream(ctx context.Context, s *Stream) {
	h.wait(s.Sends())
	h.wait(ctx)
}

// next takes what comes within 10 s.
func next[T any](t *testing.T, from chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: nothing within 10 s", what)
	}
	return v
}

func TestContextEndsWithTheClient(t *testing.T) {
	h := newWaiter()
	path, _ := serve(t, h, Limits{})
	c := dial(t, path)
	WriteFrame(c, []byte("first"))
	next(t, h.entered, "the first request")
	h.release <- struct{}{}
	next(t, h.causes, "its answer")
	WriteFrame(c, []byte("second"))
	next(t, h.entered, "the second request")
	other := dial(t, path)
	WriteFrame(other, []byte("other"))
	stays := next(t, h.entered, "another client's request")
	c.Close()
	if err := next(t, h.causes, "the end of the client"); !errors.Is(err, ErrClientClosed) {
		t.Errorf("the context of a request whose client has closed ends with %v, want %v", err, ErrClientClosed)
	}
	if stays.Err() != nil || SocketOf(stays).Err() != nil {
		t.Errorf("the end of a client ends another's context (%v) or the socket's (%v)", stays.Err(), SocketOf(stays).Err())
	}
	h.release <- struct{}{}
}

// Who has half closed may still read: that is no end, until it closes.
func TestHalfClosedClientIsAnswered(t *testing.T) {
	h := newWaiter()
	path, _ := serve(t, h, Limits{})
	c := dial(t, path)
	WriteFrame(c, []byte("x"))
	ctx := next(t, h.entered, "the request")
	c.(*net.UnixConn).CloseWrite()
	// A client that closes after this is noticed later: events come in their order.
	after := dial(t, path)
	WriteFrame(after, []byte("y"))
	next(t, h.entered, "another request")
	after.Close()
	if err := next(t, h.causes, "the end of the other client"); !errors.Is(err, ErrClientClosed) {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Errorf("half closing ends the context: %v", context.Cause(ctx))
	}
	h.release <- struct{}{}
	if got, err := ReadFrame(c, 8); err != nil || string(got) != "x" {
		t.Errorf("got %q, %v, want the answer", got, err)
	}
}

func TestHalfClosedClientDisconnects(t *testing.T) {
	h := newWaiter()
	path, _ := serve(t, h, Limits{})
	c := dial(t, path)
	WriteFrame(c, []byte("x"))
	ctx := next(t, h.entered, "the request")
	c.(*net.UnixConn).CloseWrite()
	time.Sleep(2 * watchAfter)
	if ctx.Err() != nil {
		t.Fatalf("half closing ends the context: %v", context.Cause(ctx))
	}
	c.Close()
	if err := next(t, h.causes, "the end of the client"); !errors.Is(err, ErrClientClosed) {
		t.Errorf("got %v, want %v", err, ErrClientClosed)
	}
}

// A stream tells the end of what its client sends from the end of the client, though what came before is unread.
func TestStreamNoticesHalfClose(t *testing.T) {
	h := newWaiter()
	path, _ := serve(t, h, Limits{})
	c := dial(t, path)
	io.WriteString(c, "Hello")
	next(t, h.entered, "the stream")
	c.(*net.UnixConn).CloseWrite()
	if err := next(t, h.causes, "the end of what is sent"); !errors.Is(err, ErrHalfClosed) {
		t.Errorf("got %v, want %v", err, ErrHalfClosed)
	}
	if ctx := next(t, h.entered, "the second wait"); ctx.Err() != nil {
		t.Fatalf("half closing ends the stream: %v", context.Cause(ctx))
	}
	c.Close()
	if err := next(t, h.causes, "the end of the client"); !errors.Is(err, ErrClientClosed) {
		t.Errorf("got %v, want %v", err, ErrClientClosed)
	}
}

// A client that leaves while its frame waits for memory waits no longer.
func TestDisconnectEndsTheWaitForMemory(t *testing.T) {
	h := newWaiter()
	l := mustListen(t, config(t))
	s := newServer(l, h, Limits{Request: 1 << 20}, nil, newLoad(nil))
	if !s.requests.TryAcquire(int64(s.limits.Requests)) {
		t.Fatal("nothing to reserve in an idle server")
	}
	client, server := pair(t, l)
	c := &conn{server: s, UnixConn: server}
	defer c.unwatch()
	had := make(chan bool, 1)
	go func() { had <- c.reserveRequest(1 << 20) }()
	client.Close()
	if next(t, had, "the end of the wait") {
		t.Error("reserved what nobody released")
	}
}

// pair is a connection, at both of its ends.
func pair(t *testing.T, l *Listener) (client net.Conn, server *net.UnixConn) {
	t.Helper()
	client = dial(t, l.Path())
	server, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close(); l.Close() })
	return client, server
}

// BenchmarkConnection is a connection with one request: what watching it costs is seen here, if anywhere.
func BenchmarkConnection(b *testing.B) {
	path, _ := serve(b, newEcho(""), Limits{})
	for b.Loop() {
		c, err := net.Dial("unix", path)
		if err != nil {
			b.Fatal(err)
		}
		WriteFrame(c, []byte("x"))
		if _, err := ReadFrame(bufio.NewReader(c), 8); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
