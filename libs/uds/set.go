package uds

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/periodic"
)

// retryInterval is how often a Set tries to make the sockets that another replica serves or that could not be made.
const retryInterval = 250 * time.Millisecond

// SetConfig configures the sockets of a Set.
type SetConfig struct {
	Dir     string // holds one directory a socket, named DirName(id)
	Home    string // id of the Rumi home that Dir must belong to; "" for a folder that bears no mark
	Mode    fs.FileMode
	GID     int
	Handler func(id string) Handler // the handler of one id's socket
	Limits  Limits                  // of each socket
	Log     *slog.Logger
	Metrics prometheus.Registerer // for one Set; nil for nowhere
}

// Set keeps one socket open for each id that is wanted. A socket that can't be made now, because another replica serves it or
// because of the file system, is tried again until it is no longer wanted. It is safe for concurrent use.
type Set struct {
	cfg   SetConfig
	load  *load
	owner *Owner             // nil without SetConfig.Home
	stop  context.CancelFunc // ends retry
	done  chan struct{}      // closed when retry has ended

	mu         sync.Mutex
	ownerError string // why no socket is served, as it was logged last; "" while the folder is ours
	closed     bool
	members    map[string]*member
	ending     sync.WaitGroup
}

// member is one wanted socket.
type member struct {
	id     string
	lock   *lock
	server *server // nil while it waits
	failed string  // the last error that was logged, so that it is logged once

	servedElsewhere bool // another replica serves it
}

// NewSet makes an empty set. Close ends it.
func NewSet(cfg SetConfig) *Set {
	ctx, stop := context.WithCancel(context.Background())
	s := &Set{cfg: cfg, load: newLoad(cfg.Metrics), stop: stop, done: make(chan struct{}), members: make(map[string]*member)}
	if cfg.Home != "" {
		s.owner = NewOwner(cfg.Dir, cfg.Home)
	}
	go func() {
		defer close(s.done)
		_ = periodic.Run(ctx, retryInterval, s.retry)
	}()
	return s
}

// Ensure wants id's socket from now on. When it returns, this process serves the socket, or another replica does, or Ready
// says why not.
func (s *Set) Ensure(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.members[id] != nil {
		return
	}
	m := &member{id: id}
	s.members[id] = m
	if s.checkOwner() == nil {
		s.tryListen(m)
	}
}

// Ready is nil where every wanted socket is served, by this process or by another replica.
func (s *Set) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkOwner(); err != nil {
		return err
	}
	for _, m := range s.members {
		if m.server == nil && m.failed != "" && !m.servedElsewhere {
			return fmt.Errorf("the socket of %s can't be made: %s", m.id, m.failed)
		}
	}
	return nil
}

// checkOwner is nil while the folder belongs to our home. Where it doesn't, all sockets stop being served at once: the packs of
// another home may have the folders mounted by now, and would be served as ours. Nothing is removed, because the files there
// are the other home's. mu is held.
func (s *Set) checkOwner() error {
	if s.owner == nil {
		return nil
	}
	term := s.owner.Term()
	err := os.MkdirAll(s.cfg.Dir, 0o751)
	if err == nil {
		err = s.owner.Check()
	}
	text, before := "", s.ownerError
	if err != nil {
		text = err.Error()
	}
	if text != before {
		s.ownerError = text
		if err != nil {
			s.cfg.Log.Error("the folder of the sockets is not ours; no socket is served until it is", "error", err)
		} else {
			s.cfg.Log.Info("the folder of the sockets is ours again", "dir", s.cfg.Dir)
		}
	}
	if err != nil && before == "" || s.owner.Term() != term {
		s.abandon()
	}
	return err
}

// abandon stops serving every socket without removing it. They are made again when the folder is ours again. mu is held.
func (s *Set) abandon() {
	for _, m := range s.members {
		if m.server != nil {
			if err := m.server.listener.abandon(); err != nil {
				s.cfg.Log.Warn("closing a socket failed", "id", m.id, "error", err)
			}
			s.stopServer(&member{server: m.server}, 0)
		} else {
			m.closeLock()
		}
		m.server, m.lock = nil, nil
	}
}

