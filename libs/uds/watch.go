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
	// ErrClientClosed is a client that has closed its connection: nobody can read an answer any more.
	ErrClientClosed = errors.New("client closed the connection")
	// ErrHalfClosed is a client that sends nothing more, but may still read.
	ErrHalfClosed = errors.New("client ended what it sends")
)

// lifetime is how long a connection's client is there, as contexts. A connection has one from its first request on.
//
// Reading doesn't show whether a client has closed its connection, or only its direction of it: both are an end of file. AF_UNIX
// distinguishes them by poll(2): POLLRDHUP for one direction, POLLHUP for both.
type lifetime struct {
	id           uint64 // in the watcher, from register on; of its mutex
	client       context.Context
	cancelClient context.CancelCauseFunc
	sends        context.Context // ends with client, too
	cancelSends  context.CancelCauseFunc
}

// watchAfter is how old a connection gets before it is watched. Most connections carry a single short request and end before;
// for them the system call and the wake-up are saved.
const watchAfter = 50 * time.Millisecond

// watcher notices that clients close their connections while nobody reads from these. It is one epoll instance of the process, in which
// each connection is once, edge-triggered, and not for data: while requests come and go nothing is done for it. The runtime's
// poller waits for the instance, so that no thread does.
type watcher struct {
	mu        sync.Mutex
	file      *os.File // the epoll instance; nil until the first connection is watched
	raw       syscall.RawConn
	last      uint64
	unwatched map[*conn]struct{} // not watched yet; nil while watchAll isn't due
	watched   map[uint64]*lifetime
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
	if w.unwatched == nil {
		w.unwatched = make(map[*conn]struct{})
		time.AfterFunc(watchAfter, w.watchAll)
	}
	w.unwatched[c] = struct{}{}
}

// remove must be called before the connection is closed. The kernel forgets it by itself then.
func (w *watcher) remove(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.unwatched, c)
	delete(w.watched, c.id)
}

// watchAll begins to watch the connections that have not ended meanwhile. Where that fails, for want of a descriptor, they are
// served as if their clients stayed for ever.
func (w *watcher) watchAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	unwatched := w.unwatched
	w.unwatched = nil
	for c := range unwatched {
		if err := w.register(c); err != nil && !errors.Is(err, net.ErrClosed) {
			c.server.log.Error("the end of a client will not be noticed before it is answered", "error", err)
		}
	}
}

// register has the kernel report what happens to a connection, and what has happened already. The mutex must be held.
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
	w.watched[c.id] = &c.lifetime // before run gets an event of it: cancelContexts waits for the mutex, which is held here
	return nil
}

// run waits for events of all watched connections, until the process ends.
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
			w.cancelContexts(uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32, e.Events)
		}
	}
}

// cancelContexts ends the contexts of the connection with that id, as its events have it.
func (w *watcher) cancelContexts(id uint64, events uint32) {
	w.mu.Lock()
	l := w.watched[id]
	w.mu.Unlock()
	switch {
	case l == nil: // closed meanwhile
	case events&(unix.EPOLLHUP|unix.EPOLLERR) != 0:
		l.cancelClient(ErrClientClosed)
	case events&unix.EPOLLRDHUP != 0:
		l.cancelSends(ErrHalfClosed)
	}
}

// watch begins the connection's lifetime, with its first request.
func (c *conn) watch() {
	if c.client != nil {
		return
	}
	c.client, c.cancelClient = context.WithCancelCause(c.server.ctx)
	c.sends, c.cancelSends = context.WithCancelCause(c.client)
	c.ctx = context.WithValue(c.client, connKey{}, c)
	peers.add(c)
}

// unwatch ends the lifetime with the connection.
func (c *conn) unwatch() {
	if c.client == nil {
		return
	}
	peers.remove(c)
	c.cancelClient(ErrClientClosed)
	c.cancelSends(ErrClientClosed)
}

type connKey struct{}

// SocketOf returns the context of the socket of a connection whose request a Handler got with ctx. It ends when the socket is
// closed, and outlives the connection. Where ctx is not from a Handler, ctx itself is returned.
func SocketOf(ctx context.Context) context.Context {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		return c.server.ctx
	}
	return ctx
}
