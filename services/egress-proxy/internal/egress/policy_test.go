package egress

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/resolve"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/session"
)

// Addresses of conformance.md, written as a URL writes them.
var deniedAddresses = strings.Fields(`
	0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 127.0.0.1 127.8.8.8 169.254.1.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.168.1.1
	198.18.0.1 198.19.255.255 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 100.100.100.200 168.63.129.16
	[::] [::1] [fc00::1] [fd00::1] [fd00:ec2::254] [fe80::1] [febf::1] [fec0::1] [ff02::1]
	[::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:8.8.8.8] [::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b::8.8.8.8] [64:ff9b:1::a00:1]
	[2002:7f00:1::] [2002:808:808::] [2001:0:4136:e378:8000:63bf:3fff:fdd2] [2001:db8::1] [100::1]
	2130706433 0x7f000001 0x7F.1 0177.0.0.1 017700000001 127.1 127.0.1 10.1 0 0x0 0x08080808 134744072 8.8.2056 010.8.8.8
	１２７.0.0.1 127。0。0。1 127.0.0.1. 0x7f.0.0.1.`)

func TestDeniedLiterals(t *testing.T) {
	w := newWorld(t)
	for _, host := range deniedAddresses {
		for _, scheme := range []string{"http://", "https://"} {
			url := scheme + host + "/secret?token=x"
			r := w.ask("GET", url)
			if r.errorType() != "blocked" || r.errorText() != "Request blocked by security policy" {
				t.Errorf("%s: got %s %q, want blocked", url, r.errorType(), r.errorText())
			}
			if resolved, dialled := w.contacts(); resolved != nil || dialled != nil {
				t.Errorf("%s: looked up %v and dialled %v, want neither", url, resolved, dialled)
			}
			entries := w.audited()
			if len(entries) != 2 || entries[0].Category != audit.Security || entries[1].Category != audit.Network {
				t.Fatalf("%s: the entries are %+v, want one of security and one of network", url, entries)
			}
			for _, e := range entries {
				if e.Success || e.Details["blocked_reason"] != "internal_ip_blocked" || e.OwnerPack != "p" {
					t.Errorf("%s: the entry is %+v, want p's refusal with internal_ip_blocked", url, e)
				}
			}
		}
	}
}

func TestDeniedAnswersOfDNS(t *testing.T) {
	w := newWorld(t)
	for _, host := range deniedAddresses {
		addr := strings.Trim(host, "[]")
		if strings.ContainsAny(addr, "x１。") || !strings.Contains(addr, ":") && strings.Count(addr, ".") != 3 || strings.HasSuffix(addr, ".") || strings.HasPrefix(addr, "01") {
			continue // a spelling, not an address
		}
		name := "n" + strings.NewReplacer(":", "-", ".", "-").Replace(addr) + ".example"
		w.names[name] = []string{addr}
		w.names["mixed."+name] = []string{"93.184.216.34", addr}
		w.names["mixed2."+name] = []string{addr, "93.184.216.34"}
		for host, reason := range map[string]string{name: "dns_blocked", "mixed." + name: "dns_rebinding_blocked", "mixed2." + name: "dns_rebinding_blocked"} {
			r := w.ask("GET", "https://"+host+"/")
			if r.errorType() != "blocked" {
				t.Errorf("%s: got %s %q, want blocked (%s)", host, r.errorType(), r.errorText(), reason)
			}
			if resolved, dialled := w.contacts(); !slices.Equal(resolved, []string{host}) || dialled != nil {
				t.Errorf("%s: looked up %v and dialled %v, want it looked up alone, and no dial", host, resolved, dialled)
			}
			for _, e := range w.audited() {
				if e.Details["blocked_reason"] != reason {
					t.Errorf("%s: %v, want %s", host, e.Details["blocked_reason"], reason)
				}
			}
		}
	}
}

func TestDeniedNames(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{
		"gateway", "GATEWAY", "gateway.", "pack-registry", "approval", "egress-proxy", "capability-broker", "pip-installer", "secrets",
		"consul", "prometheus", "tasks.gateway", "gateway.service.consul", "host.docker.internal", "ｈost.docker.internal", "metadata.google.internal",
		"localhost", "x.localhost",
	} {
		w.names[strings.ToLower(strings.TrimSuffix(name, "."))] = []string{"93.184.216.34"}
		if r := w.ask("GET", "http://"+name+":8080/"); r.errorType() != "blocked" {
			t.Errorf("%s: got %s %q, want blocked", name, r.errorType(), r.errorText())
		}
		if resolved, dialled := w.contacts(); resolved != nil || dialled != nil {
			t.Errorf("%s: looked up %v and dialled %v, want neither", name, resolved, dialled)
		}
	}
}

