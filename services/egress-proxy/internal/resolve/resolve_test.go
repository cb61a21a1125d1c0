package resolve

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/dns"
)

// slow is a Resolver that takes a second and counts.
type slow struct {
	answer func(name string) (dns.Answer, error)

	mu     sync.Mutex
	asked  map[string]int
	at     int // once
	atMost int
}

func newSlow(answer func(string) (dns.Answer, error)) *slow {
	return &slow{answer: answer, asked: map[string]int{}}
}

func (s *slow) Lookup(ctx context.Context, name string) (dns.Answer, error) {
	s.mu.Lock()
	s.asked[name]++
	s.at++
	s.atMost = max(s.atMost, s.at)
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.at--; s.mu.Unlock() }()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return dns.Answer{}, ctx.Err()
	}
	return s.answer(name)
}

func (s *slow) times(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

func someAddress(string) (dns.Answer, error) {
	return dns.Answer{Addrs: []netip.Addr{netip.MustParseAddr("93.184.216.34")}, TTL: time.Minute}, nil
}

func lookUp(t *testing.T, n *Cache, pack, name string) error {
	_, err := n.Lookup(t.Context(), pack, name, time.Now().Add(time.Hour))
	return err
}

func TestAnswersAreCachedForAsLongAsTheyHold(t *testing.T) {
	for about, c := range map[string]struct {
		answer dns.Answer
		err    error
		holds  time.Duration
	}{
		"as it says":          {dns.Answer{TTL: time.Minute}, nil, time.Minute},
		"not at all":          {dns.Answer{TTL: 0}, nil, minTTL},
		"for days":            {dns.Answer{TTL: 100 * time.Hour}, nil, maxTTL},
		"nothing":             {dns.Answer{}, &dns.NotFoundError{TTL: 7 * time.Second}, 7 * time.Second},
		"nothing, for days":   {dns.Answer{}, &dns.NotFoundError{TTL: 100 * time.Hour}, maxNegative},
		"nothing, not at all": {dns.Answer{}, &dns.NotFoundError{}, minTTL},
		"a failure":           {dns.Answer{}, errors.New("server failure"), minTTL},
	} {
		t.Run(about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSlow(func(string) (dns.Answer, error) {
					a := c.answer
					a.Addrs = []netip.Addr{netip.MustParseAddr("93.184.216.34")}
					return a, c.err
				})
				n := New(s)
				for _, pack := range []string{"p", "q", "p"} {
					if err := lookUp(t, n, pack, "x.example"); !errors.Is(err, c.err) {
						t.Error(err)
					}
				}
				time.Sleep(c.holds - time.Nanosecond)
				lookUp(t, n, "p", "x.example")
				if got := s.times("x.example"); got != 1 {
					t.Errorf("asked %d times, want once", got)
				}
				time.Sleep(time.Nanosecond)
				lookUp(t, n, "p", "x.example")
				if got := s.times("x.example"); got != 2 {
					t.Errorf("asked %d times when it no longer held", got)
				}
			})
		})
	}
}

// A family that is answered late is judged from then on: until it comes, the other is used for as long as its records hold.
func TestLateFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := make(chan dns.Answer, 1)
		public, internal := netip.MustParseAddr("93.184.216.34"), netip.MustParseAddr("fd00::1")
		s := newSlow(func(string) (dns.Answer, error) {
			return dns.Answer{Addrs: []netip.Addr{public}, TTL: time.Minute, Late: late}, nil
		})
		n := New(s)
		addrs := func() []netip.Addr {
			t.Helper()
			a, err := n.Lookup(t.Context(), "p", "x.example", time.Now().Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			return a.Addrs
		}
		if got := addrs(); len(got) != 1 || got[0] != public {
			t.Errorf("at first %v, want %v", got, public)
		}
		time.Sleep(30 * time.Second)
		if got := addrs(); len(got) != 1 || s.times("x.example") != 1 {
			t.Errorf("half a minute later %v, asked %d times; want the one, asked once", got, s.times("x.example"))
		}
		late <- dns.Answer{Addrs: []netip.Addr{public, internal}, TTL: time.Minute}
		close(late)
		synctest.Wait()
		if got := addrs(); len(got) != 2 || s.times("x.example") != 1 {
			t.Errorf("once the other family was answered %v, asked %d times; want both, asked once", got, s.times("x.example"))
		}
	})
}

func TestAskedOnceForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlow(someAddress)
		n := New(s)
		hurried, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := n.Lookup(hurried, "p", "x.example", time.Now().Add(time.Hour)); !errors.Is(err, context.Canceled) {
				t.Errorf("the one that left got %v, want that it was cancelled", err)
			}
		})
		synctest.Wait()
		cancel() // the others get their answer all the same
		for i := range 100 {
			all.Go(func() {
				if err := lookUp(t, n, fmt.Sprint("pack", i), "x.example"); err != nil {
					t.Error(err)
				}
			})
		}
		all.Go(func() {
			if _, err := n.Lookup(t.Context(), "p", "x.example", time.Now().Add(time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the one in a hurry got %v, want its deadline's error", err)
			}
		})
		all.Wait()
		if got := s.times("x.example"); got != 1 {
			t.Errorf("asked %d times, want once", got)
		}
	})
}

// A pack that asks for very many names neither displaces what others asked for nor makes them wait.
func TestShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlow(someAddress)
		n := New(s)
		lookUp(t, n, "modest", "mine.example")
		var all sync.WaitGroup
		for i := range 3 * namesPerPack {
			all.Go(func() { lookUp(t, n, "greedy", fmt.Sprint(i, ".example")) })
		}
		synctest.Wait()
		began := time.Now()
		lookUp(t, n, "modest", "other.example")
		if took := time.Since(began); took != time.Second {
			t.Errorf("the other pack waited %v, want 1s", took)
		}
		_, gaveUp := n.Lookup(t.Context(), "greedy", "late.example", time.Now().Add(time.Millisecond))
		if gaveUp == nil {
			t.Error("a lookup too many was not made to wait")
		}
		lookUp(t, n, "modest", "0.example") // asked for by the other pack: no need to wait for that pack's turn
		all.Wait()
		if s.atMost > lookupsPerPack+1 {
			t.Errorf("%d lookups at once, want at most %d", s.atMost, lookupsPerPack+1)
		}
		synctest.Wait()
		if got := len(n.entries); got > namesPerPack+3 { // and those of the modest pack
			t.Errorf("%d names are cached, want at most %d", got, namesPerPack+3)
		}
		s.mu.Lock()
		clear(s.asked)
		s.mu.Unlock()
		// The greedy pack's lookups took longer than an answer holds; ask for a fresh one, then flood again within its time.
		lookUp(t, n, "modest", "mine.example")
		for i := range maxNames / namesPerPack * 2 {
			for j := range namesPerPack {
				n.mu.Lock()
				share := n.shareOf(fmt.Sprint("pack", i))
				n.add(&entry{fmt.Sprint(i, ".", j, ".example"), share, result{expires: time.Now().Add(time.Hour)}})
				n.mu.Unlock()
			}
		}
		if got := len(n.entries); got > maxNames {
			t.Errorf("%d names are cached, want at most %d", got, maxNames)
		}
		before := s.times("mine.example")
		if lookUp(t, n, "modest", "mine.example"); s.times("mine.example") != before {
			t.Error("a name was displaced by those of others")
		}
		for pack := range n.shares {
			n.Forget(pack)
		}
		if len(n.entries) != 0 || len(n.shares) != 0 {
			t.Errorf("%d names of %d packs are left", len(n.entries), len(n.shares))
		}
	})
}

// A pack that goes while its name is looked up leaves nothing behind.
func TestForgottenInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(newSlow(someAddress))
		go lookUp(t, n, "p", "x.example")
		synctest.Wait()
		n.Forget("p")
		time.Sleep(2 * time.Second)
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.entries)+len(n.shares)+len(n.flights) != 0 {
			t.Errorf("left are the entries %v, shares %v and flights %v; want none", n.entries, n.shares, n.flights)
		}
	})
}
