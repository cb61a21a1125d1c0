package uds

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The causes (context.Cause) of contexts that end because of what a client did.
var (
	// ErrGone is a client that has closed its connection: nobody can read an answer any more.
	ErrGone = errors.New("client closed the connection")
	// ErrHalfClosed is a client that says nothing more, but may still read.
	ErrHalfClosed = errors.New("client ended what it sends")
)

// lifetime is how long a connection's client is there, as contexts. A connection has one from its first request on.
//
// A client that has closed its connection can't be told from one that only says nothing more by reading: both are an end of
// file. AF_UNIX tells them apart by poll(2): POLLRDHUP for one direction, POLLHUP for both.
type lifetime struct {
	id     uint64 // in the watcher, from register on; of its mutex
	client context.Context
	gone   context.CancelCauseFunc
	sends  context.Context // ends with client, too
	ended  context.CancelCauseFunc
}

// watchAfter is how old a connection gets before it is watched, which spares one that carries a single short request the
// system call and the wake-up.
const watchAfter = 50 * time.Millisecond

// watcher notices what clients do while nobody reads from their connections. It is one epoll instance of the process, in which
// each connection is once, edge-triggered, and not for data: while requests come and go nothing is done for it. The runtime's
// poller waits for the instance, so that no thread does.
type watcher struct {
	mu      sync.Mutex
	file    *os.File // the epoll instance; nil until the first connection is watched
	raw     syscall.RawConn
	last    uint64
	young   map[*conn]struct{} // not watched yet; nil while adopt isn't due
	watched map[uint64]*lifetime
}

var peers watcher

// start makes the instance where there is none. The mutex must be held.
func (w *watcher) start() error {
	if w.file != nil {
		return nil
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make an epoll instance: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // which is how os.NewFile knows that it can be waited for
		unix.Close(fd)
		return fmt.Errorf("make an epoll instance: %w", err)
	}
	file := os.NewFile(uintptr(fd), "epoll")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return fmt.Errorf("make an epoll instance: %w", err)
	}
	w.file, w.raw, w.watched = file, raw, make(map[uint64]*lifetime)
	go w.run(raw)
	return nil
}

// add has a connection watched until remove.
func (w *watcher) add(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.young == nil {
		w.young = make(map[*conn]struct{})
		time.AfterFunc(watchAfter, w.adopt)
	}
	w.young[c] = struct{}{}
}

// remove must be called before the connection is closed. The kernel forgets it by itself then.
func (w *watcher) remove(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.young, c)
	delete(w.watched, c.id)
}

// adopt begins to watch the connections that have not ended meanwhile. Where that fails, for want of a descriptor, they are
// served as if their clients stayed for ever.
func (w *watcher) adopt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	young := w.young
	w.young = nil
	for c := range young {
		if err := w.register(c); err != nil && !errors.Is(err, net.ErrClosed) {
			c.server.log.Error("the end of a client will not be noticed before it is answered", "error", err)
		}
	}
}

// register makes the kernel tell of a connection, of what has happened already, too. The mutex must be held.
func (w *watcher) register(c *conn) error {
	if err := w.start(); err != nil {
		return err
	}
	conn, err := c.SyscallConn()
	if err != nil {
		return err
	}
	w.last++
	c.id = w.last
	event := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(c.id), Pad: int32(c.id >> 32)} // EPOLLHUP comes unasked
	var added, inner error
	err = conn.Control(func(fd uintptr) {
		inner = w.raw.Control(func(epoll uintptr) {
			added = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, int(fd), &event)
		})
	})
	if err = errors.Join(err, inner, added); err != nil {
		return fmt.Errorf("watch a connection: %w", err)
	}
	w.watched[c.id] = &c.lifetime // before tell looks for it, which waits for the mutex
	return nil
}

// run tells connections what their clients did, for as long as the process lives.
func (w *watcher) run(raw syscall.RawConn) {
	var events [64]unix.EpollEvent
	for {
		var n int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, failed = unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || failed != nil && failed != unix.EINTR
		})
		if err != nil || failed != nil {
			panic(fmt.Sprintf("wait for an epoll instance that nobody closes: %v, %v", err, failed))
		}
		for _, e := range events[:n] {
			w.tell(uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32, e.Events)
		}
	}
}

// tell ends a connection's contexts.
func (w *watcher) tell(id uint64, events uint32) {
	w.mu.Lock()
	l := w.watched[id]
	w.mu.Unlock()
	switch {
	case l == nil: // closed meanwhile
	case events&(unix.EPOLLHUP|unix.EPOLLERR) != 0:
		l.gone(ErrGone)
	case events&unix.EPOLLRDHUP != 0:
		l.ended(ErrHalfClosed)
	}
}

// watch begins the connection's lifetime, with its first request.
func (c *conn) watch() {
	if c.client != nil {
		return
	}
	c.client, c.gone = context.WithCancelCause(c.server.ctx)
	c.sends, c.ended = context.WithCancelCause(c.client)
	c.ctx = context.WithValue(c.client, connKey{}, c)
	peers.add(c)
}

// unwatch ends the lifetime with the connection.
func (c *conn) unwatch() {
	if c.client == nil {
		return
	}
	peers.remove(c)
	c.gone(ErrGone)
	c.ended(ErrGone)
}

type connKey struct{}

// SocketOf gives the context of the socket on which a request came that a Handler was given ctx with: it ends when the socket
// is taken away. Where ctx is not from a Handler it is given itself.
func SocketOf(ctx context.Context) context.Context {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		return c.server.ctx
	}
	return ctx
}
