package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/candidate"
	dbstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/kv"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/store"
)

const maxBytes = 4096

// values runs a test on both databases, with the values as two replicas have them.
func values(t *testing.T, test func(t *testing.T, mine, other *store.Values)) {
	storetest.Run(t, candidate.Migrations(store.Migrations()), func(t *testing.T, open func() *dbstore.DB) {
		test(t, store.NewValues(open(), maxBytes), store.NewValues(open(), maxBytes))
	})
}

func at(key string) kv.Key { return kv.Key{StoreID: "s", Name: key} }

func setValue(t *testing.T, v *store.Values, key, value string) {
	t.Helper()
	if _, err := v.Set(t.Context(), at(key), jsontext.Value(value), "p"); err != nil {
		t.Fatal(err)
	}
}

func wantValue(t *testing.T, v *store.Values, key kv.Key, value string) {
	t.Helper()
	got, found, err := v.Get(t.Context(), key)
	if err != nil || found != (value != "") || string(got) != value {
		t.Errorf("%v is %s (%t), %v; want %s", key, got, found, err, value)
	}
}

func TestValues(t *testing.T) {
	values(t, func(t *testing.T, mine, other *store.Values) {
		wantValue(t, mine, at("a"), "")
		for i, value := range []string{`{"b":1,"a":[1.10,"é\u0000"]}`, `null`, `12345678901234567890`} {
			created, err := mine.Set(t.Context(), at("a"), jsontext.Value(value), "p")
			if err != nil || created != (i == 0) {
				t.Fatalf("the set says created %t, %v; want %t", created, err, i == 0)
			}
			wantValue(t, other, at("a"), value)
		}
		wantValue(t, mine, kv.Key{StoreID: "S", Name: "a"}, "")
		wantValue(t, mine, at("A"), "")
		for _, deleted := range []bool{true, false} {
			if got, err := other.Delete(t.Context(), at("a")); err != nil || got != deleted {
				t.Errorf("the delete says deleted %t, %v; want %t", got, err, deleted)
			}
		}
		wantValue(t, mine, at("a"), "")
	})
}

func TestListGoesByBytes(t *testing.T) {
	values(t, func(t *testing.T, mine, other *store.Values) {
		keys := []string{"B", "Z/1", "a", "a-b", "a/b", "a/b/c", "a_b", "aa", "b", "zz"}
		for _, key := range keys {
			setValue(t, mine, key, "0")
		}
		if _, err := mine.Set(t.Context(), kv.Key{StoreID: "t", Name: "a/other"}, jsontext.Value("0"), "p"); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			prefix, after string
			limit         int
			want          []string
			more          bool
			total         int64
		}{
			{"", "", 100, keys, false, 10},
			{"", "", 10, keys, false, 10},
			{"", "", 9, keys[:9], true, 10},
			{"", "a/b", 2, []string{"a/b/c", "a_b"}, true, 10},
			{"a/", "", 100, []string{"a/b", "a/b/c"}, false, 2},
			{"a/", "a/b", 100, []string{"a/b/c"}, false, 2},
			{"a/", "b", 100, []string{}, false, 2},
			{"a/", "A", 1, []string{"a/b"}, true, 2},
			{"zz", "zz", 1, []string{}, false, 1},
			{"none", "", 1, []string{}, false, 0},
		} {
			page, err := other.List(t.Context(), "s", c.prefix, c.after, c.limit)
			if err != nil || !slices.Equal(page.Keys, c.want) || page.Keys == nil || page.More != c.more || page.Total != c.total {
				t.Errorf("the page that is wanted is %+v, got %+v, %v", c, page, err)
			}
		}
	})
}

func TestBatchStaysWithinItsBudget(t *testing.T) {
	values(t, func(t *testing.T, mine, other *store.Values) {
		setValue(t, mine, "a", `"1234"`)
		setValue(t, mine, "b", `"12345678"`)
		setValue(t, mine, "c", `1`)
		for _, c := range []struct {
			budget      int
			found, left string
		}{
			{100, "abc", ""}, {17, "abc", ""}, {16, "ab", "c"}, {7, "ac", "b"}, {0, "", "abc"},
		} {
			found, left, err := other.Batch(t.Context(), "s", []string{"a", "none", "b", "c"}, c.budget)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for name := range found {
				names = append(names, name)
			}
			slices.Sort(names)
			if strings.Join(names, "") != c.found || strings.Join(left, "") != c.left {
				t.Errorf("%d: found %v, left %v; want %s and %s", c.budget, names, left, c.found, c.left)
			}
		}
	})
}

