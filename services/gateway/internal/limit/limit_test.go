package limit_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/services/gateway/internal/limit"
)

var one, two = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")

func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limit.New(120, time.Minute)
		for i := range 120 {
			if ok, _ := w.Allow(one); !ok {
				t.Fatalf("event %d was refused, want 120 admitted", i+1)
			}
			time.Sleep(100 * time.Millisecond)
		}
		ok, wait := w.Allow(one)
		if ok || wait != 48*time.Second {
			t.Fatalf("event 121: %v, wait %v; want 48s, when the first is a minute old", ok, wait)
		}
		if ok, _ := w.Allow(two); !ok {
			t.Fatal("another address was refused")
		}
		time.Sleep(wait - 1)
		if ok, _ := w.Allow(one); ok {
			t.Fatal("admitted before the wait was over")
		}
		time.Sleep(time.Nanosecond)
		if ok, _ := w.Allow(one); !ok {
			t.Fatal("refused after the wait")
		}
		if ok, wait := w.Allow(one); ok || wait != 100*time.Millisecond {
			t.Fatalf("the next: %v, wait %v; want 100ms", ok, wait)
		}
	})
}

// TestNoSpanHoldsMore checks the promise itself on random arrivals.
func TestNoSpanHoldsMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, span = 7, time.Second
		w := limit.New(most, span)
		random := rand.New(rand.NewPCG(1, 2))
		var admitted []time.Time
		for range 5000 {
			time.Sleep(time.Duration(random.ExpFloat64() * float64(100*time.Millisecond)))
			if ok, wait := w.Allow(one); ok {
				admitted = append(admitted, time.Now())
			} else if wait <= 0 || wait > span {
				t.Fatalf("the wait is %v, want more than 0 and at most %v", wait, span)
			}
		}
		for i := most; i < len(admitted); i++ {
			if admitted[i].Sub(admitted[i-most]) < span {
				t.Fatalf("%d events within %v, want at most %d within %v", most+1, admitted[i].Sub(admitted[i-most]), most, span)
			}
		}
		if len(admitted) < 2500 {
			t.Fatalf("admitted %d of 5000, want 2500 at least", len(admitted))
		}
	})
}

func TestAddressesThatCountAsOne(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true},
		{"2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
	} {
		w := limit.New(1, time.Minute)
		w.Allow(netip.MustParseAddr(c.a))
		if ok, _ := w.Allow(netip.MustParseAddr(c.b)); ok == c.same {
			t.Errorf("%s and %s: same %v, want %v", c.a, c.b, !ok, c.same)
		}
	}
}

func TestOffAdmitsEverything(t *testing.T) {
	w := limit.New(0, time.Minute)
	for range 1000 {
		if ok, _ := w.Allow(one); !ok {
			t.Fatal("refused, want everything admitted")
		}
	}
}

// TestManyAddresses: a flood of addresses takes bounded memory, and those beyond the bound share a count.
func TestManyAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := limit.New(2, time.Minute)
		refused := 0
		for i := range uint32(40_000) {
			var raw [4]byte
			binary.BigEndian.PutUint32(raw[:], 0x0a000000+i)
			if ok, _ := w.Allow(netip.AddrFrom4(raw)); !ok {
				refused++
			}
		}
		if refused < 20_000 {
			t.Fatalf("refused %d of 40,000, want 20,000 at least", refused)
		}
		time.Sleep(time.Minute)
		if ok, _ := w.Allow(netip.MustParseAddr("203.0.113.1")); !ok {
			t.Fatal("refused a minute after the flood")
		}
	})
}

func TestAllowDoesNotAllocate(t *testing.T) {
	w := limit.New(100, time.Hour)
	six := netip.MustParseAddr("2001:db8::1")
	for range 100 {
		w.Allow(six) // grows the ring to its full size
	}
	if n := testing.AllocsPerRun(100, func() { w.Allow(six) }); n != 0 {
		t.Fatalf("%v allocations, want none", n)
	}
}
