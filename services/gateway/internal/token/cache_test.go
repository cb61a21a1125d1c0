package token

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
)

// memory is a Store in memory, which can be away. The real one has tests of its own; here time is virtual.
type memory struct {
	mu       sync.Mutex
	away     error
	tokens   map[string]Token
	uses     map[string]principal.Use
	revision int64
}

func newMemory() *memory {
	return &memory{tokens: map[string]Token{}, uses: map[string]principal.Use{}}
}

func (m *memory) setAway(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = err
}

func (m *memory) Revision(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.revision, m.away
}

func (m *memory) Changed(context.Context) (int64, time.Time, error) {
	return 0, time.Time{}, errors.New("not kept")
}

func (m *memory) Tokens(_ context.Context, since int64) (list []Token, revision int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.tokens {
		if t.Revision > since {
			list = append(list, t)
		}
	}
	return list, m.revision, m.away
}

func (m *memory) Create(_ context.Context, t *Token, before func() error) (bool, error) {
	return false, m.put(t, before)
}

func (m *memory) put(t *Token, before func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.away, before()); err != nil {
		return err
	}
	m.revision++
	t.Revision = m.revision
	m.tokens[t.ID] = *t
	return nil
}

func (m *memory) Change(_ context.Context, id string, change func(*Token) error) (bool, error) {
	m.mu.Lock()
	t, ok := m.tokens[id]
	m.mu.Unlock()
	return ok, m.put(&t, func() error { return change(&t) })
}

func (m *memory) Uses(context.Context) (map[string]principal.Use, error) { return m.uses, m.away }

func (m *memory) SaveUses(_ context.Context, uses map[string]principal.Use) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away == nil {
		for id, use := range uses {
			m.uses[id] = use
		}
	}
	return m.away
}

// add puts a token into the store, and returns it.
func (m *memory) add(t testing.TB, name string, expires time.Time) (text, id string) {
	t.Helper()
	id = newID()
	text, of := newText(id)
	err := m.put(&Token{ID: id, Name: name, Role: access.Viewer, Hash: of.String(), ExpiresAt: expires}, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return text, id
}

func (m *memory) revoke(t testing.TB, id string) {
	t.Helper()
	if _, err := m.Change(context.Background(), id, func(t *Token) error { t.RevokedAt = time.Now(); return nil }); err != nil {
		t.Error(err)
	}
}

var errAway = errors.New("connection refused")

func runCache(t *testing.T, m *memory) *Cache {
	t.Helper()
	c := NewCache(func(context.Context) (Store, error) { _, err := m.Revision(context.Background()); return m, err }, slog.New(slog.DiscardHandler), nil)
	_ = c.Connect(t.Context())
	go c.Run(t.Context())
	go c.Enforce(t.Context())
	return c
}

// Without its database a gateway can't know what was revoked: it refuses tokens after the lease, and cuts their streams.
func TestTokensWithoutADatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		text, _ := m.add(t, "ci", time.Time{})
		other, _ := newText("zzzzzzzzzzzz")
		c := runCache(t, m)
		before, err := c.Authenticate(text)
		if err != nil || before.Name != "ci" || before.Role != access.Viewer {
			t.Fatalf("got %+v, %v; want ci, a viewer", before, err)
		}
		m.setAway(errAway)
		time.Sleep(4 * time.Second)
		if _, err := c.Authenticate(text); err != nil || before.Session.Ended() {
			t.Errorf("within the lease: %v, ended %v; want the token good", err, before.Session.Ended())
		}
		time.Sleep(1500 * time.Millisecond)
		if _, err := c.Authenticate(text); !fault.Is(err, fault.KindUnavailable) {
			t.Errorf("after the lease: %v, want a fault of kind unavailable", err)
		}
		if !before.Session.Ended() || c.Ready() == nil {
			t.Errorf("after the lease the session has ended: %v, ready: %v; want it ended, and not ready", before.Session.Ended(), c.Ready())
		}
		if _, err := c.Authenticate(other); !errors.Is(err, principal.ErrUnknown) {
			t.Errorf("a token that never was: %v, want it unknown: nobody guesses for nothing", err)
		}
		m.setAway(nil)
		time.Sleep(time.Second)
		if again, err := c.Authenticate(text); err != nil || again.Session.Ended() || c.Ready() != nil {
			t.Errorf("with the database again: %v, ready %v; want the token good, with a session that has not ended", err, c.Ready())
		}
	})
}

// A gateway that starts without its database refuses tokens until it has read them.
func TestStartWithoutADatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		text, _ := m.add(t, "ci", time.Time{})
		m.setAway(errAway)
		c := runCache(t, m)
		if _, err := c.Authenticate(text); !fault.Is(err, fault.KindUnavailable) {
			t.Errorf("before the database was read: %v, want a fault of kind unavailable", err)
		}
		if _, err := c.Authenticate("right-token"); !errors.Is(err, principal.ErrUnknown) {
			t.Errorf("what has not the form of a token: %v, want it unknown, so that init's file is asked", err)
		}
		m.setAway(nil)
		time.Sleep(2 * time.Second)
		if _, err := c.Authenticate(text); err != nil {
			t.Errorf("with the database: %v, want the token good", err)
		}
	})
}