// Remove takes id's socket and its directory away. Requests under way end with their context. Of an id that is
// not in the set it does nothing.
func (s *Set) Remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.members[id]
	if m == nil {
		return
	}
	delete(s.members, id)
	if s.checkOwner() != nil || m.server == nil {
		m.closeLock()
		return
	}
	if err := m.server.listener.Remove(); err != nil {
		s.cfg.Log.Warn("removing a socket failed", "id", id, "error", err)
	}
	s.stopServer(m, 0)
}

// Serving says whether this process serves id's socket now.
func (s *Set) Serving(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.members[id]
	return m != nil && m.server != nil
}

// Close closes every socket, so that another replica can serve them at once, and waits for the requests under way as
// Limits.Drain has it. Directories stay.
func (s *Set) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	_ = s.checkOwner() // what lies in a stranger's folder is not removed
	s.closed = true
	s.stop()
	for id, m := range s.members {
		delete(s.members, id)
		if m.server == nil {
			m.closeLock()
			continue
		}
		if err := m.server.listener.Close(); err != nil {
			s.cfg.Log.Warn("closing a socket failed", "id", id, "error", err)
		}
		s.stopServer(m, s.cfg.Limits.withDefaults().Drain)
	}
	s.mu.Unlock()
	<-s.done
	s.ending.Wait()
	if s.owner != nil {
		s.owner.Close()
	}
}

// stopServer ends the member's server without waiting for it; Close waits.
func (s *Set) stopServer(m *member, drain time.Duration) {
	s.load.sockets.Add(-1)
	s.ending.Go(func() { m.server.stop(drain) })
}

// tryListen makes the member's socket and serves it, or notes why it can't be made. mu is held.
func (s *Set) tryListen(m *member) {
	cfg := Config{Dir: s.cfg.Dir, Name: DirName(m.id), Mode: s.cfg.Mode, GID: s.cfg.GID}
	l, err := m.listen(cfg)
	m.servedElsewhere = errors.Is(err, ErrLocked)
	if err != nil {
		if text := err.Error(); text != m.failed {
			m.failed = text
			if !errors.Is(err, ErrLocked) {
				s.cfg.Log.Error("making a socket failed; trying again", "id", m.id, "error", err)
			}
		}
		return
	}
	m.failed = ""
	srv := newServer(l, s.cfg.Handler(m.id), s.cfg.Limits, s.cfg.Log, s.load)
	m.server = srv
	s.load.sockets.Add(1)
	s.ending.Go(func() {
		if err := srv.accept(); err != nil {
			s.listenerFailed(m, srv, err)
		}
	})
}

// listenerFailed has a member whose listener failed tried again.
func (s *Set) listenerFailed(m *member, srv *server, err error) {
	s.cfg.Log.Error("a socket stopped listening; making it again", "id", m.id, "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.server == srv && s.members[m.id] == m {
		srv.listener.Close()
		s.stopServer(&member{server: srv}, 0)
		m.server, m.lock = nil, nil
	}
}

// retry tries to make the sockets that are wanted and not served.
func (s *Set) retry(context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.checkOwner() != nil {
		return
	}
	for _, m := range s.members {
		if m.server == nil {
			s.tryListen(m)
		}
	}
}

// listen is Listen with the member's lock, which stays open while another replica holds it.
func (m *member) listen(cfg Config) (*Listener, error) {
	if m.lock == nil {
		lk, err := newLock(cfg)
		if err != nil {
			return nil, err
		}
		m.lock = lk
	}
	l, err := listen(cfg, m.lock)
	if err != nil && !errors.Is(err, ErrLocked) {
		m.lock.close() // so that another replica can try
	}
	return l, err
}

// closeLock gives up the lock, or waiting for it.
func (m *member) closeLock() {
	if m.lock != nil {
		m.lock.close()
	}
}
