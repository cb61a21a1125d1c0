package store_test

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
	tokenstore "github.com/rumi-ai/rumi/services/gateway/internal/store"
	"github.com/rumi-ai/rumi/services/gateway/internal/token"
)

var now = time.Date(2026, 2, 3, 4, 5, 6, 789000, time.UTC)

func sample(id, name string) token.Token {
	return token.Token{
		ID: id, Name: name, Role: access.Operator, Notes: "why; 'quoted' ü",
		Scopes:  access.Scopes{{Verbs: []access.Pattern{"packs.approve"}, Packs: []string{"x"}}, {Verbs: []access.Pattern{"*.read"}}},
		Lineage: []string{"alice", "init"}, Hash: "aa", OldHash: "bb", OldUntil: now.Add(time.Minute),
		CreatedAt: now, CreatedBy: "alice", ExpiresAt: now.Add(time.Hour), RotatedAt: now.Add(time.Second), RotatedBy: "init",
		RevokedAt: now.Add(2 * time.Second), RevokedBy: "bob",
	}
}

func none() error { return nil }

func TestTokens(t *testing.T) {
	storetest.Run(t, tokenstore.Migrations, func(t *testing.T, open func() *store.DB) {
		ctx := context.Background()
		s, other := tokenstore.NewTokens(open()), tokenstore.NewTokens(open())
		load := func(s *tokenstore.Tokens) ([]token.Token, int64) {
			t.Helper()
			list, revision, err := s.Tokens(ctx, 0)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := s.Revision(ctx); err != nil || again != revision {
				t.Fatalf("the revision is %d, then %d, %v; want the same", revision, again, err)
			}
			return list, revision
		}
		want := sample("aaaaaaaaaaaa", "ci")
		if taken, err := s.Create(ctx, &want, none); taken || err != nil {
			t.Fatalf("create: taken %v, %v; want a token", taken, err)
		}
		plain := token.Token{ID: "bbbbbbbbbbbb", Name: "plain", Role: access.Viewer, CreatedAt: now.Add(time.Second)}
		if taken, err := s.Create(ctx, &plain, none); taken || err != nil {
			t.Fatalf("create: taken %v, %v; want a token", taken, err)
		}
		list, first := load(other)
		if len(list) != 2 || !reflect.DeepEqual(list[0], want) {
			t.Fatalf("got %+v, want two tokens, the first %+v", list, want)
		}
		if len(list[1].Scopes) != 0 || len(list[1].Lineage) != 0 || !list[1].ExpiresAt.IsZero() {
			t.Errorf("got %+v, want a token without scopes, lineage and expiry", list[1])
		}

		double := sample("cccccccccccc", "ci")
		called := false
		if taken, err := other.Create(ctx, &double, func() error { called = true; return nil }); !taken || err != nil || called {
			t.Errorf("a name that was used: taken %v, %v, audited %v; want it taken, and nothing audited", taken, err, called)
		}
		refusal := errors.New("no disk")
		third := sample("dddddddddddd", "third")
		if _, err := s.Create(ctx, &third, func() error { return refusal }); !errors.Is(err, refusal) {
			t.Errorf("got %v, want the audit log's error", err)
		}
		if _, err := s.Change(ctx, want.ID, func(t *token.Token) error { t.Name = "changed"; return refusal }); !errors.Is(err, refusal) {
			t.Errorf("got %v, want the error of change", err)
		}
		if list, revision := load(s); len(list) != 2 || list[0].Name != "ci" || revision != first {
			t.Errorf("got %+v, revision %d; want nothing changed, revision %d", list, revision, first)
		}

		if found, err := s.Change(ctx, want.ID, func(t *token.Token) error { t.Hash, t.OldHash = "cc", ""; return nil }); !found || err != nil {
			t.Fatalf("change: found %v, %v; want it changed", found, err)
		}
		list, revision := load(other)
		if list[0].Hash != "cc" || list[0].OldHash != "" || list[0].Revision != revision || revision <= first || list[1].Revision == revision {
			t.Errorf("got %+v, revision %d; want the changed token alone to have it", list, revision)
		}
		for since, want := range map[int64]int{0: 2, first: 1, revision: 0, revision + 1: 0} {
			if changed, is, err := s.Tokens(ctx, since); err != nil || len(changed) != want || is != revision {
				t.Errorf("since revision %d: %d tokens, revision %d, %v; want %d, revision %d", since, len(changed), is, err, want, revision)
			}
		}
		if found, err := s.Change(ctx, "zzzzzzzzzzzz", func(*token.Token) error { t.Error("change was called, want no call"); return nil }); found || err != nil {
			t.Errorf("an unknown id: found %v, %v; want neither", found, err)
		}
	})
}

