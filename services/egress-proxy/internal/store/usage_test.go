package store_test

import (
	"context"
	"maps"
	"sync"
	"testing"

	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/quota"
	grantstore "github.com/rumi-ai/rumi/services/egress-proxy/internal/store"
)

func TestUsage(t *testing.T) {
	storetest.Run(t, grantstore.Migrations, func(t *testing.T, open func() *store.DB) {
		ctx := context.Background()
		s := grantstore.NewUsage(open())
		other := grantstore.NewUsage(open())
		add := func(s *grantstore.Usage, day int64, usage []quota.Usage) map[string]int64 {
			t.Helper()
			totals, err := s.AddUsage(ctx, usage, day)
			if err != nil {
				t.Fatal(err)
			}
			return totals
		}
		if got := add(s, 100, nil); len(got) != 0 {
			t.Fatalf("a new store holds %v, want nothing", got)
		}

		// Bytes add up by day.
		add(s, 100, []quota.Usage{{PackID: "p", Day: 100, Bytes: 5}, {PackID: "q", Day: 100, Bytes: 1 << 40}})
		if got := add(other, 100, []quota.Usage{{PackID: "p", Day: 100, Bytes: 7}}); !maps.Equal(got, map[string]int64{"p": 12, "q": 1 << 40}) {
			t.Errorf("got %v, want 12 of p and 1<<40 of q", got)
		}
		if got := add(s, 101, []quota.Usage{{PackID: "p", Day: 100, Bytes: 1}, {PackID: "p", Day: 101, Bytes: 2}}); !maps.Equal(got, map[string]int64{"p": 2}) {
			t.Errorf("got %v on the next day, want 2 of p", got)
		}
		if got := add(s, 100, nil); got["p"] != 13 {
			t.Errorf("got %v on the day before, want 13 of p", got)
		}
		add(s, 102, []quota.Usage{{PackID: "p", Day: 102, Bytes: 1}})
		if got := add(s, 100, nil); len(got) != 0 {
			t.Errorf("got %v two days later, want nothing", got)
		}

		// Several replicas at once lose nothing.
		var wg sync.WaitGroup
		for i := range 20 {
			on := []*grantstore.Usage{s, other}[i%2]
			wg.Go(func() {
				two := []quota.Usage{{PackID: "m", Day: 102, Bytes: 1}, {PackID: "n", Day: 102, Bytes: 1}}
				if i%3 == 0 {
					two[0], two[1] = two[1], two[0]
				}
				if _, err := on.AddUsage(ctx, two, 102); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := add(s, 102, nil); got["m"] != 20 || got["n"] != 20 {
			t.Errorf("got %v, want 20 of m and of n", got)
		}
	})
}
