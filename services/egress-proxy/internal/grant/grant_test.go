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
	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/store/snapshot"
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

func (m *memory) Grants(context.Context) ([]Grant, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.grants)), m.revision, m.down
}

func (m *memory) Apply(_ context.Context, id string, change func(*Grant) (*Grant, error)) error {
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

func (g gates) GetLatest(_ context.Context, id string) (gate.State, bool) { return g.Get(id) }

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

type fixture struct {
	*Service
	store    *memory
	log      *entries
	mu       sync.Mutex
	narrowed []string
	refresh  func() // what Follow does when it is time
}

func newFixture(t *testing.T) *fixture {
	o := &fixture{store: &memory{grants: map[string]Grant{}}, log: &entries{}}
	cache, err := Open(t.Context(), o.store, policy.Fixed{Policy: policy.None()}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	cache.OnNarrow(func(id string) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.narrowed = append(o.narrowed, id)
	})
	o.Service = NewService(cache, gates{}, o.log)
	o.refresh = func() { _ = cache.snapshot.Compare(context.Background()) } // an error leaves the grants as they are, as in Follow
	return o
}

// takeNarrowed are the packs that were told of since the last call.
func (o *fixture) takeNarrowed() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	ids := o.narrowed
	o.narrowed = nil
	return ids
}

func request(domains string, ports ...int) Request {
	return Request{AllowedDomains: strings.Fields(domains), AllowedPorts: ports}
}

func (o *fixture) check(id, domain string, port uint16) string {
	d := o.decide(id, domain, port)
	if d.Allowed != (d.Reason == ReasonGranted) {
		return "allowed and reason disagree: " + d.Reason
	}
	return d.Reason
}

// A grant is absent, in force, revoked or expired; each verb in each state.
func TestStatesAndVerbs(t *testing.T) {
	prepare := map[string]func(*fixture){
		"absent":  func(*fixture) {},
		"granted": func(o *fixture) { o.Grant(context.Background(), "p", request("x.com", 443)) },
		"revoked": func(o *fixture) {
			o.Grant(context.Background(), "p", request("x.com", 443))
			o.Revoke(context.Background(), "p", "r")
		},
		"expired": func(o *fixture) {
			w := request("x.com", 443)
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
				o := newFixture(t)
				prepare[tt.state](o)
				o.refresh()
				o.log.list = nil
				o.takeNarrowed()
				before, _ := o.cache.Get("p")
				time.Sleep(time.Second)
				did, err := false, error(nil)
				switch tt.verb {
				case "grant":
					_, err = o.Grant(t.Context(), "p", request("x.com", 443))
					did = true
				case "revoke":
					did, err = o.Revoke(t.Context(), "p", "r")
				case "remove":
					did, err = o.Remove(t.Context(), "p")
				}
				if err != nil || did != tt.did || len(o.log.list) != map[bool]int{true: 1}[tt.did] {
					t.Errorf("did %v, %v, with the entries %+v; want %v, and an entry if it did", did, err, o.log.list, tt.did)
				}
				if got := o.check("p", "x.com", 443); got != tt.then {
					t.Errorf("then: %s, want %s", got, tt.then)
				}
				after, ok := o.cache.Get("p")
				if ok && tt.verb == "grant" && after.GrantedAt.Equal(before.GrantedAt) != (tt.state == "granted") {
					t.Errorf("granted at %v, before at %v; want the first time kept while the grant is there", after.GrantedAt, before.GrantedAt)
				}
				if lost := tt.state == "granted" && (tt.verb == "revoke" || tt.verb == "remove"); lost != slices.Contains(o.takeNarrowed(), "p") && tt.verb != "remove" {
					t.Error("those who must know were not told, or for nothing")
				}
			})
		})
	}
}

