package store_test

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/denials"
	grantstore "github.com/rumi-ai/rumi/services/egress-proxy/internal/store"
)

func TestDenials(t *testing.T) {
	storetest.Run(t, grantstore.Migrations, func(t *testing.T, open func() *store.DB) {
		ctx := context.Background()
		s := grantstore.NewDenials(open())
		other := grantstore.NewDenials(open())
		now := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
		add := func(s *grantstore.Denials, list ...denials.Denial) {
			t.Helper()
			if err := s.AddDenials(ctx, list); err != nil {
				t.Fatal(err)
			}
		}
		list := func(packID string) []denials.Denial {
			t.Helper()
			all, err := s.Denials(ctx, packID)
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		if got := list(""); got != nil {
			t.Fatalf("a new store holds %v, want nothing", got)
		}

		// The same denial adds up, whoever brings it and in whatever order.
		key := denials.Key{Host: "x.com", Port: 443, Method: "GET", Reason: "grant_denied"}
		ruled := denials.Key{Host: "x.com", Port: 443, Method: "GET", Reason: "rule_denied", Path: "/v1/ä"}
		one := denials.Denial{PackID: "p", Key: key, Count: 2, FirstSeen: now.Add(time.Second), LastSeen: now.Add(2 * time.Second)}
		add(s, one, denials.Denial{PackID: "q", Key: key, Count: 1, FirstSeen: now, LastSeen: now},
			denials.Denial{PackID: "p", Key: ruled, Count: 1, FirstSeen: now, LastSeen: now})
		one.Count, one.FirstSeen, one.LastSeen = 3, now, now.Add(time.Second)
		add(other, one)
		want := []denials.Denial{
			{PackID: "p", Key: key, Count: 5, FirstSeen: now, LastSeen: now.Add(2 * time.Second)},
			{PackID: "p", Key: ruled, Count: 1, FirstSeen: now, LastSeen: now},
		}
		if got := list("p"); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if got := list(""); len(got) != 3 {
			t.Errorf("got %+v of all packs, want 3 denials", got)
		}

		// The least recent are dropped, of the same pack only.
		var many []denials.Denial
		for i := range denials.MaxDenials - 1 {
			at := now.Add(time.Minute + time.Duration(i)*time.Second)
			many = append(many, denials.Denial{PackID: "p", Key: denials.Key{Host: fmt.Sprintf("h%d.com", i), Port: 1}, Count: 1, FirstSeen: at, LastSeen: at})
		}
		add(s, many...)
		if got := list("p"); len(got) != denials.MaxDenials || got[0].Host != "h498.com" || got[len(got)-1].Key != key {
			t.Errorf("got %d denials from %+v to %+v, want the %d most recent", len(got), got[0], got[len(got)-1], denials.MaxDenials)
		}
		if err := s.ForgetDenials(ctx, "p"); err != nil {
			t.Fatal(err)
		}
		if got := list(""); len(got) != 1 || got[0].PackID != "q" {
			t.Errorf("got %+v after p was forgotten, want q's denial", got)
		}

		// Several replicas at once lose nothing.
		var wg sync.WaitGroup
		for i := range 20 {
			on := []*grantstore.Denials{s, other}[i%2]
			wg.Go(func() {
				two := []denials.Denial{{PackID: "m", Key: key, Count: 1, FirstSeen: now, LastSeen: now}, {PackID: "n", Key: key, Count: 1, FirstSeen: now, LastSeen: now}}
				if i%3 == 0 {
					two[0], two[1] = two[1], two[0]
				}
				if err := on.AddDenials(ctx, two); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := list("m"); len(got) != 1 || got[0].Count != 20 {
			t.Errorf("got %+v, want one denial counted 20 times", got)
		}
	})
}