// A budget counts bytes, not characters.
func TestBatchCountsBytes(t *testing.T) {
	values(t, func(t *testing.T, mine, other *store.Values) {
		setValue(t, mine, "a", `"`+strings.Repeat("語", 100)+`"`)
		for budget, want := range map[int]int{301: 0, 302: 1} {
			found, left, err := other.Batch(t.Context(), "s", []string{"a"}, budget)
			if err != nil || len(found) != want || len(left) != 1-want {
				t.Errorf("%d: found %d, left %v, %v; want %d found of one", budget, len(found), left, err, want)
			}
		}
	})
}

func TestQuota(t *testing.T) {
	values(t, func(t *testing.T, mine, other *store.Values) {
		long := func(n int) string { return `"` + strings.Repeat("x", n) + `"` }
		full := func(key, value string) {
			t.Helper()
			if _, err := mine.Set(t.Context(), at(key), jsontext.Value(value), "p"); !errors.Is(err, kv.ErrFull) {
				t.Errorf("set of %s: got %v, want ErrFull", key, err)
			}
		}
		setValue(t, mine, "a", long(3000))
		full("b", long(1000))
		wantValue(t, mine, at("b"), "")
		setValue(t, other, "b", long(500))
		full("a", long(3500))
		if _, _, err := mine.Swap(t.Context(), at("a"), jsontext.Value(long(3000)), jsontext.Value(long(3500)), "p"); !errors.Is(err, kv.ErrFull) {
			t.Errorf("swap: got %v, want ErrFull", err)
		}
		wantValue(t, other, at("a"), long(3000))
		setValue(t, mine, "a", long(1000))
		setValue(t, other, "c", long(1500))
		// Empty values cost something, too.
		n := 0
		var err error
		for ; err == nil && n < maxBytes; n++ {
			_, err = mine.Set(t.Context(), kv.Key{StoreID: "t", Name: strconv.Itoa(n)}, jsontext.Value("0"), "p")
		}
		if !errors.Is(err, kv.ErrFull) || n > maxBytes/128+1 {
			t.Errorf("after %d keys: %v; want ErrFull, after %d at most", n, err, maxBytes/128+1)
		}
		for i := range n - 1 {
			if deleted, err := other.Delete(t.Context(), kv.Key{StoreID: "t", Name: strconv.Itoa(i)}); err != nil || !deleted {
				t.Fatalf("delete of %d: deleted %t, %v; want true", i, deleted, err)
			}
		}
		if _, err := other.Set(t.Context(), kv.Key{StoreID: "t", Name: "x"}, jsontext.Value(long(3900)), "p"); err != nil {
			t.Errorf("set in what was emptied: %v", err)
		}
	})
}

// When many increment a number with cas on two replicas, no increment is lost.
func TestSwapCountsEachOnce(t *testing.T) {
	values(t, func(t *testing.T, mine, other *store.Values) {
		const workers, rounds = 8, 5
		var all sync.WaitGroup
		for w := range workers {
			v := []*store.Values{mine, other}[w%2]
			all.Go(func() {
				for range rounds {
					for {
						value, found, err := v.Get(t.Context(), at("n"))
						if err != nil {
							t.Error(err)
							return
						}
						n := 0
						if found {
							n, _ = strconv.Atoi(string(value))
						} else {
							value = jsontext.Value("null")
						}
						swapped, _, err := v.Swap(t.Context(), at("n"), value, jsontext.Value(strconv.Itoa(n+1)), "p")
						if err != nil {
							t.Error(err)
							return
						}
						if swapped {
							break
						}
					}
				}
			})
		}
		all.Wait()
		wantValue(t, mine, at("n"), fmt.Sprint(workers*rounds))
	})
}

func TestSwap(t *testing.T) {
	values(t, func(t *testing.T, mine, other *store.Values) {
		swap := func(expected, value string, ok bool, there string) {
			t.Helper()
			swapped, current, err := mine.Swap(t.Context(), at("k"), jsontext.Value(expected), jsontext.Value(value), "p")
			if err != nil || swapped != ok || string(current) != there {
				t.Errorf("swap of %s for %s: %t, %s, %v; want %t, %s", value, expected, swapped, current, err, ok, there)
			}
		}
		swap(`1`, `2`, false, "")
		swap(`null`, `{"a":1,"b":[2]}`, true, "")
		swap(`null`, `3`, false, `{"a":1,"b":[2]}`)
		swap(`{"b": [2.0], "a": 1e0}`, `null`, true, "")
		swap(`null`, `9007199254740993`, true, "")
		swap(`9007199254740992`, `1`, false, `9007199254740993`)
		wantValue(t, other, at("k"), `9007199254740993`)
	})
}

func TestCancelledWriteWritesNothing(t *testing.T) {
	values(t, func(t *testing.T, mine, other *store.Values) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := mine.Set(ctx, at("a"), jsontext.Value("1"), "p"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		wantValue(t, other, at("a"), "")
	})
}