// Two gateways that are asked for the same name at once make one token.
func TestNamesAreUniqueAmongGateways(t *testing.T) {
	storetest.Run(t, tokenstore.Migrations, func(t *testing.T, open func() *store.DB) {
		stores := []*tokenstore.Tokens{tokenstore.NewTokens(open()), tokenstore.NewTokens(open())}
		var wg sync.WaitGroup
		var mu sync.Mutex
		made := 0
		for i := range 10 {
			wg.Go(func() {
				one := sample("aaaaaaaaaaa"+string(rune('a'+i)), "ci")
				taken, err := stores[i%2].Create(context.Background(), &one, none)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if !taken {
					made++
				}
			})
		}
		wg.Wait()
		if made != 1 {
			t.Errorf("%d tokens were made of one name, want 1", made)
		}
	})
}

func TestUses(t *testing.T) {
	storetest.Run(t, tokenstore.Migrations, func(t *testing.T, open func() *store.DB) {
		ctx := context.Background()
		s := tokenstore.NewTokens(open())
		for _, uses := range []map[string]principal.Use{
			{"a": {At: now, From: "127.0.0.1"}, "init": {At: now, From: "::1"}},
			{"a": {At: now.Add(time.Second), From: "127.0.0.2"}, "init": {At: now.Add(-time.Second), From: "127.0.0.9"}}, // of another gateway, which saw init earlier
			{},
		} {
			if err := s.SaveUses(ctx, uses); err != nil {
				t.Fatal(err)
			}
		}
		want := map[string]principal.Use{"a": {At: now.Add(time.Second), From: "127.0.0.2"}, "init": {At: now, From: "::1"}}
		if got, err := s.Uses(ctx); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, %v; want %v", got, err, want)
		}
	})
}

// A row that can't be understood is that token's trouble alone. It must not pass for a token without scopes.
func TestDamagedRows(t *testing.T) {
	storetest.Run(t, tokenstore.Migrations, func(t *testing.T, open func() *store.DB) {
		ctx := context.Background()
		db := open()
		s := tokenstore.NewTokens(db)
		damages := []string{"scopes = '[{'", "scopes = '[{\"verbs\":[\"*\"],\"networks\":[\"10.0.0.0/8\"]}]'", "role = 'root'", "lineage = 'x'"}
		for i, damage := range damages {
			one := sample("aaaaaaaaaaa"+string(rune('a'+i)), "damaged"+string(rune('a'+i)))
			if _, err := s.Create(ctx, &one, none); err != nil {
				t.Fatal(err)
			}
			if err := db.Tx(ctx, func(tx *store.Tx) error {
				_, err := tx.Exec("UPDATE tokens SET "+damage+" WHERE id = ?", one.ID)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		whole := sample("zzzzzzzzzzzz", "whole")
		if _, err := s.Create(ctx, &whole, none); err != nil {
			t.Fatal(err)
		}
		list, _, err := s.Tokens(ctx, 0)
		if err != nil || len(list) != len(damages)+1 {
			t.Fatalf("got %d tokens, %v; want %d", len(list), err, len(damages)+1)
		}
		for _, one := range list {
			if got, want := one.Unreadable != "", one.Name != "whole"; got != want {
				t.Errorf("%s: unreadable %v (%s), want %v", one.Name, got, one.Unreadable, want)
			}
		}
	})
}