// Another gateway revoked it, or its time has come: the session ends within a second.
func TestSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		revoked, id := m.add(t, "revoked", time.Time{})
		expired, _ := m.add(t, "expired", time.Now().Add(3*time.Second))
		stays, _ := m.add(t, "stays", time.Now().Add(time.Hour))
		c := runCache(t, m)
		sessions := map[string]*principal.Session{}
		for name, text := range map[string]string{"revoked": revoked, "expired": expired, "stays": stays} {
			p, err := c.Authenticate(text)
			if err != nil {
				t.Fatal(err)
			}
			sessions[name] = p.Session
		}
		m.revoke(t, id)
		time.Sleep(time.Second)
		if _, err := c.Authenticate(revoked); !sessions["revoked"].Ended() || err == nil || err.Error() != "the token was revoked" {
			t.Errorf("a second after the revocation: ended %v, %v; want it ended and refused", sessions["revoked"].Ended(), err)
		}
		if sessions["expired"].Ended() {
			t.Error("the session has ended before the token expired")
		}
		time.Sleep(2500 * time.Millisecond)
		if _, err := c.Authenticate(expired); !sessions["expired"].Ended() || err == nil || err.Error() != "the token has expired" {
			t.Errorf("half a second after the expiry: ended %v, %v; want it ended and refused", sessions["expired"].Ended(), err)
		}
		if sessions["stays"].Ended() {
			t.Error("the session of another token has ended, want it to go on")
		}
	})
}

// Somebody puts an older database back under a running gateway: what it knew beyond that is forgotten.
func TestDatabaseIsPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		old, _ := m.add(t, "old", time.Time{})
		back, id := m.add(t, "back", time.Time{})
		c := runCache(t, m)
		m.revoke(t, id)
		later, lost := m.add(t, "later", time.Time{})
		time.Sleep(time.Second)
		p, err := c.Authenticate(later)
		if err != nil {
			t.Fatal(err)
		}
		m.mu.Lock()
		delete(m.tokens, lost)
		before := m.tokens[id]
		before.RevokedAt, before.Revision = time.Time{}, 2
		m.tokens[id], m.revision = before, 2
		m.mu.Unlock()
		time.Sleep(time.Second)
		if _, err := c.Authenticate(later); !errors.Is(err, principal.ErrUnknown) || !p.Session.Ended() {
			t.Errorf("a token that is no longer there: %v, ended %v; want it unknown, and its session ended", err, p.Session.Ended())
		}
		for _, text := range []string{old, back} {
			if got, err := c.Authenticate(text); err != nil || got.Session.Ended() {
				t.Errorf("a token of the older database: %v, want it good", err)
			}
		}
	})
}

// The race: a request reads the copy from before a revocation, and asks for a session after it. It must not get one that goes on.
func TestSessionsBegunDuringARevocationEnd(t *testing.T) {
	m := newMemory()
	c := NewCache(func(context.Context) (Store, error) { return m, nil }, slog.New(slog.DiscardHandler), nil)
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	on, _ := c.connected()
	for i := range 50 {
		text, id := m.add(t, fmt.Sprint("t", i), time.Time{})
		if err := on.snapshot.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		got := make(chan *principal.Session, 1000)
		for range 4 {
			wg.Go(func() {
				for range 200 {
					if p, err := c.Authenticate(text); err == nil {
						got <- p.Session
					}
				}
			})
		}
		m.revoke(t, id)
		if err := on.snapshot.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		close(got)
		for s := range got {
			if !s.Ended() {
				t.Fatal("a session goes on although its token was revoked")
			}
		}
	}
}

// What was noted while the database was away is written later, and what hasn't changed isn't written again.
func TestUsesAreWrittenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		text, id := m.add(t, "ci", time.Time{})
		c := runCache(t, m)
		file := &File{}
		u := NewUses(c, file)
		p, err := c.Authenticate(text)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now()
		p.LastUse.Note(at, "192.0.2.1")
		file.lastUse.Note(at, "192.0.2.2")
		m.setAway(errAway)
		if err := u.Flush(t.Context()); !errors.Is(err, errAway) {
			t.Errorf("got %v, want the store's error", err)
		}
		m.setAway(nil)
		if err := u.Flush(t.Context()); err != nil || m.uses[id].From != "192.0.2.1" || !m.uses[id].At.Equal(at) || m.uses[InitName].From != "192.0.2.2" {
			t.Errorf("got %v, %v; want both uses", m.uses, err)
		}
		m.uses = map[string]principal.Use{}
		if err := u.Flush(t.Context()); err != nil || len(m.uses) != 0 {
			t.Errorf("got %v, %v; want nothing written again", m.uses, err)
		}
		p.LastUse.Note(at.Add(10*time.Millisecond), "192.0.2.1")
		p.LastUse.Note(at.Add(20*time.Millisecond), "192.0.2.3")
		if err := u.Flush(t.Context()); err != nil || m.uses[id].From != "192.0.2.3" {
			t.Errorf("got %v, %v; want the use from another address", m.uses, err)
		}
	})
}

// BenchmarkAuthenticate is design.md's number: ten thousand tokens cost what ten cost.
func BenchmarkAuthenticate(b *testing.B) {
	for _, n := range []int{1, 10, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := newMemory()
			var texts []string
			for i := range n {
				text, _ := m.add(b, fmt.Sprint("t", i), time.Time{})
				texts = append(texts, text)
			}
			c := NewCache(func(context.Context) (Store, error) { return m, nil }, slog.New(slog.DiscardHandler), nil)
			if err := c.Connect(b.Context()); err != nil {
				b.Fatal(err)
			}
			go c.Run(b.Context())
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, err := c.Authenticate(texts[i%n]); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}
