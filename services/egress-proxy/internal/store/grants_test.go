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
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	grantstore "github.com/rumi-ai/rumi/services/egress-proxy/internal/store"
)

func TestGrants(t *testing.T) {
	storetest.Run(t, grantstore.Migrations, func(t *testing.T, open func() *store.DB) {
		ctx := context.Background()
		s := grantstore.NewGrants(open())
		now := time.Date(2026, 2, 3, 4, 5, 6, 789000, time.UTC)
		want := grant.Grant{
			PackID: "p", Enabled: true, AllowedDomains: []string{"*.x.com", "bücher.example"}, AllowedPorts: []int{443, 0},
			GrantedAt: now, UpdatedAt: now.Add(time.Second), GrantedBy: "operator", Notes: "why; 'quoted'", ExpiresAt: now.Add(time.Hour),
			PathRules: []grant.PathRule{
				{Domains: []string{"*.x.com"}, Methods: []string{"GET"}, PathPrefixes: []string{"/v1/ä"}},
				{Domains: []string{}, Methods: []string{"HEAD"}, PathPrefixes: []string{}},
			},
			AllowTunnel: true, Role: access.Operator,
		}
		put := func(g grant.Grant) {
			t.Helper()
			err := s.Apply(ctx, g.PackID, func(*grant.Grant) (*grant.Grant, error) { return &g, nil })
			if err != nil {
				t.Fatal(err)
			}
		}
		load := func(s *grantstore.Grants) (map[string]grant.Grant, int64) {
			t.Helper()
			list, revision, err := s.Grants(ctx)
			if err != nil {
				t.Fatal(err)
			}
			again, err := s.Revision(ctx)
			if err != nil || again != revision {
				t.Fatalf("the revision is %d, then %d, %v; want the same", revision, again, err)
			}
			grants := map[string]grant.Grant{}
			for _, g := range list {
				grants[g.PackID] = g
			}
			return grants, revision
		}
		if grants, revision := load(s); len(grants) != 0 || revision != 0 {
			t.Fatalf("a new store holds %v at %d", grants, revision)
		}
		put(want)
		want.Revision = 1
		other := grantstore.NewGrants(open())
		if grants, revision := load(other); !reflect.DeepEqual(grants, map[string]grant.Grant{"p": want}) || revision != 1 {
			t.Errorf("another process reads %+v at %d, want %+v", grants, revision, want)
		}
		put(grant.Grant{PackID: "q", AllowedDomains: []string{}, AllowedPorts: []int{}})
		if grants, revision := load(s); !reflect.DeepEqual(grants["p"], want) || grants["q"].Revision != 2 || grants["q"].Enabled || !grants["q"].ExpiresAt.IsZero() || revision != 2 {
			t.Errorf("got %+v at %d, want p unchanged, and q disabled, at 2", grants, revision)
		}

		// An error leaves everything as it was.
		refused := errors.New("refused")
		err := s.Apply(ctx, "p", func(old *grant.Grant) (*grant.Grant, error) {
			if old == nil || !reflect.DeepEqual(*old, want) {
				t.Errorf("the change is given %+v, want %+v", old, want)
			}
			return nil, refused
		})
		if grants, revision := load(s); !errors.Is(err, refused) || len(grants) != 2 || revision != 2 {
			t.Errorf("a change that was refused: %v, and %+v at %d; want both grants as they were, at 2", err, grants, revision)
		}
		if err := s.Apply(ctx, "p", func(*grant.Grant) (*grant.Grant, error) { return nil, nil }); err != nil {
			t.Fatal(err)
		}
		if grants, revision := load(s); len(grants) != 1 || revision != 3 {
			t.Errorf("after a removal: %+v at %d; want one grant, at 3", grants, revision)
		}

		// Changes of several processes at once are each seen by the next.
		var wg sync.WaitGroup
		for i := range 20 {
			on := []*grantstore.Grants{s, other}[i%2]
			wg.Go(func() {
				err := on.Apply(ctx, "n", func(old *grant.Grant) (*grant.Grant, error) {
					next := grant.Grant{PackID: "n", AllowedDomains: []string{}, AllowedPorts: []int{}}
					if old != nil {
						next.AllowedPorts = append(old.AllowedPorts, len(old.AllowedPorts))
					}
					return &next, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if grants, revision := load(s); len(grants["n"].AllowedPorts) != 19 || revision != 23 {
			t.Errorf("20 changes left %d ports at revision %d", len(grants["n"].AllowedPorts), revision)
		}
	})
}
