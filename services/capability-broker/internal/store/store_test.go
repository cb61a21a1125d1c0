package store_test

import (
	"context"
	"errors"
	"io/fs"
	"reflect"
	"testing"
	"testing/fstest"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/candidate"
	dbstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/store"
)

var errRefused = errors.New("refused")

func suite(t *testing.T, test func(t *testing.T, ctx context.Context, mine, other *store.Store)) {
	storetest.Run(t, candidate.Migrations(store.Migrations()), func(t *testing.T, open func() *dbstore.DB) {
		test(t, t.Context(), store.New(open()), store.New(open()))
	})
}

func TestGrants(t *testing.T) {
	suite(t, func(t *testing.T, ctx context.Context, mine, other *store.Store) {
		at := time.Date(2027, 1, 2, 3, 4, 5, 6000, time.UTC)
		uses, rate, memory, no := int64(3), 5, int64(64), false
		terms := grant.Terms{MaxUses: &uses, RateLimit: &rate, ArgsSchema: jsontext.Value(`{"type":"object"}`),
			Handler: &grant.HandlerRef{PackID: "q", Slug: "s"}, Limits: &grant.Limits{MemoryMB: &memory},
			Mounts: []grant.Mount{{Source: "/srv", Target: "/mnt", ReadOnly: &no}}}
		g := grant.Grant{PrincipalID: "p", PermissionID: "a.b", Enabled: true, Config: jsontext.Value(`{"x":"é"}`),
			ExpiresAt: at.Add(time.Hour), GrantedAt: at, UpdatedAt: at, GrantedBy: "operator", Terms: terms}
		put := func(next *grant.Grant, err error) error {
			return mine.Apply(ctx, "p", "a.b", func(*grant.Grant) (*grant.Grant, error) { return next, err })
		}
		before, err := other.Revision(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := put(&g, errRefused); !errors.Is(err, errRefused) {
			t.Fatalf("the refused change gives %v, want its refusal", err)
		}
		if err := put(nil, nil); err != nil {
			t.Fatal(err)
		}
		if list, revision, err := other.Grants(ctx); err != nil || len(list) != 0 || revision != before {
			t.Fatalf("after changes that were none: %v, %d, %v; want no grants and the revision before", list, revision, err)
		}
		if err := put(&g, nil); err != nil {
			t.Fatal(err)
		}
		list, revision, err := other.Grants(ctx)
		if err != nil || revision != before+1 || len(list) != 1 || !reflect.DeepEqual(list[0], g) {
			t.Fatalf("the other replica reads %+v at %d, %v; want %+v", list, revision, err, g)
		}
		err = other.Apply(ctx, "p", "a.b", func(found *grant.Grant) (*grant.Grant, error) {
			if found == nil || !reflect.DeepEqual(*found, g) {
				t.Errorf("the change is made of %+v, want of %+v", found, g)
			}
			found.Enabled, found.ExpiresAt, found.Terms = false, time.Time{}, grant.Terms{}
			return found, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if list, _, err := mine.Grants(ctx); err != nil || len(list) != 1 || list[0].Enabled || !list[0].ExpiresAt.IsZero() || !reflect.DeepEqual(list[0].Terms, grant.Terms{}) {
			t.Fatalf("after a change: %+v, %v; want one disabled grant without terms", list, err)
		}
		if err := mine.Remove(ctx, "p", func(int) error { return errRefused }); !errors.Is(err, errRefused) {
			t.Fatal(err)
		}
		for _, want := range []int{1, 0} {
			if err := mine.Remove(ctx, "p", func(n int) error {
				if n != want {
					t.Errorf("removes %d, want %d", n, want)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A use is counted in every grant or in none, only in the grant that it was decided by, and never beyond the last.
func TestUse(t *testing.T) {
	suite(t, func(t *testing.T, ctx context.Context, mine, other *store.Store) {
		at := time.Date(2027, 1, 2, 3, 4, 5, 6000, time.UTC)
		put := func(principal string, max int64, at time.Time) *grant.Grant {
			t.Helper()
			g := grant.Grant{PrincipalID: principal, PermissionID: "a.b", Enabled: true, Config: jsontext.Value(`{}`), GrantedAt: at, UpdatedAt: at,
				Terms: grant.Terms{MaxUses: &max}}
			if err := mine.Apply(ctx, principal, "a.b", func(*grant.Grant) (*grant.Grant, error) { return &g, nil }); err != nil {
				t.Fatal(err)
			}
			return &g
		}
		uses := func(want map[string]int64) {
			t.Helper()
			list, _, err := other.Grants(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range list {
				if g.Uses != want[g.PrincipalID] {
					t.Errorf("%s has %d uses, want %d", g.PrincipalID, g.Uses, want[g.PrincipalID])
				}
			}
		}
		use := func(s *store.Store, want grant.Reason, list ...*grant.Grant) {
			t.Helper()
			if got, _, err := s.Use(ctx, list); err != nil || got != want {
				t.Errorf("use: %q, %v, want %q", got, err, want)
			}
		}
		child, parent := put("p__c", 3, at), put("p", 2, at)
		revision, err := mine.Revision(ctx)
		if err != nil {
			t.Fatal(err)
		}
		use(mine, grant.Allowed, child, parent)
		use(other, grant.Allowed, parent)
		uses(map[string]int64{"p__c": 1, "p": 2})
		use(mine, grant.UsedUp, child, parent)
		use(mine, grant.UsedUp, parent, child)
		uses(map[string]int64{"p__c": 1, "p": 2})
		if now, err := other.Revision(ctx); err != nil || now != revision {
			t.Errorf("a use raised the revision from %d to %d, %v", revision, now, err)
		}

		renewed := put("p", 1, at.Add(time.Microsecond))
		use(other, grant.Changed, child, parent)
		uses(map[string]int64{"p__c": 1})
		use(other, grant.Allowed, child, renewed)
		uses(map[string]int64{"p__c": 2, "p": 1})
		if err := mine.Apply(ctx, "p__c", "a.b", func(g *grant.Grant) (*grant.Grant, error) { g.Enabled = false; return g, nil }); err != nil {
			t.Fatal(err)
		}
		use(other, grant.Disabled, child)
		uses(map[string]int64{"p__c": 2, "p": 1}) // a revoke forgets none
		if err := mine.Remove(ctx, "p__c", func(int) error { return nil }); err != nil {
			t.Fatal(err)
		}
		use(other, grant.None, child)
	})
}

func TestTrust(t *testing.T) {
	storetest.Run(t, candidate.Migrations(store.Migrations()), func(t *testing.T, open func() *dbstore.DB) {
		ctx, db := t.Context(), open()
		mine, other := store.New(db), store.New(open())
		a := handler.Trust{CandidateKey: "p:s:h:1", PackID: "p", Slug: "s", HandlerID: "h", PermissionID: "a.b", Entrypoint: "handler.py:execute",
			ScriptSHA256: "1", FolderDigest: "sha256:1", InstalledAt: time.Unix(1_800_000_000, 0).UTC(), InstalledBy: "operator"}
		b := a
		b.CandidateKey, b.FolderDigest, b.ConfigSchema = "p:s:h:2", "sha256:2", jsontext.Value(`{"type":"object"}`)
		twin := a
		twin.PackID = "q" // the same slug and handler of another pack is another handler
		put := func(next handler.Trust, confirm error) error {
			return db.Tx(ctx, func(tx *dbstore.Tx) error { return errors.Join(mine.PutTrust(tx, next), confirm) })
		}
		for _, next := range []handler.Trust{a, twin, b} {
			if err := put(next, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := put(a, errRefused); !errors.Is(err, errRefused) {
			t.Fatal(err)
		}
		list, revision, err := other.Trusts(ctx)
		if err != nil || !reflect.DeepEqual(list, []handler.Trust{b, twin}) {
			t.Fatalf("reads %+v, %v; want %+v", list, err, []handler.Trust{b, twin})
		}
		if now, err := mine.TrustRevision(ctx); err != nil || now != revision {
			t.Fatalf("revision %d, %v, want %d", now, err, revision)
		}
		for _, want := range []int{1, 0} {
			n := 0
			if err := mine.RemoveTrust(ctx, "p", func(removed []handler.Trust) error { n = len(removed); return nil }); err != nil || n != want {
				t.Fatalf("removed %d, %v; want %d", n, err, want)
			}
		}
		if list, _, err := other.Trusts(ctx); err != nil || !reflect.DeepEqual(list, []handler.Trust{twin}) {
			t.Fatalf("the other pack's trust is %+v, %v; want %+v", list, err, twin)
		}
	})
}

// A database of the first release keeps what was granted and trusted.
func TestUpgrade(t *testing.T) {
	first := fstest.MapFS{}
	all := candidate.Migrations(store.Migrations())
	for _, name := range []string{"00001_candidates.sql", "00100_capabilities.sql"} {
		text, err := fs.ReadFile(all, name)
		if err != nil {
			t.Fatal(err)
		}
		first[name] = &fstest.MapFile{Data: text}
	}
	open := func(t *testing.T, cfg dbstore.Config, migrations fs.FS) *dbstore.DB {
		t.Helper()
		db, err := dbstore.Open(t.Context(), cfg, migrations)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	for name, database := range map[string]func(t *testing.T) dbstore.Config{
		"sqlite":   func(t *testing.T) dbstore.Config { return dbstore.Config{Dir: t.TempDir(), Service: "test"} },
		"postgres": func(t *testing.T) dbstore.Config { return storetest.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := database(t)
			at := time.Unix(1_800_000_000, 0).UTC()
			if err := open(t, cfg, first).Tx(t.Context(), func(tx *dbstore.Tx) error {
				if _, err := tx.Exec(`INSERT INTO capability_grants VALUES ('p', 'a.b', 1, '{"x":1}', 0, ?, ?, 'operator')`, at, at); err != nil {
					return err
				}
				_, err := tx.Exec(`INSERT INTO capability_trust VALUES ('p', 's', 'k', 'h', 'a.b', 'handler.py:execute', '1', 'sha256:1', ?, 'operator')`, at)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			s := store.New(open(t, cfg, all))
			list, _, err := s.Grants(t.Context())
			if want := []grant.Grant{{PrincipalID: "p", PermissionID: "a.b", Enabled: true, Config: jsontext.Value(`{"x":1}`), GrantedAt: at,
				UpdatedAt: at, GrantedBy: "operator"}}; err != nil || !reflect.DeepEqual(list, want) {
				t.Errorf("the grants are %+v, %v; want %+v", list, err, want)
			}
			trusted, _, err := s.Trusts(t.Context())
			if want := []handler.Trust{{CandidateKey: "k", PackID: "p", Slug: "s", HandlerID: "h", PermissionID: "a.b", Entrypoint: "handler.py:execute",
				ScriptSHA256: "1", FolderDigest: "sha256:1", InstalledAt: at, InstalledBy: "operator"}}; err != nil || !reflect.DeepEqual(trusted, want) {
				t.Errorf("the trust is %+v, %v; want %+v", trusted, err, want)
			}
		})
	}
}
