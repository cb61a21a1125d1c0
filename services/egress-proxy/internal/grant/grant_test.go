package grant

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
)

// memory is a Store whose database is out of reach at will.
type memory struct {
	mu       sync.Mutex
	down     error
	revision int64
	grants   map[string]Grant
}

func (m *memory) Revision(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.revision, m.down
}

func (m *memory) Load(context.Context) ([]Grant, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.grants)), m.revision, m.down
}

func (m *memory) Update(_ context.Context, id string, change func(*Grant) (*Grant, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return m.down
	}
	var old *Grant
	if g, ok := m.grants[id]; ok {
		old = &g
	}
	next, err := change(old)
	if err != nil {
		return err
	}
	m.revision++
	delete(m.grants, id)
	if next != nil {
		next.Revision = m.revision
		m.grants[id] = *next
	}
	return nil
}

func (m *memory) set(down error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
}

// gates knows the packs "p" and "q"; "m" is modified.
type gates struct{ stale bool }

func (g gates) Now(_ context.Context, id string) (gate.State, bool) { return g.Get(id) }

func (g gates) Get(id string) (gate.State, bool) {
	for _, s := range g.All() {
		if s.PackID == id {
			return s, true
		}
	}
	return gate.State{}, false
}

func (gates) All() []gate.State {
	return []gate.State{{PackID: "p", Open: true, Status: "approved"}, {PackID: "q", Status: "pending"}, {PackID: "m", Status: "modified"}}
}

func (g gates) Fresh() bool                         { return !g.stale }
func (gates) CatchUp(context.Context, string) error { return nil }

type entries struct {
	list []audit.Entry
	fail error
}

func (e *entries) Write(_ context.Context, entry audit.Entry) error {
	if e.fail == nil {
		e.list = append(e.list, entry)
	}
	return e.fail
}

type office struct {
	*Service
	store   *memory
	log     *entries
	mu      sync.Mutex
	shrunk  []string
	refresh func() // what Follow does when it is time
}

func newOffice(t *testing.T) *office {
	o := &office{store: &memory{grants: map[string]Grant{}}, log: &entries{}}
	book, err := NewBook(t.Context(), o.store, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	book.OnShrink(func(id string) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.shrunk = append(o.shrunk, id)
	})
	o.Service = NewService(book, gates{}, o.log)
	o.refresh = func() {
		if began := time.Now(); book.look(context.Background()) == nil {
			book.follower.Heard(began)
		}
	}
	return o
}

// hasShrunk are the packs that were told of since the last call.
func (o *office) hasShrunk() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	ids := o.shrunk
	o.shrunk = nil
	return ids
}

func wish(domains string, ports ...int) Wish {
	return Wish{AllowedDomains: strings.Fields(domains), AllowedPorts: ports}
}

func (o *office) check(id, domain string, port uint16) string {
	d := o.decide(id, domain, port)
	if d.Allowed != (d.Reason == ReasonGranted) {
		return "allowed and reason disagree: " + d.Reason
	}
	return d.Reason
}

