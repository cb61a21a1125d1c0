package clientaddr

import (
	"bytes"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

func parse(t testing.TB, entries string) *Proxies {
	t.Helper()
	p, err := Parse(strings.Split(entries, ","), func() (netip.Addr, error) { return netip.MustParseAddr("172.18.0.1"), nil }, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOf(t *testing.T) {
	const trusted = "10.0.0.0/24, fd00::/64,192.0.2.1,host"
	for _, c := range []struct {
		name, peer string
		header     []string
		want       string
	}{
		{"no header", "203.0.113.9:4711", nil, "203.0.113.9"},
		{"no header, from a proxy", "10.0.0.7:1", nil, "10.0.0.7"},
		{"from a stranger", "203.0.113.9:4711", []string{"1.2.3.4"}, "203.0.113.9"},
		{"one proxy", "10.0.0.7:1", []string{"203.0.113.9"}, "203.0.113.9"},
		{"what the client wrote itself", "10.0.0.7:1", []string{"1.2.3.4, 203.0.113.9"}, "203.0.113.9"},
		{"two proxies", "10.0.0.7:1", []string{"1.2.3.4, 203.0.113.9, 192.0.2.1"}, "203.0.113.9"},
		{"only proxies", "10.0.0.7:1", []string{"10.0.0.8, 10.0.0.9"}, "10.0.0.8"},
		{"several headers are one list", "10.0.0.7:1", []string{"1.2.3.4", "203.0.113.9, 10.0.0.9"}, "203.0.113.9"},
		{"several headers, the last a proxy's alone", "10.0.0.7:1", []string{"203.0.113.9", "10.0.0.9"}, "203.0.113.9"},
		{"the host that docker connects from", "172.18.0.1:40000", []string{"203.0.113.9"}, "203.0.113.9"},
		{"no address", "10.0.0.7:1", []string{"unknown"}, "10.0.0.7"},
		{"no address behind a proxy", "10.0.0.7:1", []string{"203.0.113.9, x, 192.0.2.1"}, "192.0.2.1"},
		{"empty", "10.0.0.7:1", []string{""}, "10.0.0.7"},
		{"an empty entry", "10.0.0.7:1", []string{"203.0.113.9,"}, "10.0.0.7"},
		{"a quoted entry", "10.0.0.7:1", []string{`"203.0.113.9"`}, "10.0.0.7"},
		{"a port", "10.0.0.7:1", []string{"203.0.113.9:5000"}, "203.0.113.9"},
		{"a port that is none", "10.0.0.7:1", []string{"203.0.113.9:99999"}, "10.0.0.7"},
		{"IPv6", "[fd00::7]:1", []string{"2001:db8::9"}, "2001:db8::9"},
		{"IPv6 in brackets", "[fd00::7]:1", []string{"[2001:db8::9]"}, "2001:db8::9"},
		{"IPv6 with a port", "[fd00::7]:1", []string{"[2001:db8::9]:443"}, "2001:db8::9"},
		{"IPv4 in brackets", "[fd00::7]:1", []string{"[203.0.113.9]"}, "fd00::7"},
		{"a zone", "[fd00::7]:1", []string{"fe80::1%eth0"}, "fe80::1"},
		{"a peer with a zone", "[fd00::7%eth0]:1", []string{"203.0.113.9"}, "203.0.113.9"},
		{"IPv4 as IPv6, the peer", "[::ffff:10.0.0.7]:1", []string{"203.0.113.9"}, "203.0.113.9"},
		{"IPv4 as IPv6, the client", "10.0.0.7:1", []string{"::ffff:203.0.113.9"}, "203.0.113.9"},
		{"IPv4 as IPv6, a hop", "10.0.0.7:1", []string{"203.0.113.9, ::ffff:10.0.0.9"}, "203.0.113.9"},
		{"tabs", "10.0.0.7:1", []string{"1.2.3.4,\t203.0.113.9 "}, "203.0.113.9"},
		{"IPv4 with zeros in front", "10.0.0.7:1", []string{"010.0.0.9"}, "10.0.0.7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: c.peer, Header: http.Header{}}
			if c.header != nil {
				r.Header[header] = c.header
			}
			if got := parse(t, trusted).Of(r); got.String() != c.want {
				t.Errorf("%s with %q is %s, want %s", c.peer, c.header, got, c.want)
			}
		})
	}
	if got := new(Proxies).Of(&http.Request{RemoteAddr: "@"}); got.IsValid() {
		t.Errorf("a connection without an address is %v, want none", got)
	}
}

func TestParse(t *testing.T) {
	none := func() (netip.Addr, error) { return netip.Addr{}, errors.New("no route") }
	for _, good := range []string{"10.0.0.5", "10.0.0.0/8", "fc00::/7", "[fd00::1]", " fd00::1 ", "::ffff:10.0.0.5", "::ffff:10.0.0.0/104"} {
		if _, err := Parse([]string{good}, none, nil); err != nil {
			t.Errorf("%q is refused: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"0.0.0.0/0": "too wide", "::/0": "too wide", "2000::/3": "too wide", "0.0.0.0": "want an address", "::": "want an address",
		"10.0.0.0/7": "too wide", "10.0.0.5/24": "10.0.0.0/24", "10.0.0.5:80": "without port", "[fd00::1]:80": "without port",
		"fe80::1%eth0": "zone", "": "want an address", "proxy.example.com": "want an address", "10.0.0.0/33": "want a network",
		"fe80::%eth0/64": "want a network", "::ffff:10.0.0.0/90": "IPv4", "host": "no route", "*": "want an address",
	} {
		_, err := Parse([]string{bad}, none, nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "RUMI_TRUSTED_PROXIES: ") {
			t.Errorf("%q: %v, want an error of RUMI_TRUSTED_PROXIES with %q", bad, err, want)
		}
	}
}

// An ignored header is most often a proxy that wasn't named. Strangers can send it, too, so the hint must not fill the log.
func TestHintOnce(t *testing.T) {
	var log bytes.Buffer
	p, err := Parse(nil, nil, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		p.Of(&http.Request{RemoteAddr: "172.18.0.1:1", Header: http.Header{header: {"203.0.113.9"}}})
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "172.18.0.1") || !strings.Contains(got, "RUMI_TRUSTED_PROXIES") {
		t.Errorf("the log is %q, want one line with the address and the setting", got)
	}
}

func TestDefaultGateway(t *testing.T) {
	const head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	const table = head + "eth0\t000013AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\neth1\t00000000\t010012AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
	if got, err := defaultGateway(table); err != nil || got.String() != "172.18.0.1" {
		t.Errorf("the gateway is %v, %v; want 172.18.0.1", got, err)
	}
	if got, err := defaultGateway(head); err == nil {
		t.Errorf("without a default route: %v, want an error", got)
	}
}

func FuzzOf(f *testing.F) {
	f.Add("10.0.0.7:1", "1.2.3.4, 203.0.113.9")
	f.Add("10.0.0.7:1", "[fd00::1]:80,,x")
	p := parse(f, "10.0.0.0/8")
	f.Fuzz(func(t *testing.T, peer, list string) {
		got := p.Of(&http.Request{RemoteAddr: peer, Header: http.Header{header: {list}}})
		from, err := netip.ParseAddrPort(peer)
		switch {
		case err != nil:
			if got.IsValid() {
				t.Errorf("%q is %v, want none", peer, got)
			}
		case !p.trusts(plain(from.Addr())) && got != plain(from.Addr()):
			t.Errorf("%q from %s is %v: a stranger's header was believed", list, peer, got)
		case got.Zone() != "" || got.Is4In6():
			t.Errorf("%v isn't in its plain form", got)
		}
	})
}
