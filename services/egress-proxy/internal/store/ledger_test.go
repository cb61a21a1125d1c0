package store_test

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/ledger"
	grantstore "github.com/rumi-ai/rumi/services/egress-proxy/internal/store"
)

func TestLedger(t *testing.T) {
	storetest.Run(t, grantstore.Migrations, func(t *testing.T, open func() *store.DB) {
		ctx := context.Background()
		s := grantstore.NewLedger(open())
		other := grantstore.NewLedger(open())
		now := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
		record := func(s *grantstore.Ledger, day int64, usage []ledger.Usage, denials ...ledger.Denial) map[string]int64 {
			t.Helper()
			totals, err := s.Record(ctx, denials, usage, day)
			if err != nil {
				t.Fatal(err)
			}
			return totals
		}
		denials := func(packID string) []ledger.Denial {
			t.Helper()
			list, err := s.Denials(ctx, packID)
			if err != nil {
				t.Fatal(err)
			}
			return list
		}
		if totals := record(s, 100, nil); len(totals) != 0 || denials("") != nil {
			t.Fatalf("a new store holds %v, %v", totals, denials(""))
		}

		// The same denial adds up, whoever brings it and in whatever order.
		key := ledger.Key{Host: "x.com", Port: 443, Method: "GET", Reason: "grant_denied"}
		ruled := ledger.Key{Host: "x.com", Port: 443, Method: "GET", Reason: "rule_denied", Path: "/v1/ä"}
		one := ledger.Denial{PackID: "p", Key: key, Count: 2, FirstSeen: now.Add(time.Second), LastSeen: now.Add(2 * time.Second)}
		record(s, 100, nil, one, ledger.Denial{PackID: "q", Key: key, Count: 1, FirstSeen: now, LastSeen: now},
			ledger.Denial{PackID: "p", Key: ruled, Count: 1, FirstSeen: now, LastSeen: now})
		one.Count, one.FirstSeen, one.LastSeen = 3, now, now.Add(time.Second)
		record(other, 100, nil, one)
		want := []ledger.Denial{
			{PackID: "p", Key: key, Count: 5, FirstSeen: now, LastSeen: now.Add(2 * time.Second)},
			{PackID: "p", Key: ruled, Count: 1, FirstSeen: now, LastSeen: now},
		}
		if got := denials("p"); !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
		if got := denials(""); len(got) != 3 {
			t.Errorf("of all packs %+v", got)
		}

		// The least recent are dropped, of the same pack only.
		var many []ledger.Denial
		for i := range ledger.MaxDenials - 1 {
			at := now.Add(time.Minute + time.Duration(i)*time.Second)
			many = append(many, ledger.Denial{PackID: "p", Key: ledger.Key{Host: fmt.Sprintf("h%d.com", i), Port: 1}, Count: 1, FirstSeen: at, LastSeen: at})
		}
		record(s, 100, nil, many...)
		if got := denials("p"); len(got) != ledger.MaxDenials || got[0].Host != "h498.com" || got[len(got)-1].Key != key {
			t.Errorf("%d denials from %+v to %+v", len(got), got[0], got[len(got)-1])
		}
		if err := s.Forget(ctx, "p"); err != nil {
			t.Fatal(err)
		}
		if got := denials(""); len(got) != 1 || got[0].PackID != "q" {
			t.Errorf("after p was forgotten: %+v", got)
		}

		// Bytes add up by day.
		record(s, 100, []ledger.Usage{{PackID: "p", Day: 100, Bytes: 5}, {PackID: "q", Day: 100, Bytes: 1 << 40}})
		if got := record(other, 100, []ledger.Usage{{PackID: "p", Day: 100, Bytes: 7}}); !maps.Equal(got, map[string]int64{"p": 12, "q": 1 << 40}) {
			t.Errorf("%v", got)
		}
		if got := record(s, 101, []ledger.Usage{{PackID: "p", Day: 100, Bytes: 1}, {PackID: "p", Day: 101, Bytes: 2}}); !maps.Equal(got, map[string]int64{"p": 2}) {
			t.Errorf("the next day: %v", got)
		}
		if got := record(s, 100, nil); got["p"] != 13 {
			t.Errorf("the day before: %v", got)
		}
		record(s, 102, []ledger.Usage{{PackID: "p", Day: 102, Bytes: 1}})
		if got := record(s, 100, nil); len(got) != 0 {
			t.Errorf("two days later: %v", got)
		}

		// Several replicas at once lose nothing.
		var wg sync.WaitGroup
		for i := range 20 {
			on := []*grantstore.Ledger{s, other}[i%2]
			wg.Go(func() {
				list := []ledger.Denial{{PackID: "m", Key: key, Count: 1, FirstSeen: now, LastSeen: now}, {PackID: "n", Key: key, Count: 1, FirstSeen: now, LastSeen: now}}
				if i%3 == 0 {
					list[0], list[1] = list[1], list[0]
				}
				if _, err := on.Record(ctx, list, []ledger.Usage{{PackID: "m", Day: 102, Bytes: 1}}, 102); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := denials("m"); len(got) != 1 || got[0].Count != 20 {
			t.Errorf("%+v", got)
		}
		if got := record(s, 102, nil); got["m"] != 20 {
			t.Errorf("%v", got)
		}
	})
}
