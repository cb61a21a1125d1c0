package token

import (
	"context"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/libs/statecount"
	"github.com/rumi-ai/rumi/libs/store/snapshot"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
)

const (
	// followInterval is how often the store is asked whether another gateway changed something. A token that is revoked at one must be refused by
	// every other within a second, and its streams must have ended.
	followInterval = 100 * time.Millisecond
	// enforceInterval is how often it is checked whether the copy is still fresh.
	enforceInterval = 200 * time.Millisecond
	// connectInterval is the pause between two attempts to open the store.
	connectInterval = time.Second
	// connectTimeout bounds one attempt. It holds the start of a gateway whose database hangs, so it is not long.
	connectTimeout = 10 * time.Second
)

// Cache is this gateway's copy of all tokens. Authenticate reads an immutable snapshot: it takes no lock and asks nobody, so ten thousand tokens
// cost what one costs. It is safe for concurrent use. Use NewCache, and Run.
//
// While the store doesn't answer, the copy is used for snapshot.Lease (5 s). After that no token of the store is admitted, and its streams are
// cut: the token may have been revoked at another gateway meanwhile. init's file isn't in the store, and works on.
type Cache struct {
	connect func(context.Context) (Store, error)
	log     *slog.Logger
	metrics prometheus.Registerer
	on      atomic.Pointer[connection] // nil until the store has been opened
}

// connection is the open store and the copy of its tokens.
type connection struct {
	store    Store
	snapshot *snapshot.Snapshot[*tokens]
}

// tokens are all tokens. They are never changed once they are the snapshot's value, but for their sessions and last uses.
type tokens struct {
	byID     map[string]*entry
	revision int64       // of the store
	next     time.Time   // when the next secret expires; zero for never
	ended    []*sessions // of the secrets that are no longer good
}

// entry is a token with its secrets, the newest first.
type entry struct {
	token   Token
	lineage string // as origin.Origin has it
	secrets []*secret
	lastUse *principal.LastUse
}

// secret is one that a token has, or had before a rotation.
type secret struct {
	hash     hash
	until    time.Time // zero for never
	sessions *sessions
}

// sessions are the principals' under way with one secret.
type sessions struct {
	current atomic.Pointer[principal.Session]
}

// over is the session of secrets that will never be good again.
var over = func() *principal.Session { s := principal.NewSession(); s.End(); return s }()

// get is the session that requests hold from now on.
func (s *sessions) get() *principal.Session {
	for {
		if now := s.current.Load(); now != nil {
			return now
		}
		s.current.CompareAndSwap(nil, principal.NewSession())
	}
}

// cut ends what is under way; what comes after may begin again.
func (s *sessions) cut() { s.swap(nil) }

// finish ends what is under way, and what may come after: a request that has read the copy before this one.
func (s *sessions) finish() { s.swap(over) }

func (s *sessions) swap(next *principal.Session) {
	for {
		now := s.current.Load()
		if now == over {
			return
		}
		if s.current.CompareAndSwap(now, next) {
			now.End()
			return
		}
	}
}

// Count counts the tokens in memory by state; ok is false before the store was opened.
func (c *Cache) Count() (counts statecount.Counts, ok bool) {
	on := c.on.Load()
	if on == nil {
		return nil, false
	}
	counts, now := make(statecount.Counts), time.Now()
	for _, e := range on.snapshot.Value().byID {
		counts[string(e.token.State(now))]++
	}
	return counts, true
}

// NewCache makes a cache. connect opens the store; Run calls it again until it succeeds. metrics may be nil.
func NewCache(connect func(context.Context) (Store, error), log *slog.Logger, metrics prometheus.Registerer) *Cache {
	return &Cache{connect: connect, log: log, metrics: metrics}
}

// Authenticate implements principal.Authenticator. A text that doesn't have the form of a token, or has a wrong checksum, is unknown before
// anything is looked up.
func (c *Cache) Authenticate(text string) (principal.Principal, error) {
	id, presented, ok := parse(text)
	if !ok {
		return principal.Principal{}, principal.ErrUnknown
	}
	on := c.on.Load()
	if on == nil {
		return principal.Principal{}, unavailable()
	}
	e := on.snapshot.Value().byID[id]
	if e == nil {
		return principal.Principal{}, principal.ErrUnknown
	}
	s := e.find(presented)
	if s == nil {
		return principal.Principal{}, principal.ErrUnknown
	}
	now := time.Now()
	if reason := e.refusal(s, now); reason != "" {
		return principal.Principal{}, &principal.RefusedError{Name: e.token.Name, Reason: reason}
	}
	if !on.snapshot.Fresh(now) {
		return principal.Principal{}, unavailable()
	}
	return principal.Principal{
		Name: e.token.Name, Role: e.token.Role, Scopes: e.token.Scopes, Lineage: e.lineage, TokenID: id, Expires: s.until,
		Session: s.sessions.get(), LastUse: e.lastUse,
	}, nil
}

// unavailable is the answer while nobody knows whether a token is good.
func unavailable() error {
	return fault.Unavailable("API tokens can't be checked: the gateway's database does not answer. Until it does, use the token in user_data/settings/api_token").
		With("tokens_unavailable").After(time.Second)
}

// find compares a hash with those of the token, in constant time.
func (e *entry) find(presented hash) *secret {
	var found *secret
	for _, s := range e.secrets {
		if subtle.ConstantTimeCompare(presented[:], s.hash[:]) == 1 {
			found = s
		}
	}
	return found
}

// refusal is why a right secret is no longer good, "" where it is.
func (e *entry) refusal(s *secret, now time.Time) string {
	switch state := e.token.State(now); {
	case state == Damaged:
		return "the record of the token can't be read"
	case state == Revoked:
		return "the token was revoked"
	case state == Expired:
		return "the token has expired"
	case !s.until.IsZero() && !now.Before(s.until):
		return "the token was rotated, and this is its old secret"
	}
	return ""
}

