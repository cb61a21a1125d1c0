package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// dials is a Dial whose addresses answer, after a while, as a test says.
type dials struct {
	answers map[string]dialAnswer // those that have none never answer
	ignore  bool                  // that they are given up

	mu    sync.Mutex
	began time.Time
	log   []string // when, and to whom
	open  int      // connections that nobody has closed
}

type dialAnswer struct {
	after time.Duration
	err   error
}

type dialled struct {
	net.Conn
	d *dials
}

func (c *dialled) Close() error {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	c.d.open--
	return nil
}

func (d *dials) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	d.mu.Lock()
	d.log = append(d.log, fmt.Sprint(time.Since(d.began).Milliseconds(), " ", to.Addr()))
	d.mu.Unlock()
	a, ok := d.answers[to.Addr().String()]
	after := time.After(a.after)
	if !ok {
		after = nil
	}
	done := ctx.Done()
	if d.ignore {
		done = nil
	}
	select {
	case <-after:
	case <-done:
		return nil, ctx.Err()
	}
	if a.err != nil {
		return nil, a.err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open++
	return &dialled{d: d}, nil
}

func TestReach(t *testing.T) {
	refused, unreachable := syscall.ECONNREFUSED, syscall.ENETUNREACH
	const ms = time.Millisecond
	for about, c := range map[string]struct {
		addrs   string
		answers map[string]dialAnswer
		log     string // attempts, in order
		reached string
		after   time.Duration
		kind    Kind
		text    string
	}{
		"one":                       {"192.0.2.1", map[string]dialAnswer{"192.0.2.1": {100 * ms, nil}}, "0 192.0.2.1", "192.0.2.1", 100 * ms, 0, ""},
		"one that refuses":          {"192.0.2.1", map[string]dialAnswer{"192.0.2.1": {100 * ms, refused}}, "0 192.0.2.1", "", 100 * ms, KindRefused, "Connection refused"},
		"IPv6 first":                {"192.0.2.1 2001:db8::1", map[string]dialAnswer{"192.0.2.1": {0, nil}, "2001:db8::1": {200 * ms, nil}}, "0 2001:db8::1", "2001:db8::1", 200 * ms, 0, ""},
		"IPv6 is slow":              {"192.0.2.1 2001:db8::1", map[string]dialAnswer{"192.0.2.1": {10 * ms, nil}, "2001:db8::1": {300 * ms, nil}}, "0 2001:db8::1,250 192.0.2.1", "192.0.2.1", 260 * ms, 0, ""},
		"IPv6 is slow, IPv4 slower": {"192.0.2.1 2001:db8::1", map[string]dialAnswer{"192.0.2.1": {100 * ms, nil}, "2001:db8::1": {300 * ms, nil}}, "0 2001:db8::1,250 192.0.2.1", "2001:db8::1", 300 * ms, 0, ""},
		"no way by IPv6":            {"192.0.2.1 2001:db8::1", map[string]dialAnswer{"192.0.2.1": {10 * ms, nil}, "2001:db8::1": {0, unreachable}}, "0 2001:db8::1,0 192.0.2.1", "192.0.2.1", 10 * ms, 0, ""},
		"IPv6 is swallowed":         {"192.0.2.1 2001:db8::1", map[string]dialAnswer{"192.0.2.1": {10 * ms, nil}}, "0 2001:db8::1,250 192.0.2.1", "192.0.2.1", 260 * ms, 0, ""},
		"families take turns": {"192.0.2.1 192.0.2.2 192.0.2.3 2001:db8::1 2001:db8::2 192.0.2.1", map[string]dialAnswer{
			"192.0.2.1": {0, refused}, "192.0.2.2": {0, refused}, "192.0.2.3": {20 * ms, nil}, "2001:db8::1": {0, refused}, "2001:db8::2": {0, refused},
		}, "0 2001:db8::1,0 192.0.2.1,0 2001:db8::2,0 192.0.2.2,0 192.0.2.3", "192.0.2.3", 20 * ms, 0, ""},
		"no more than four at once": {"192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5", map[string]dialAnswer{"192.0.2.1": {5000 * ms, refused}, "192.0.2.5": {0, nil}},
			"0 192.0.2.1,250 192.0.2.2,500 192.0.2.3,750 192.0.2.4,5000 192.0.2.5", "192.0.2.5", 5000 * ms, 0, ""},
		"that it refuses says most": {"192.0.2.1 192.0.2.2 2001:db8::1", map[string]dialAnswer{"192.0.2.1": {0, refused}, "192.0.2.2": {0, unreachable}, "2001:db8::1": {0, unreachable}},
			"0 2001:db8::1,0 192.0.2.1,0 192.0.2.2", "", 0, KindRefused, "Connection refused"},
		"nobody":             {"", nil, "", "", 0, KindRefused, "Host is not reachable"},
		"silence":            {"192.0.2.1 192.0.2.2", nil, "0 192.0.2.1,250 192.0.2.2", "", 10 * time.Second, KindTimeout, "Connection timed out"},
		"silence of one":     {"192.0.2.1", nil, "0 192.0.2.1", "", 10 * time.Second, KindTimeout, "Connection timed out"},
		"another says no":    {"192.0.2.1 192.0.2.2", map[string]dialAnswer{"192.0.2.1": {0, errors.New("odd")}, "192.0.2.2": {0, unreachable}}, "0 192.0.2.1,0 192.0.2.2", "", 0, KindRefused, "Host is not reachable"},
		"eight are tried":    {strings.Join(manyAddrs(12), " "), allRefuse(12), "", "", 0, KindRefused, "Connection refused"},
		"both would succeed": {"192.0.2.1 192.0.2.2", map[string]dialAnswer{"192.0.2.1": {250 * ms, nil}, "192.0.2.2": {0, nil}}, "", "*", 250 * ms, 0, ""},
	} {
		for _, ignore := range []bool{false, true} {
			if ignore && strings.Contains(about, "silence of one") {
				continue // only Dial can end that
			}
			t.Run(about, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := &dials{answers: c.answers, ignore: ignore && c.answers != nil && !strings.Contains(about, "swallowed") && !strings.Contains(about, "four"), began: time.Now()}
					cfg := &Config{Dial: d.dial}
					target := &Target{Port: 443}
					for _, a := range strings.Fields(c.addrs) {
						target.Addrs = append(target.Addrs, netip.MustParseAddr(a))
					}
					conn, addr, err := cfg.Connect(t.Context(), target, time.Now().Add(10*time.Second))
					if took := time.Since(d.began); took != c.after {
						t.Errorf("connected or gave up after %v, want %v", took, c.after)
					}
					var failure *Error
					switch {
					case c.reached != "":
						if err != nil || c.reached != "*" && addr.String() != c.reached {
							t.Fatalf("reached %v, %v; want %s", addr, err, c.reached)
						}
						conn.Close()
					case !errors.As(err, &failure) || failure.Kind != c.kind || failure.Text != c.text:
						t.Errorf("got %v, want kind %d, text %q", err, c.kind, c.text)
					}
					time.Sleep(time.Minute) // those that were given up answer all the same
					synctest.Wait()
					d.mu.Lock()
					defer d.mu.Unlock()
					if log := strings.Join(d.log, ","); c.log != "" && log != c.log {
						t.Errorf("tried %s, want %s", log, c.log)
					}
					if len(d.log) > maxAddrs {
						t.Errorf("tried %d addresses, want at most %d", len(d.log), maxAddrs)
					}
					if d.open != 0 {
						t.Errorf("%d connections are left open", d.open)
					}
				})
			})
		}
	}
}

func manyAddrs(n int) (addrs []string) {
	for i := range n {
		addrs = append(addrs, fmt.Sprint("192.0.2.", i+1))
	}
	return addrs
}

func allRefuse(n int) map[string]dialAnswer {
	m := map[string]dialAnswer{}
	for _, a := range manyAddrs(n) {
		m[a] = dialAnswer{0, syscall.ECONNREFUSED}
	}
	return m
}

// Whoever takes the access away ends all attempts.
func TestReachIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dials{began: time.Now()}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		addrs := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
		if _, _, err := (&Config{Dial: d.dial}).Connect(ctx, &Target{Addrs: addrs, Port: 80}, time.Now().Add(time.Minute)); err == nil || time.Since(d.began) != time.Second {
			t.Errorf("%v after %v, want an error at once when it is cancelled, after 1s", err, time.Since(d.began))
		}
	})
}

func TestOrder(t *testing.T) {
	one := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	if got := interleave(one); !slices.Equal(got, one) {
		t.Errorf("one address gives %v, want %v", got, one)
	}
	if got := interleave(nil); len(got) != 0 {
		t.Errorf("no address gives %v, want none", got)
	}
}
