package uds

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Handler answers the requests of one socket. Both methods append their answer to dst and return the extended slice, so that the server
// can use its buffers again. If they append nothing, the connection is closed.
type Handler interface {
	// Answer answers one request. It may use the slice request until it returns. It is called for requests of several connections
	// at once. ctx is the connection's: it ends when the socket is closed, and when the client has closed the connection, with
	// ErrClientClosed as its cause. It doesn't end for a client that has closed its own direction only: that one still reads.
	Answer(ctx context.Context, request, dst []byte) []byte

	// Refuse answers a frame that could not be read, before the connection is closed: err is ErrEmpty, a
	// *TooLargeError, or os.ErrDeadlineExceeded for one that took longer than Limits.Frame.
	Refuse(err error, dst []byte) []byte
}

// Limits bound what one socket's clients can make the process spend. A zero field means the default.
type Limits struct {
	Request  int           // longest request frame, in bytes; 1 MiB
	Conns    int           // connections at once; 1024. Over it the connection idle for longest is closed
	Requests int           // bytes of requests over 16 KiB at once, from their first byte to their answer; 16 MiB, 4 requests at least. Over it the next one waits
	Answers  int           // bytes of answers that Budgets reserve at once; 32 MiB
	Frame    time.Duration // from a frame's first byte to its last; 10 s
	Write    time.Duration // a client must have read an answer within one to two of these, within one where it reserved some Budget; 30 s
	Drain    time.Duration // how long running requests may still take when the socket is closed; 2 s
}

func (l Limits) withDefaults() Limits {
	def := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	if l.Request == 0 {
		l.Request = 1 << 20
	}
	if l.Conns == 0 {
		l.Conns = 1024
	}
	if l.Requests == 0 {
		l.Requests = 16 << 20
	}
	l.Requests = max(l.Requests, 4*l.Request)
	if l.Answers == 0 {
		l.Answers = 32 << 20
	}
	def(&l.Frame, 10*time.Second)
	def(&l.Write, 30*time.Second)
	def(&l.Drain, 2*time.Second)
	return l
}

const (
	maxPooledBuffer = 64 << 10 // larger buffers are left to the garbage collector
	maxDrained      = 16 << 20 // how much of a refused frame is read, so that its sender gets to reading the answer
)

// Serve serves l until ctx ends, then closes it and waits for the requests under way, Limits.Drain at most. The
// error is nil after ctx's end, else the listener's.
func Serve(ctx context.Context, l *Listener, h Handler, limits Limits, log *slog.Logger) error {
	s := newServer(l, h, limits, log, newLoad(nil))
	failed := make(chan error, 1)
	go func() { failed <- s.accept() }()
	select {
	case <-ctx.Done():
		err := l.Close()
		s.stop(s.limits.Drain)
		<-failed
		return err
	case err := <-failed:
		l.Close()
		s.stop(s.limits.Drain)
		return err
	}
}

