package grant_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/policy"
	dbstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/snapshot"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/builtin"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/store"
)

func TestValidPermission(t *testing.T) {
	for permission, want := range map[string]bool{
		"fs.read": true, "a": true, "a_1.b.c9": true, "secrets.get": true, strings.Repeat("a", 128): true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "A.b": false, "a-b": false, "a.b\n": false, "a b": false,
		"ä": false, "a\x00": false, "../a": false, strings.Repeat("a", 129): false,
	} {
		if got := grant.ValidPermission(permission); got != want {
			t.Errorf("%q: %v, want %v", permission, got, want)
		}
	}
}

func TestReserved(t *testing.T) {
	for permission, want := range map[string]bool{
		"secrets.get": true, "secrets.x": true, "store.set": true, "secrets": false, "store": false, "secretsx.get": false, "fs.read": false,
	} {
		if got := grant.Reserved(permission); got != want {
			t.Errorf("%q: %v, want %v", permission, got, want)
		}
	}
}

func TestDecide(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		grant *grant.Grant
		want  grant.Reason
	}{
		"revoked":  {&grant.Grant{}, grant.Disabled},
		"endless":  {&grant.Grant{Enabled: true}, grant.Allowed},
		"running":  {&grant.Grant{Enabled: true, ExpiresAt: now.Add(1)}, grant.Allowed},
		"over now": {&grant.Grant{Enabled: true, ExpiresAt: now}, grant.Expired},
		"both":     {&grant.Grant{ExpiresAt: now}, grant.Disabled},
	} {
		if got := c.grant.Decide(now); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// log is an audit log that a test reads, and can make fail.
type log struct {
	mu      sync.Mutex
	entries []audit.Entry
	failing error
}

func (l *log) Write(_ context.Context, e audit.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failing != nil {
		return l.failing
	}
	l.entries = append(l.entries, e)
	return nil
}

type packs map[string]bool

// retired is a pack that is being uninstalled.
const retired = "retired"

func (p packs) Grantable(id string) error {
	return gate.State{PackID: id, Retired: id == retired}.Grantable()
}

func (p packs) Known(_ context.Context, id string) (bool, error) {
	if p == nil {
		return false, fault.Unavailable("Service unavailable: approval")
	}
	return p[id], nil
}

func open(t *testing.T) *store.Store {
	t.Helper()
	db, err := dbstore.Open(t.Context(), dbstore.Config{Dir: t.TempDir(), Service: "test"}, candidate.Migrations(store.Migrations()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return store.New(db)
}

func config(s grant.Store, p packs, l *log) grant.Config {
	return grant.Config{Store: s, Packs: p, Policy: policy.Fixed{Policy: policy.None()}, Audit: l, Log: discard,
		Permissions: builtin.NewTable(builtin.SecretsGet(nil, 0, discard))}
}

// decide is what the cache says of a principal's own grant now.
func decide(b *grant.Cache, principal, permission string) grant.Reason {
	_, reason := b.Chain(principal, permission).Decide(time.Now())
	return reason
}

func openCache(t *testing.T, s *store.Store, p packs, l *log) *grant.Cache {
	t.Helper()
	b, err := grant.Open(t.Context(), config(s, p, l))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRequests(t *testing.T) {
	l := &log{}
	b := openCache(t, open(t), packs{"p": true, retired: true}, l)
	past, future := time.Now().Add(-time.Hour).Format(time.RFC3339), time.Now().Add(time.Hour).Format(time.RFC3339)
	for name, c := range map[string]struct {
		request grant.Request
		kind    fault.Kind // of granting; KindInternal is success
		text    string
	}{
		"plain":             {grant.Request{PrincipalID: "p", PermissionID: "fs.read"}, 0, ""},
		"config":            {grant.Request{PrincipalID: "p", PermissionID: "fs.read", Config: jsontext.Value(`{"a": [1]}`)}, 0, ""},
		"null config":       {grant.Request{PrincipalID: "p", PermissionID: "fs.read", Config: jsontext.Value(`null`)}, 0, ""},
		"expiry":            {grant.Request{PrincipalID: "p", PermissionID: "fs.read", ExpiresAt: &future}, 0, ""},
		"secrets":           {grant.Request{PrincipalID: "p", PermissionID: "secrets.get", Config: jsontext.Value(`{"allowed_keys": ["A_1"]}`)}, 0, ""},
		"no principal":      {grant.Request{PermissionID: "fs.read"}, fault.KindInvalid, "Missing principal_id"},
		"no permission":     {grant.Request{PrincipalID: "p"}, fault.KindInvalid, "Missing permission_id"},
		"bad principal":     {grant.Request{PrincipalID: "p\n", PermissionID: "fs.read"}, fault.KindInvalid, "Invalid principal_id"},
		"path as principal": {grant.Request{PrincipalID: "../p", PermissionID: "fs.read"}, fault.KindInvalid, "Invalid principal_id"},
		"bad permission":    {grant.Request{PrincipalID: "p", PermissionID: "FS"}, fault.KindInvalid, "Invalid permission_id"},
		"retired pack": {grant.Request{PrincipalID: retired, PermissionID: "fs.read"}, fault.KindConflict,
			"Cannot grant anything to pack 'retired': its uninstall is incomplete: repeat `DELETE /api/packs/retired`, unless another call is still at it"},
		"unknown pack":       {grant.Request{PrincipalID: "q", PermissionID: "fs.read"}, fault.KindNotFound, "Pack not found"},
		"config is a list":   {grant.Request{PrincipalID: "p", PermissionID: "fs.read", Config: jsontext.Value(`[]`)}, fault.KindInvalid, "'config' must be an object"},
		"huge config":        {grant.Request{PrincipalID: "p", PermissionID: "fs.read", Config: jsontext.Value(`{"a":"` + strings.Repeat("a", 64<<10) + `"}`)}, fault.KindInvalid, "too large"},
		"misspelt keys":      {grant.Request{PrincipalID: "p", PermissionID: "secrets.get", Config: jsontext.Value(`{"allowed_key": []}`)}, fault.KindInvalid, "allowed_keys"},
		"keys are a string":  {grant.Request{PrincipalID: "p", PermissionID: "secrets.get", Config: jsontext.Value(`{"allowed_keys": "A"}`)}, fault.KindInvalid, "allowed_keys"},
		"a key that is none": {grant.Request{PrincipalID: "p", PermissionID: "secrets.get", Config: jsontext.Value(`{"allowed_keys": ["A\n"]}`)}, fault.KindInvalid, "allowed_keys"},
		"expired already":    {grant.Request{PrincipalID: "p", PermissionID: "fs.read", ExpiresAt: &past}, fault.KindInvalid, "in the past"},
		"no time":            {grant.Request{PrincipalID: "p", PermissionID: "fs.read", ExpiresAt: new("tomorrow")}, fault.KindInvalid, "RFC 3339"},
		"an empty time":      {grant.Request{PrincipalID: "p", PermissionID: "fs.read", ExpiresAt: new("")}, fault.KindInvalid, "RFC 3339"},
		"the zero time":      {grant.Request{PrincipalID: "p", PermissionID: "fs.read", ExpiresAt: new("0001-01-01T00:00:00Z")}, fault.KindInvalid, "in the past"},
	} {
		_, err := b.Grant(t.Context(), c.request)
		if c.text == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !fault.Is(err, c.kind) || !strings.Contains(fault.Of(err).Message, c.text) {
			t.Errorf("%s: got %v, want %v that says %q", name, err, c.kind, c.text)
		}
	}
}

func TestGrantRevokeAndEntries(t *testing.T) {
	s, l := open(t), &log{}
	known := packs{"p": true, "q": true}
	b, other := openCache(t, s, known, l), openCache(t, s, nil, l)
	ctx := origin.With(t.Context(), origin.Origin{Actor: "operator"})
	r := grant.Request{PrincipalID: "p", PermissionID: "secrets.get", Config: jsontext.Value(`{"allowed_keys": ["A", "B"]}`)}
	if revoked, err := b.Revoke(ctx, r); err != nil || revoked {
		t.Fatalf("revoke of what isn't there: %v, %v; want false", revoked, err)
	}
	if _, err := b.Grant(ctx, r); err != nil {
		t.Fatal(err)
	}
	g := b.Chain("p", "secrets.get")[0]
	if decide(b, "p", "secrets.get") != grant.Allowed || g.GrantedBy != "operator" || len(g.Settings().Details()["allowed_keys"].([]string)) != 2 {
		t.Fatalf("the grant is %+v, want one of two keys, made by operator", g)
	}
	if decide(b, "q", "secrets.get") != grant.None || decide(b, "p", "secrets") != grant.None {
		t.Error("granted to others, too")
	}
	// Without an entry nothing is decided.
	l.failing = errors.New("disk full")
	if revoked, err := b.Revoke(ctx, r); err == nil || revoked || decide(b, "p", "secrets.get") != grant.Allowed {
		t.Fatalf("revoked without an entry: %v, %v; want an error, and the grant still there", revoked, err)
	}
	l.failing = nil
	for _, want := range []bool{true, false} {
		if revoked, err := b.Revoke(ctx, r); err != nil || revoked != want {
			t.Fatalf("revoke: %v, %v, want %v", revoked, err, want)
		}
	}
	if reason := decide(b, "p", "secrets.get"); reason != grant.Disabled {
		t.Errorf("after the revoke the reason is %q, want %q", reason, grant.Disabled)
	}
	for id, kind := range map[string]fault.Kind{"never": fault.KindNotFound} {
		if _, err := b.Revoke(ctx, grant.Request{PrincipalID: id, PermissionID: "a"}); !fault.Is(err, kind) {
			t.Errorf("revoke of %s: %v, want a fault of kind %v", id, err, kind)
		}
	}
	if _, err := other.Grant(ctx, r); !fault.Is(err, fault.KindUnavailable) {
		t.Errorf("grant while nobody knows the packs: %v, want a fault of kind unavailable", err)
	}
	if n, err := b.RemovePrincipal(ctx, "p"); err != nil || n != 1 || decide(b, "p", "secrets.get") != grant.None {
		t.Errorf("removed %d grants, %v; want 1", n, err)
	}
	var actions []string
	for _, e := range l.entries {
		actions = append(actions, e.Action)
		if e.Category != audit.Permission || e.Details["permission_type"] != "capability_grant" || e.OwnerPack != "p" {
			t.Errorf("the entry is %+v, want a permission's, of a capability grant of p", e)
		}
	}
	if got, want := strings.Join(actions, " "), "permission_grant permission_revoke permission_revoke"; got != want {
		t.Errorf("entries are %s, want %s", got, want)
	}
}

// counting is a store that only one replica writes and others follow.
type counting struct {
	grant.Store
	mu       sync.Mutex
	list     []grant.Grant
	revision int64
	failing  error
	asked    int
}

func (c *counting) Grants(context.Context) ([]grant.Grant, int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]grant.Grant(nil), c.list...), c.revision, c.failing
}

func (c *counting) Revision(context.Context) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	return c.revision, c.failing
}

func (c *counting) set(failing error, list ...grant.Grant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list, c.failing = list, failing
	c.revision++
}

func TestFollowWithin100ms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := &counting{}
		b, err := grant.Open(ctx, config(c, packs{}, &log{}))
		if err != nil {
			t.Fatal(err)
		}
		go b.Follow(ctx)
		seen := func() bool { time.Sleep(100 * time.Millisecond); return decide(b, "p", "a") == grant.Allowed }
		c.set(nil, grant.Grant{PrincipalID: "p", PermissionID: "a", Enabled: true})
		if !seen() {
			t.Error("a grant was not seen")
		}
		c.set(errors.New("down"))
		if !seen() {
			t.Error("a store that is down took grants away at once")
		}
		time.Sleep(snapshot.Lease)
		if got := decide(b, "p", "a"); got != grant.Unknown {
			t.Errorf("when the lease has run out the reason is %q, want %q", got, grant.Unknown)
		}
		c.set(nil, grant.Grant{PrincipalID: "p", PermissionID: "a", Enabled: true})
		if !seen() {
			t.Error("a store that is back did not give grants back")
		}
		c.set(nil)
		if seen() {
			t.Error("a revoke was not seen")
		}
		cancel()
		synctest.Wait()
	})
}

var discard = slog.New(slog.DiscardHandler)