// A grant is absent, in force, revoked or expired; each verb in each state.
func TestStatesAndVerbs(t *testing.T) {
	prepare := map[string]func(*office){
		"absent":  func(*office) {},
		"granted": func(o *office) { o.Grant(context.Background(), "p", wish("x.com", 443)) },
		"revoked": func(o *office) {
			o.Grant(context.Background(), "p", wish("x.com", 443))
			o.Revoke(context.Background(), "p", "r")
		},
		"expired": func(o *office) {
			w := wish("x.com", 443)
			w.ExpiresAt = time.Now().Add(time.Minute)
			o.Grant(context.Background(), "p", w)
			time.Sleep(time.Minute)
		},
	}
	tests := []struct {
		state, verb string
		did         bool // the verb says that it did something, and left an entry
		then        string
	}{
		{"absent", "check", false, ReasonNone}, {"absent", "grant", true, ReasonGranted}, {"absent", "revoke", false, ReasonNone}, {"absent", "remove", false, ReasonNone},
		{"granted", "check", false, ReasonGranted}, {"granted", "grant", true, ReasonGranted}, {"granted", "revoke", true, ReasonDisabled}, {"granted", "remove", true, ReasonNone},
		{"revoked", "check", false, ReasonDisabled}, {"revoked", "grant", true, ReasonGranted}, {"revoked", "revoke", false, ReasonDisabled}, {"revoked", "remove", false, ReasonNone},
		{"expired", "check", false, ReasonDisabled}, {"expired", "grant", true, ReasonGranted}, {"expired", "revoke", false, ReasonDisabled}, {"expired", "remove", false, ReasonNone},
	}
	for _, tt := range tests {
		t.Run(tt.state+" "+tt.verb, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOffice(t)
				prepare[tt.state](o)
				o.refresh()
				o.log.list = nil
				o.hasShrunk()
				before, _ := o.book.Get("p")
				time.Sleep(time.Second)
				did, err := false, error(nil)
				switch tt.verb {
				case "grant":
					_, err = o.Grant(t.Context(), "p", wish("x.com", 443))
					did = true
				case "revoke":
					did, err = o.Revoke(t.Context(), "p", "r")
				case "remove":
					did, err = o.Remove(t.Context(), "p")
				}
				if err != nil || did != tt.did || len(o.log.list) != map[bool]int{true: 1}[tt.did] {
					t.Errorf("did %v, %v, entries %+v", did, err, o.log.list)
				}
				if got := o.check("p", "x.com", 443); got != tt.then {
					t.Errorf("then: %s, want %s", got, tt.then)
				}
				after, ok := o.book.Get("p")
				if ok && tt.verb == "grant" && after.GrantedAt.Equal(before.GrantedAt) != (tt.state == "granted") {
					t.Errorf("granted at %v, before %v", after.GrantedAt, before.GrantedAt)
				}
				if lost := tt.state == "granted" && (tt.verb == "revoke" || tt.verb == "remove"); lost != slices.Contains(o.hasShrunk(), "p") && tt.verb != "remove" {
					t.Error("those who must know were not told, or for nothing")
				}
			})
		})
	}
}

func TestDecisions(t *testing.T) {
	o := newOffice(t)
	for id, w := range map[string]Wish{"p": wish("API.x.com *.y.com bücher.example 1.2.3.4", 443, 8443), "q": wish("*", 0)} {
		if _, err := o.Grant(t.Context(), id, w); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		id, domain string
		port       uint16
		want       string
	}{
		{"p", "api.x.com", 443, ReasonGranted}, {"p", "API.X.COM.", 8443, ReasonGranted}, {"p", "a.b.y.com", 443, ReasonGranted},
		{"p", "BÜCHER.example", 443, ReasonGranted}, {"p", "xn--bcher-kva.example", 443, ReasonGranted}, {"p", "1.2.3.4", 443, ReasonGranted},
		{"p", "y.com", 443, "Domain 'y.com' not in allowed list"}, {"p", "Evily.com", 443, "Domain 'Evily.com' not in allowed list"},
		{"p", "a..b", 443, "Domain 'a..b' not in allowed list"}, {"p", "api.x.com", 80, "Port 80 not in allowed list"},
		{"p", "z.com", 80, "Domain 'z.com' not in allowed list"}, // the first that fits
		{"q", "anything.example", 1, ReasonGranted}, {"q", "::1", 1, "Domain '::1' not in allowed list"}, {"q", "[::1]", 1, ReasonGranted},
		{"q", "", 1, "Domain '' not in allowed list"}, {"q", "a b", 1, "Domain 'a b' not in allowed list"},
		{"m", "x.com", 443, ReasonModified}, {"never", "x.com", 443, ReasonNone},
	}
	for _, tt := range tests {
		if got := o.check(tt.id, tt.domain, tt.port); got != tt.want {
			t.Errorf("%s %s:%d: %s, want %s", tt.id, tt.domain, tt.port, got, tt.want)
		}
	}
	for _, w := range []Wish{wish("x.com"), wish("", 443)} { // an empty list denies
		if _, err := o.Grant(t.Context(), "p", w); err != nil {
			t.Fatal(err)
		}
		if got := o.check("p", "x.com", 443); got == ReasonGranted {
			t.Errorf("%+v grants", w)
		}
	}
}