// load reads the tokens that have changed since before, and takes the others over: with ten thousand tokens, a change costs little more than with
// ten.
func (c *Cache) load(from Store) func(context.Context, *tokens) (*tokens, int64, error) {
	return func(ctx context.Context, before *tokens) (*tokens, int64, error) {
		if before == nil {
			before = &tokens{}
		}
		changed, revision, err := from.Tokens(ctx, before.revision)
		if err != nil {
			return nil, 0, fmt.Errorf("read API tokens: %w", err)
		}
		next := &tokens{revision: revision}
		if revision >= before.revision {
			next.byID = maps.Clone(before.byID)
		} else if changed, next.revision, err = from.Tokens(ctx, 0); err != nil { // an older database was put back: all is read anew
			return nil, 0, fmt.Errorf("read API tokens: %w", err)
		}
		if next.byID == nil {
			next.byID = make(map[string]*entry, len(changed))
		}
		for i := range changed {
			t := &changed[i]
			next.byID[t.ID] = newEntry(*t, before.byID[t.ID])
			if t.Unreadable != "" {
				c.log.ErrorContext(ctx, "the record of an API token can't be read; the token is refused", "token", t.Name, "error", t.Unreadable)
			}
		}
		next.compare(before)
		return next, next.revision, nil
	}
}

// compare notes what is no longer good that was in before, and when the next secret expires.
func (t *tokens) compare(before *tokens) {
	for id, old := range before.byID {
		if now := t.byID[id]; now != old {
			t.dropped(old, now)
		}
	}
	now := time.Now()
	for _, e := range t.byID {
		t.watch(e, now)
	}
}

// newEntry makes an entry. A secret that the entry before has, too, keeps its sessions, unless they were ended for good: then an older database was
// put back, in which the token is good again.
func newEntry(t Token, before *entry) *entry {
	e := &entry{token: t, lineage: strings.Join(t.Lineage, ","), lastUse: &principal.LastUse{}}
	if before != nil {
		e.lastUse = before.lastUse
	}
	add := func(text string, until time.Time) {
		h, ok := parseHash(text)
		if !ok {
			return
		}
		s := &secret{hash: h, until: until, sessions: &sessions{}}
		if before != nil {
			if same := before.find(h); same != nil && same.sessions.current.Load() != over {
				s.sessions = same.sessions
			}
		}
		e.secrets = append(e.secrets, s)
	}
	add(t.Hash, t.ExpiresAt)
	if old := t.OldUntil; t.OldHash != "" {
		if !t.ExpiresAt.IsZero() && t.ExpiresAt.Before(old) {
			old = t.ExpiresAt
		}
		add(t.OldHash, old)
	}
	return e
}

// dropped notes the secrets of an entry that its successor, nil for none, no longer has.
func (t *tokens) dropped(before, after *entry) {
	if before == nil {
		return
	}
	for _, s := range before.secrets {
		if after == nil || after.find(s.hash) == nil {
			t.ended = append(t.ended, s.sessions)
		}
	}
}

// watch notes which secrets are no longer good, and when the next one ends.
func (t *tokens) watch(e *entry, now time.Time) {
	for _, s := range e.secrets {
		switch {
		case e.refusal(s, now) != "":
			t.ended = append(t.ended, s.sessions)
		case !s.until.IsZero() && (t.next.IsZero() || s.until.Before(t.next)):
			t.next = s.until
		}
	}
}

// published ends what is under way with secrets that are no longer good.
func published(all *tokens) {
	for _, s := range all.ended {
		s.finish()
	}
}

// Connect opens the store and reads all tokens, unless that has been done. A gateway calls it once before it serves, so that tokens work from its
// first answer; where it fails, Run goes on.
func (c *Cache) Connect(ctx context.Context) error {
	if c.on.Load() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	from, err := c.connect(ctx)
	if err != nil {
		return err
	}
	copied, err := snapshot.Open(ctx, snapshot.Config[*tokens]{
		Name: "API tokens", Interval: followInterval, Log: c.log, Revision: from.Revision, Load: c.load(from), Published: published,
		Propagation: snapshot.NewPropagation(c.metrics, "api_tokens", from.Changed),
		Expired:     func(all *tokens, now time.Time) bool { return !all.next.IsZero() && !now.Before(all.next) },
	})
	if err != nil {
		return err
	}
	c.on.Store(&connection{from, copied})
	return nil
}

// Run keeps the copy up to what other gateways change, until ctx ends.
func (c *Cache) Run(ctx context.Context) error {
	for c.Connect(ctx) != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(connectInterval):
		}
	}
	on := c.on.Load()
	return on.snapshot.Follow(ctx)
}

// Enforce cuts the streams of all tokens whenever the copy is no longer fresh, until ctx ends.
func (c *Cache) Enforce(ctx context.Context) error {
	return periodic.Run(ctx, enforceInterval, func(context.Context) {
		on := c.on.Load()
		if on == nil || on.snapshot.Fresh(time.Now()) {
			return
		}
		for _, e := range on.snapshot.Value().byID {
			for _, s := range e.secrets {
				s.sessions.cut()
			}
		}
	})
}

// Ready is the reason why no token of the store is accepted, nil where they are.
func (c *Cache) Ready() error {
	if on := c.on.Load(); on == nil || !on.snapshot.Fresh(time.Now()) {
		return unavailable()
	}
	return nil
}

// connected is the open store with the copy, or the fault that there is none.
func (c *Cache) connected() (*connection, error) {
	if on := c.on.Load(); on != nil {
		return on, nil
	}
	return nil, fault.StoreUnavailable("gateway").After(time.Second)
}