func TestDecisions(t *testing.T) {
	o := newFixture(t)
	for id, w := range map[string]Request{"p": request("API.x.com *.y.com bücher.example 1.2.3.4", 443, 8443), "q": request("*", 0)} {
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
	for _, w := range []Request{request("x.com"), request("", 443)} { // an empty list denies
		if _, err := o.Grant(t.Context(), "p", w); err != nil {
			t.Fatal(err)
		}
		if got := o.check("p", "x.com", 443); got == ReasonGranted {
			t.Errorf("%+v grants, want that it grants nothing", w)
		}
	}
}

func TestCheckIsAudited(t *testing.T) {
	o := newFixture(t)
	o.Grant(t.Context(), "p", request("x.com", 443))
	o.log.list = nil
	for _, domain := range []string{"x.com", "y.com"} {
		if _, err := o.Service.Check(t.Context(), "p", domain, 443); err != nil {
			t.Fatal(err)
		}
	}
	if len(o.log.list) != 3 {
		t.Fatalf("the entries are %+v, want three", o.log.list)
	}
	for i, want := range []struct {
		category audit.Category
		action   string
		success  bool
	}{{audit.Network, "network_request", true}, {audit.Security, "network_denied", false}, {audit.Network, "network_request", false}} {
		e := o.log.list[i]
		if e.Category != want.category || e.Action != want.action || e.Success != want.success || e.Details["check_type"] != "access_check" || e.Details["allowed"] != want.success {
			t.Errorf("entry %d is %+v, want %s of %s, success %v", i, e, want.action, want.category, want.success)
		}
	}
}

// An access check of a modified pack is written down with the reason that its requests have.
func TestCheckOfAModifiedPack(t *testing.T) {
	o := newFixture(t)
	for packID, want := range map[string]string{"p": Denied, "m": "pack_modified"} {
		o.log.list = nil
		if d, err := o.Service.Check(t.Context(), packID, "x.com", 443); err != nil || d.Allowed {
			t.Fatalf("the check of %s gives %+v, %v; want a denial", packID, d, err)
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
	o := newFixture(t)
	o.Grant(t.Context(), "p", request("x.com", 443))
	o.Grant(t.Context(), "q", request("x.com", 443))
	o.takeNarrowed()
	if err := o.store.Apply(t.Context(), "p", func(old *Grant) (*Grant, error) {
		old.AllowedDomains = []string{"x.com", "x.com/path of a later version"}
		return old, nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := o.cache.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	if got := o.takeNarrowed(); !slices.Equal(got, []string{"p"}) {
		t.Errorf("narrowed %v, want p once", got)
	}
	fresh, err := Open(t.Context(), o.store, policy.Fixed{Policy: policy.None()}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, cache := range []*Cache{o.cache, fresh} {
		host, _ := hostname.Parse("x.com")
		if d := cache.Check("p", host, "x.com", 443); d.Reason != ReasonDisabled {
			t.Errorf("the one that can't be read: %+v; want it disabled", d)
		}
		if d := cache.Check("q", host, "x.com", 443); !d.Allowed {
			t.Errorf("the other pack's check gives %+v, want it allowed", d)
		}
		if g, ok := cache.Get("p"); !ok || g.Enabled {
			t.Errorf("the grant that can't be read is shown as %+v, want it disabled", g)
		}
	}
	if revoked, err := o.Revoke(t.Context(), "p", ""); err != nil || !revoked {
		t.Errorf("the revocation: %v, %v; want true", revoked, err)
	}
	if _, err := o.Grant(t.Context(), "p", request("x.com", 443)); err != nil || o.check("p", "x.com", 443) != ReasonGranted {
		t.Errorf("granted again: %v, %s; want it granted", err, o.check("p", "x.com", 443))
	}
}

func TestNoChangeWithoutAnEntry(t *testing.T) {
	o := newFixture(t)
	o.Grant(t.Context(), "p", request("x.com", 443))
	o.log.fail = errors.New("disk full")
	if _, err := o.Grant(t.Context(), "p", request("*", 0)); err == nil {
		t.Error("granted without an entry")
	}
	if _, err := o.Revoke(t.Context(), "p", ""); err == nil {
		t.Error("revoked without an entry")
	}
	if _, err := o.Service.Check(t.Context(), "p", "x.com", 443); err == nil {
		t.Error("checked without an entry")
	}
	o.cache.Refresh(t.Context())
	if got := o.check("p", "x.com", 443) + o.check("p", "y.com", 443); got != ReasonGranted+"Domain 'y.com' not in allowed list" {
		t.Errorf("the reasons are %q, want x.com granted and y.com not in the list", got)
	}
}

func TestWhoIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newFixture(t)
		if _, err := o.Grant(t.Context(), "never", request("x.com", 443)); !fault.Is(err, fault.KindNotFound) {
			t.Errorf("the grant to an unknown pack: %v; want not found", err)
		}
		if _, err := o.Revoke(t.Context(), "never", ""); !fault.Is(err, fault.KindNotFound) {
			t.Errorf("the revocation of an unknown pack: %v; want not found", err)
		}
		if _, err := o.Grant(t.Context(), "q", request("x.com", 443)); err != nil { // approved or not
			t.Error(err)
		}
		o.gates = gates{stale: true}
		if _, err := o.Grant(t.Context(), "never", request("x.com", 443)); !fault.Is(err, fault.KindUnavailable) {
			t.Errorf("grant while approval is down: %v; want unavailable", err)
		}
		if revoked, err := o.Revoke(t.Context(), "q", ""); err != nil || !revoked {
			t.Errorf("revoke while approval is down: %v, %v; want true", revoked, err)
		}
	})
}

func TestReplicasAndLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		o := newFixture(t)
		go o.cache.Follow(ctx)
		defer synctest.Wait()
		defer cancel()

		other, err := Open(ctx, o.store, policy.Fixed{Policy: policy.None()}, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			t.Fatal(err)
		}
		there := NewService(other, gates{}, &entries{})
		settle := func() { time.Sleep(followInterval + time.Millisecond); synctest.Wait() }
		there.Grant(ctx, "p", request("x.com *.y.com", 443))
		settle()
		if got := o.check("p", "x.com", 443); got != ReasonGranted {
			t.Errorf("after a grant there: %s; want it granted here", got)
		}
		for _, step := range []struct {
			do       func()
			narrowed bool
		}{
			{func() { there.Grant(ctx, "p", request("x.com *.y.com z.com", 443, 80)) }, false},
			{func() { there.Grant(ctx, "p", request("x.com", 443, 80)) }, true},
			{func() { there.Grant(ctx, "p", request("*", 443, 80)) }, false},
			{func() { there.Grant(ctx, "p", request("*", 443)) }, true},
			{func() { there.Grant(ctx, "p", request("*", 0)) }, false},
			{func() { w := request("*", 0); w.ExpiresAt = time.Now().Add(time.Hour); there.Grant(ctx, "p", w) }, true},
			{func() { time.Sleep(time.Hour) }, true},
			{func() { there.Grant(ctx, "p", request("x.com", 443)) }, false},
			{func() { there.Revoke(ctx, "p", "") }, true},
			{func() { there.Grant(ctx, "p", request("x.com", 443)) }, false},
			{func() { there.Remove(ctx, "p") }, true},
		} {
			o.takeNarrowed()
			step.do()
			settle()
			if got := o.takeNarrowed(); (got != nil) != step.narrowed {
				t.Errorf("narrowed %v, want %v", got, step.narrowed)
			}
		}

		there.Grant(ctx, "p", request("x.com", 443))
		settle()
		o.store.set(errors.New("database is down"))
		time.Sleep(snapshot.Lease - time.Second)
		if got := o.check("p", "x.com", 443); got != ReasonGranted {
			t.Errorf("within the lease: %s; want it granted", got)
		}
		time.Sleep(2 * time.Second)
		if got := o.check("p", "x.com", 443); got != ReasonUnknown {
			t.Errorf("after the lease: %s; want it unknown", got)
		}
		o.store.set(nil)
		settle()
		if got := o.check("p", "x.com", 443); got != ReasonGranted {
			t.Errorf("when it is back: %s; want it granted", got)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	o := &fixture{store: &memory{grants: map[string]Grant{"p": request("a.com b.com *.c.com x.com", 443).Replace("p", nil, time.Now())}}}
	cache, err := Open(context.Background(), o.store, policy.Fixed{Policy: policy.None()}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		b.Fatal(err)
	}
	go cache.Follow(b.Context())
	host, _ := hostname.Parse("x.com")
	b.ReportAllocs()
	for b.Loop() {
		if !cache.Check("p", host, "x.com", 443).Allowed {
			b.Fatal("denied, want it granted")
		}
	}
}