// What can't be told before a request has passed one check must not be done before it.
func TestOrder(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Rate = 60 })
	w.grants["p"] = []string{"*.example", "gateway", "10.0.0.1"}
	tests := []struct {
		name, url, kind, text string
		state                 gate.State
	}{
		{"protocol before gate", "ftp://x.example/", "validation_error", "Unsupported scheme: ftp", gate.State{}},
		{"gate before grant", "http://x.org/", "grant_denied", "Network access denied: Pack is not approved (status: blocked)", gate.State{Status: "blocked"}},
		{"modified", "http://x.example/", "grant_denied", "Network access denied: Pack is disabled due to modification", gate.State{Status: "modified"}},
		{"lease", "http://x.example/", "grant_denied", "Network access denied: Pack's approval can't be confirmed at the moment", gate.State{Status: "approved"}},
		{"grant before DNS", "http://x.org/", "grant_denied", "Network access denied: Domain 'x.org' not in allowed list", gate.State{Open: true}},
		{"grant before names", "http://consul/", "grant_denied", "Network access denied: Domain 'consul' not in allowed list", gate.State{Open: true}},
		{"grant before addresses", "http://127.0.0.1/", "grant_denied", "Network access denied: Domain '127.0.0.1' not in allowed list", gate.State{Open: true}},
	}
	for _, tt := range tests {
		w.gates["p"] = tt.state
		for range 200 { // denials cost no tokens
			if r := w.ask("GET", tt.url); r.errorType() != tt.kind || r.errorText() != tt.text {
				t.Fatalf("%s: got %s %q, want %s %q", tt.name, r.errorType(), r.errorText(), tt.kind, tt.text)
			}
		}
		if resolved, dialled := w.contacts(); resolved != nil || dialled != nil {
			t.Errorf("%s: looked up %v and dialled %v, want neither", tt.name, resolved, dialled)
		}
	}
	delete(w.gates, "p")
	if r := w.ask("GET", "http://x.example/"); r.errorText() != "Network access denied: Pack is not known" {
		t.Errorf("an unknown pack: got %q, want that it is not known", r.errorText())
	}
	w.gates["p"] = gate.State{Open: true}
	for i := range session.RateBurst {
		if r := w.ask("GET", "http://10.0.0.1/"); r.errorType() != "blocked" {
			t.Fatalf("request %d: got %s, want blocked", i, r.errorType())
		}
	}
	for _, url := range []string{"http://10.0.0.1/", "http://gateway/", "http://x.example/"} { // rate before all the rest
		if r := w.ask("GET", url); r.errorType() != "rate_limited" || r.errorText() != "Rate limit exceeded" {
			t.Errorf("%s: got %s %q, want rate_limited", url, r.errorType(), r.errorText())
		}
	}
	if resolved, dialled := w.contacts(); resolved != nil || dialled != nil {
		t.Errorf("looked up %v and dialled %v, want neither", resolved, dialled)
	}
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	w.grants["p"] = []string{"api.example", "*.wild.example", "bücher.example"}
	ok := func(rw http.ResponseWriter, r *http.Request) { rw.Write([]byte(r.Host)) }
	for i, name := range []string{"api.example", "a.wild.example", "xn--bcher-kva.example"} {
		w.site(name, "93.184.216."+string(rune('1'+i)), false, ok)
	}
	for host, want := range map[string]string{
		"api.example": "api.example", "API.Example": "api.example", "api.example.": "api.example", "ａｐｉ.example": "api.example", "api。example": "api.example",
		"a.wild.example": "a.wild.example", "bücher.example": "xn--bcher-kva.example", "BÜCHER.example.": "xn--bcher-kva.example",
	} {
		if r := w.ask("GET", "http://"+host+"/"); !r.Success || *r.Body != want {
			t.Errorf("%s: got %s, %v; want the body %s", host, r.errorText(), r.Body, want)
		}
	}
	w.contacts()
	for host, kind := range map[string]string{
		"evilapi.example": "grant_denied", "api.example.evil.org": "grant_denied", "wild.example": "grant_denied", "evilwild.example": "grant_denied",
		"xapi.example": "grant_denied", "bucher.example": "grant_denied",
		"[api.example]": "validation_error", "api.example%2eevil.org": "validation_error", "%61pi.example": "validation_error",
		"api.example%00.org": "validation_error", "api..example": "validation_error", ".api.example": "validation_error", "": "validation_error", ".": "validation_error",
		"user@api.example": "validation_error", "user:pass@api.example": "validation_error", "@api.example": "validation_error",
		"evil.org\\@api.example": "validation_error", "api.example:0": "validation_error", "api.example:65536": "validation_error", "api.example:x": "validation_error",
		"api example": "validation_error", "api.example\n": "validation_error", "api.example\x00": "validation_error", "[fe80::1%25eth0]": "validation_error",
		strings.Repeat("a.", 127) + "example": "validation_error", strings.Repeat("a", 64) + ".example": "validation_error", "1.2.3.256": "validation_error",
	} {
		if r := w.ask("GET", "http://"+host+"/"); r.errorType() != kind {
			t.Errorf("%q: %s %q, want %s", host, r.errorType(), r.errorText(), kind)
		}
	}
	if resolved, dialled := w.contacts(); resolved != nil || dialled != nil {
		t.Errorf("looked up %v and dialled %v, want neither", resolved, dialled)
	}
}