func TestCheckIsAudited(t *testing.T) {
	o := newOffice(t)
	o.Grant(t.Context(), "p", wish("x.com", 443))
	o.log.list = nil
	for _, domain := range []string{"x.com", "y.com"} {
		if _, err := o.Service.Check(t.Context(), "p", domain, 443); err != nil {
			t.Fatal(err)
		}
	}
	if len(o.log.list) != 3 {
		t.Fatalf("entries %+v", o.log.list)
	}
	for i, want := range []struct {
		category audit.Category
		action   string
		success  bool
	}{{audit.Network, "network_request", true}, {audit.Security, "network_denied", false}, {audit.Network, "network_request", false}} {
		e := o.log.list[i]
		if e.Category != want.category || e.Action != want.action || e.Success != want.success || e.Details["check_type"] != "access_check" || e.Details["allowed"] != want.success {
			t.Errorf("entry %d: %+v", i, e)
		}
	}
}

// An access check of a modified pack is written down with the reason that its requests have.
func TestCheckOfAModifiedPack(t *testing.T) {
	o := newOffice(t)
	for packID, want := range map[string]string{"p": Denied, "m": "pack_modified"} {
		o.log.list = nil
		if d, err := o.Service.Check(t.Context(), packID, "x.com", 443); err != nil || d.Allowed {
			t.Fatal(d, err)
		}
		for _, e := range o.log.list {
			if got := e.Details["blocked_reason"]; got != want {
				t.Errorf("%s: %s has the reason %v, want %s", packID, e.Action, got, want)
			}
		}
	}
}

// A grant that another version wrote, and this one can't read, allows nothing; the others are as good as ever.
func TestGrantsThatCannotBeRead(t *testing.T) {
	o := newOffice(t)
	o.Grant(t.Context(), "p", wish("x.com", 443))
	o.Grant(t.Context(), "q", wish("x.com", 443))
	o.hasShrunk()
	if err := o.store.Update(t.Context(), "p", func(old *Grant) (*Grant, error) {
		old.AllowedDomains = []string{"x.com", "x.com/path of a later version"}
		return old, nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := o.book.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	if got := o.hasShrunk(); !slices.Equal(got, []string{"p"}) {
		t.Errorf("shrunk %v", got)
	}
	fresh, err := NewBook(t.Context(), o.store, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, book := range []*Book{o.book, fresh} {
		host, _ := hostname.Parse("x.com")
		if d := book.Check("p", host, "x.com", 443); d.Reason != ReasonDisabled {
			t.Errorf("the one that can't be read: %+v", d)
		}
		if d := book.Check("q", host, "x.com", 443); !d.Allowed {
			t.Errorf("the other: %+v", d)
		}
		if g, ok := book.Get("p"); !ok || g.Enabled {
			t.Errorf("shown as %+v", g)
		}
	}
	if revoked, err := o.Revoke(t.Context(), "p", ""); err != nil || !revoked {
		t.Errorf("revoke: %v, %v", revoked, err)
	}
	if _, err := o.Grant(t.Context(), "p", wish("x.com", 443)); err != nil || o.check("p", "x.com", 443) != ReasonGranted {
		t.Errorf("granted again: %v, %s", err, o.check("p", "x.com", 443))
	}
}

func TestNoChangeWithoutAnEntry(t *testing.T) {
	o := newOffice(t)
	o.Grant(t.Context(), "p", wish("x.com", 443))
	o.log.fail = errors.New("disk full")
	if _, err := o.Grant(t.Context(), "p", wish("*", 0)); err == nil {
		t.Error("granted without an entry")
	}
	if _, err := o.Revoke(t.Context(), "p", ""); err == nil {
		t.Error("revoked without an entry")
	}
	if _, err := o.Service.Check(t.Context(), "p", "x.com", 443); err == nil {
		t.Error("checked without an entry")
	}
	o.book.Refresh(t.Context())
	if got := o.check("p", "x.com", 443) + o.check("p", "y.com", 443); got != ReasonGranted+"Domain 'y.com' not in allowed list" {
		t.Error(got)
	}
}

func TestWhoIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		if _, err := o.Grant(t.Context(), "never", wish("x.com", 443)); !fault.Is(err, fault.KindNotFound) {
			t.Errorf("grant: %v", err)
		}
		if _, err := o.Revoke(t.Context(), "never", ""); !fault.Is(err, fault.KindNotFound) {
			t.Errorf("revoke: %v", err)
		}
		if _, err := o.Grant(t.Context(), "q", wish("x.com", 443)); err != nil { // approved or not
			t.Error(err)
		}
		o.gates = gates{stale: true}
		if _, err := o.Grant(t.Context(), "never", wish("x.com", 443)); !fault.Is(err, fault.KindUnavailable) {
			t.Errorf("grant while approval is down: %v", err)
		}
		if revoked, err := o.Revoke(t.Context(), "q", ""); err != nil || !revoked {
			t.Errorf("revoke while approval is down: %v, %v", revoked, err)
		}
	})
}

func TestReplicasAndLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		o := newOffice(t)
		go o.book.Follow(ctx)
		defer synctest.Wait()
		defer cancel()

		other, err := NewBook(ctx, o.store, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		there := NewService(other, gates{}, &entries{})
		settle := func() { time.Sleep(followEvery + time.Millisecond); synctest.Wait() }
		there.Grant(ctx, "p", wish("x.com *.y.com", 443))
		settle()
		if got := o.check("p", "x.com", 443); got != ReasonGranted {
			t.Errorf("after a grant there: %s", got)
		}
		for _, step := range []struct {
			do     func()
			shrunk bool
		}{
			{func() { there.Grant(ctx, "p", wish("x.com *.y.com z.com", 443, 80)) }, false},
			{func() { there.Grant(ctx, "p", wish("x.com", 443, 80)) }, true},
			{func() { there.Grant(ctx, "p", wish("*", 443, 80)) }, false},
			{func() { there.Grant(ctx, "p", wish("*", 443)) }, true},
			{func() { there.Grant(ctx, "p", wish("*", 0)) }, false},
			{func() { w := wish("*", 0); w.ExpiresAt = time.Now().Add(time.Hour); there.Grant(ctx, "p", w) }, true},
			{func() { time.Sleep(time.Hour) }, true},
			{func() { there.Grant(ctx, "p", wish("x.com", 443)) }, false},
			{func() { there.Revoke(ctx, "p", "") }, true},
			{func() { there.Grant(ctx, "p", wish("x.com", 443)) }, false},
			{func() { there.Remove(ctx, "p") }, true},
		} {
			o.hasShrunk()
			step.do()
			settle()
			if got := o.hasShrunk(); (got != nil) != step.shrunk {
				t.Errorf("shrunk %v, want %v", got, step.shrunk)
			}
		}

		there.Grant(ctx, "p", wish("x.com", 443))
		settle()
		o.store.set(errors.New("database is down"))
		time.Sleep(store.Lease - time.Second)
		if got := o.check("p", "x.com", 443); got != ReasonGranted {
			t.Errorf("within the lease: %s", got)
		}
		time.Sleep(2 * time.Second)
		if got := o.check("p", "x.com", 443); got != ReasonUnknown {
			t.Errorf("after the lease: %s", got)
		}
		o.store.set(nil)
		settle()
		if got := o.check("p", "x.com", 443); got != ReasonGranted {
			t.Errorf("when it is back: %s", got)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	o := &office{store: &memory{grants: map[string]Grant{"p": wish("a.com b.com *.c.com x.com", 443).Apply("p", nil, time.Now())}}}
	book, err := NewBook(context.Background(), o.store, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	go book.Follow(b.Context())
	host, _ := hostname.Parse("x.com")
	b.ReportAllocs()
	for b.Loop() {
		if !book.Check("p", host, "x.com", 443).Allowed {
			b.Fatal("denied")
		}
	}
}