// server is the state of one served socket.
type server struct {
	listener *Listener
	handler  Handler
	limits   Limits
	log      *slog.Logger
	load     *load
	ctx      context.Context // of the handlers
	cancel   context.CancelFunc
	open     context.Context // ends when no more requests are read
	shut     context.CancelFunc
	requests *budget // bytes of Limits.Requests
	answers  *budget // bytes of Limits.Answers
	stopping atomic.Bool
	sequence atomic.Uint64 // counts answers; conn.lastUsed has its value, so the connection idle for longest is found without reading a clock
	waiting  atomic.Bool   // somebody waits in admit
	vacancy  chan struct{} // a connection has ended, or become idle while somebody waits
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// newServer makes the server of a socket. What it holds counts in of.
func newServer(l *Listener, h Handler, limits Limits, log *slog.Logger, of *load) *server {
	s := &server{listener: l, handler: h, load: of, limits: limits.withDefaults(), log: log,
		vacancy: make(chan struct{}, 1), conns: make(map[*conn]struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.open, s.shut = context.WithCancel(s.ctx)
	s.requests = newBudget(s.limits.Requests, of)
	s.answers = newBudget(s.limits.Answers, of)
	return s
}

// accept accepts connections until the listener is closed. When the process has no descriptors left it closes an idle connection
// and waits, longer each time: if it ended, all clients of the socket would lose it.
func (s *server) accept() error {
	for delay := time.Duration(0); ; {
		uc, err := s.listener.AcceptUnix()
		if err != nil {
			if s.stopping.Load() || errors.Is(err, net.ErrClosed) {
				return nil
			}
			if temporary, ok := err.(interface{ Temporary() bool }); !ok || !temporary.Temporary() {
				return err
			}
			s.evict()
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log.Warn("accepting a connection failed; waiting", "error", err, "delay_seconds", delay.Seconds())
			time.Sleep(delay)
			continue
		}
		delay = 0
		c := &conn{server: s, UnixConn: uc, budget: Budget{pool: s.answers, limit: int64(s.limits.Answers)}}
		c.lastUsed.Store(s.sequence.Add(1))
		if !s.admit(c) {
			uc.Close()
			return nil
		}
		go c.serve()
	}
}

// admit registers c. Where Limits.Conns are open it closes the one idle for longest first, and waits while all are busy. False means
// that the server stops.
func (s *server) admit(c *conn) bool {
	for {
		s.mu.Lock()
		if s.stopping.Load() {
			s.mu.Unlock()
			return false
		}
		if len(s.conns) < s.limits.Conns {
			s.conns[c] = struct{}{}
			s.running.Add(1)
			s.load.connections.Add(1)
			s.mu.Unlock()
			return true
		}
		s.mu.Unlock()
		s.waiting.Store(true) // before evict looks for an idle one: a connection that becomes idle after that sees it, and signals
		s.evict()
		select {
		case <-s.vacancy:
		case <-s.ctx.Done():
		}
		s.waiting.Store(false)
	}
}

// signal wakes admit, if it waits. It doesn't block.
func (s *server) signal() {
	select {
	case s.vacancy <- struct{}{}:
	default:
	}
}

// evict closes the connection that has been idle for longest. Where every one is busy there is nothing to do but wait.
func (s *server) evict() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *conn
	for c := range s.conns {
		if c.state.Load() == idle && (oldest == nil || c.lastUsed.Load() < oldest.lastUsed.Load()) {
			oldest = c
		}
	}
	if oldest != nil {
		oldest.closeIdle()
	}
}

// stop ends every connection: idle ones at once, busy ones after their answer, and after drain all that are left. The listener must
// be closed before.
func (s *server) stop(drain time.Duration) {
	s.stopping.Store(true)
	s.shut()
	s.mu.Lock()
	for c := range s.conns {
		c.closeIdle()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }()
	if drain > 0 {
		timer := time.NewTimer(drain)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
		}
	}
	s.cancel()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	<-done
}

// What a connection is doing. It goes from idle to busy and back by compare-and-swap, in its own goroutine; closeIdle takes an
// idle one to closed, in others. So a connection is closed from outside only while that cuts no answer off.
const (
	idle int32 = iota // between frames, or inside one that hasn't come to its end
	busy
	closed
)

type conn struct {
	*net.UnixConn
	server     *server
	state      atomic.Int32
	lastUsed   atomic.Uint64
	writeUntil time.Time // the write deadline in force
	lifetime
	ctx          context.Context // of the handler, for requests of this connection: client, by which BudgetOf and SocketOf find the connection
	requestBytes int             // bytes of Limits.Requests
	budget       Budget
	giveUp       atomic.Pointer[context.CancelFunc] // ends the wait in reserveRequest; nil outside of it
}

// closeIdle closes the connection if it is idle, also while it waits in reserveRequest.
func (c *conn) closeIdle() {
	if c.state.CompareAndSwap(idle, closed) {
		c.Close()
		if cancel := c.giveUp.Load(); cancel != nil {
			(*cancel)()
		}
	}
}

// buffers are the memory of one request and its answer. Idle connections have none.
type buffers struct {
	request, response []byte
	pending           []Pending
}

var pool = sync.Pool{New: func() any {
	return &buffers{request: make([]byte, 0, 4<<10), response: make([]byte, 0, 4<<10)}
}}

// release puts the buffers back, unless a long frame has made them large.
func (b *buffers) release() {
	if cap(b.request) <= maxPooledBuffer && cap(b.response) <= maxPooledBuffer {
		pool.Put(b)
	}
}

// serve reads and answers frames until the connection ends, or the server stops. A panic of the handler costs this connection
// only.
func (c *conn) serve() {
	s := c.server
	defer func() {
		if cause := recover(); cause != nil {
			s.log.Error("panic while a request was answered; its connection is closed", "panic", cause, "stack", string(debug.Stack()))
		}
		c.unwatch()
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		s.load.connections.Add(-1)
		s.signal()
		s.running.Done()
	}()
	in, err := newReader(c.UnixConn)
	if err != nil {
		return
	}
	for first := true; !s.stopping.Load(); first = false {
		if _, err := in.Peek(1); err != nil {
			return
		}
		if first && c.stream(in) || !c.exchange(in) {
			return
		}
	}
}

// exchange reads one frame, whose first byte is buffered, and answers it. It says whether the connection goes on.
func (c *conn) exchange(in *reader) bool {
	s := c.server
	b := pool.Get().(*buffers)
	defer b.release()
	defer c.release()

	request, err := c.read(in, b.request[:0])
	b.request = request
	if err != nil {
		c.refuse(in, err, b)
		return false
	}
	if !c.state.CompareAndSwap(idle, busy) {
		return false
	}
	c.watch()
	if h, ok := s.handler.(Beginner); ok {
		if !c.begin(h, in, b) {
			return false
		}
	} else {
		b.response = s.handler.Answer(c.ctx, request, append(b.response[:0], make([]byte, headerSize)...))
		if !c.write(b.response) {
			return false
		}
	}
	c.state.Store(idle)
	if s.waiting.Load() {
		s.signal()
	}
	return true
}

// read reads a frame within Limits.Frame. A frame that was received whole needs no deadline, which saves two timer operations for
// the usual request.
func (c *conn) read(in *reader, dst []byte) ([]byte, error) {
	if !buffered(in) {
		if err := c.frameDeadline(); err != nil {
			return dst, err
		}
		defer c.SetReadDeadline(time.Time{})
		header, err := in.Peek(headerSize)
		if err != nil {
			return dst, err
		}
		if n := int64(binary.BigEndian.Uint32(header)); n > unreserved && n <= int64(c.server.limits.Request) {
			if !c.reserveRequest(int(n)) {
				return dst, net.ErrClosed
			}
			if err := c.frameDeadline(); err != nil {
				return dst, err
			}
		}
	}
	return AppendFrame(dst, in, c.server.limits.Request)
}

// buffered says whether the next frame has been received whole.
func buffered(in *reader) bool {
	have := in.Buffered()
	if have < headerSize {
		return false
	}
	header, _ := in.Peek(headerSize)
	return uint64(have-headerSize) >= uint64(binary.BigEndian.Uint32(header))
}

// refuse answers a frame that could not be read. The client of a frame that is too large is still writing it, and may not read
// the answer before it has written all. So the rest is read and dropped, up to maxDrained.
func (c *conn) refuse(in *reader, err error, b *buffers) {
	var large *TooLargeError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = os.ErrDeadlineExceeded
	case errors.Is(err, ErrEmpty), errors.As(err, &large):
	default:
		return
	}
	b.response = c.server.handler.Refuse(err, append(b.response[:0], make([]byte, headerSize)...))
	if !c.write(b.response) || large == nil {
		return
	}
	c.CloseWrite()
	c.SetReadDeadline(time.Now().Add(c.server.limits.Frame))
	io.CopyN(io.Discard, in, min(int64(large.Length), maxDrained))
}

// write fills in the header that frame begins with and sends it; one without a payload ends the connection.
func (c *conn) write(frame []byte) bool {
	if len(frame) <= headerSize {
		return false
	}
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-headerSize))
	return c.send(frame)
}

// send sends frames. The deadline is renewed when half of it has passed, not each time.
func (c *conn) send(frames []byte) bool {
	if len(frames) == 0 {
		return true
	}
	c.lastUsed.Store(c.server.sequence.Add(1)) // before the client can know that it is answered, and reuse the connection
	now, limit := time.Now(), c.server.limits.Write
	if c.budget.reserved > 0 || c.writeUntil.Sub(now) < limit {
		c.writeUntil = now.Add(2 * limit)
		if c.budget.reserved > 0 { // others may wait for what it has reserved
			c.writeUntil = now.Add(limit)
		}
		if err := c.SetWriteDeadline(c.writeUntil); err != nil {
			return false
		}
	}
	_, err := c.Write(frames)
	return err == nil
}