// A second answer that differs from the first is judged like the first: nothing is dialled that was not judged.
func TestRebinding(t *testing.T) {
	w := newWorld(t)
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) {})
	if r := w.ask("GET", "http://x.example/"); !r.Success {
		t.Fatalf("the first request fails: %s; want success", r.errorText())
	}
	w.names["x.example"] = []string{"127.0.0.1"}
	w.proxy.packs.Names = resolve.New(w)
	w.contacts()
	if r := w.ask("GET", "http://x.example/"); r.errorType() != "blocked" { // though a connection to the first is still open
		t.Errorf("after the name changed to 127.0.0.1: got %s %q, want blocked", r.errorType(), r.errorText())
	}
	w.names["x.example"] = []string{"93.184.216.35"}
	w.proxy.packs.Names = resolve.New(w)
	w.at("x.example", "93.184.216.35", "80", w.sites["93.184.216.34:80"])
	w.names["x.example"] = []string{"93.184.216.35"}
	if r := w.ask("GET", "http://x.example/"); !r.Success {
		t.Errorf("after the name changed to a public address: %s; want success", r.errorText())
	}
	if _, dialled := w.contacts(); !slices.Equal(dialled, []string{"93.184.216.35:80"}) {
		t.Errorf("dialled %v, want the address that was judged", dialled)
	}
}

// Opened ranges are open to grants, and to none else; whatever they hold, metadata addresses and the suite stay closed, by
// address, by a name of anybody's, and by the suite's own names.
func TestOpenedRanges(t *testing.T) {
	opened := address.NewPolicy([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")})
	opened.SetSelf(address.Self{Hosts: []netip.Addr{netip.MustParseAddr("172.18.0.2")}, Listeners: []netip.AddrPort{netip.MustParseAddrPort("[::]:8080")}})
	w := newWorld(t, func(c *Config) { c.Addresses = opened })
	w.site("model.example", "192.168.1.9", false, func(rw http.ResponseWriter, r *http.Request) {})
	w.names["gateway"] = []string{"192.168.1.9"}
	w.names["ours.example"] = []string{"172.18.0.2"}
	w.names["both.example"] = []string{"192.168.1.9", "172.18.0.2"}
	w.names["meta.example"] = []string{"169.254.169.254"}
	w.names["mapped.example"] = []string{"::ffff:172.18.0.2"}
	for url, want := range map[string]string{
		"http://model.example/": "", "http://192.168.1.9/": "", // and what was not opened for them: see TestDeniedLiterals
		"http://gateway/": "internal_name_blocked", "http://tasks.gateway/": "internal_name_blocked", "http://host.docker.internal/": "internal_name_blocked",
		"http://metadata.google.internal/": "internal_name_blocked",
		"http://172.18.0.2/":               "internal_ip_blocked", "http://172.18.0.2:9090/": "internal_ip_blocked", "http://[::ffff:172.18.0.2]/": "internal_ip_blocked",
		"http://[64:ff9b::ac12:2]/": "internal_ip_blocked", "http://127.0.0.1:8080/": "internal_ip_blocked", "http://[::1]:8080/": "internal_ip_blocked",
		"http://localhost:8080/": "dns_blocked", "http://ours.example/": "dns_blocked", "http://mapped.example/": "dns_blocked", "http://both.example/": "dns_rebinding_blocked",
		"http://169.254.169.254/": "internal_ip_blocked", "http://[fd00:ec2::254]/": "internal_ip_blocked", "http://100.100.100.200/": "internal_ip_blocked",
		"http://meta.example/": "dns_blocked", "http://0.0.0.0/": "internal_ip_blocked", "http://0x7f.1/": "internal_ip_blocked",
	} {
		w.audited()
		w.contacts()
		r := w.ask("GET", url)
		var reason any = ""
		if e := w.audited(); e[0].Details["blocked_reason"] != nil {
			reason = e[0].Details["blocked_reason"]
		}
		if _, dialled := w.contacts(); reason != want || r.Success != (want == "") || want != "" && dialled != nil {
			t.Errorf("%s: reason %v, %s, dialled %v; want the reason %q, and no dial with one", url, reason, r.errorText(), dialled, want)
		}
	}
	w.grants["p"] = []string{"model.example"}
	if r := w.ask("GET", "http://192.168.1.9/"); r.errorType() != "grant_denied" {
		t.Errorf("opened, not granted: got %s, want grant_denied", r.errorType())
	}
}
