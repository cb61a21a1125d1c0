package grant

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/hostname"
)

// refusals reads "METHOD host:port" and "METHOD host:port/path", the latter refused by rules, separated by spaces.
func refusals(t *testing.T, s string) (list []Refusal) {
	t.Helper()
	fields := strings.Fields(s)
	for i := 0; i+1 < len(fields); i += 2 {
		at, path, ruled := strings.Cut(fields[i+1], "/")
		r := Refusal{Method: fields[i], Reason: Denied}
		colon := strings.LastIndexByte(at, ':')
		r.Host = at[:colon]
		if _, err := fmt.Sscan(at[colon+1:], &r.Port); err != nil {
			t.Fatal(err)
		}
		if ruled {
			r.Reason, r.Path = RuleDenied, "/"+path
		}
		list = append(list, r)
	}
	return list
}

func TestPropose(t *testing.T) {
	now := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	granted := func(domains, ports string, rules ...PathRule) *Grant {
		g := &Grant{PackID: "p", Enabled: true, AllowedDomains: strings.Fields(domains), PathRules: rules}
		for _, text := range strings.Fields(ports) {
			var port int
			fmt.Sscan(text, &port)
			g.AllowedPorts = append(g.AllowedPorts, port)
		}
		return g
	}
	revoked, expired := granted("old.com", "1"), granted("old.com", "1")
	revoked.Enabled, expired.ExpiresAt = false, now
	get := PathRule{Domains: []string{"x.com"}, Methods: []string{"GET"}, PathPrefixes: []string{"/v1"}}
	rule := func(domain, method string, prefixes ...string) PathRule {
		return PathRule{Domains: []string{domain}, Methods: []string{method}, PathPrefixes: append([]string{}, prefixes...)}
	}
	var many, prefixes string
	for i := range MaxEntries + 5 {
		many += fmt.Sprintf("GET h%d.com:443 ", i)
		prefixes += fmt.Sprintf("GET x.com:443/p%d ", i)
	}
	tests := []struct {
		name, refused, domains, ports string
		old                           *Grant
		rules                         []PathRule
		tunnel                        bool
	}{
		{"nothing", "", "", "", nil, nil, false},
		{"first grant", "GET b.com:443 POST a.com:8443 GET a.com:443", "a.com b.com", "443 8443", nil, nil, false},
		{"addresses", "GET 9.9.9.9:53 GET 2620:fe::fe:443", "2620:fe::fe 9.9.9.9", "443 53", nil, nil, false},
		{"merged", "GET b.com:80 GET x.com:80", "x.com b.com", "443 80", granted("x.com", "443"), nil, false},
		{"covered by a wildcard", "GET a.x.com:80", "*.x.com", "443 80", granted("*.x.com", "443"), nil, false},
		{"not covered by it", "GET x.com:443", "*.x.com x.com", "443", granted("*.x.com", "443"), nil, false},
		{"every port", "GET a.com:80", "x.com a.com", "0", granted("x.com", "0"), nil, false},
		{"every host", "GET a.com:80", "*", "443 80", granted("*", "443"), nil, false},
		{"granted since", "GET x.com:443", "x.com", "443", granted("x.com", "443"), nil, false},
		{"revoked", "GET a.com:80", "a.com", "80", revoked, nil, false},
		{"expired", "GET a.com:80", "a.com", "80", expired, nil, false},
		{"what no grant opens", "GET closed.com:80 GET 0x7f.1:80 GET ..:80", "", "", nil, nil, false},
		{"a method", "POST x.com:443/v1/a", "x.com", "443", granted("x.com", "443", get), []PathRule{get, rule("x.com", "POST", "/v1/a")}, false},
		{"paths", "GET x.com:443/v2 GET x.com:443/v2/b GET x.com:443/u", "x.com", "443", granted("x.com", "443", get), []PathRule{get, rule("x.com", "GET", "/u", "/v2")}, false},
		{"a host beside rules", "GET y.com:443", "x.com y.com", "443", granted("x.com", "443", get), []PathRule{get, rule("y.com", "GET")}, false},
		{"all of a host before its paths", "GET y.com:443/a GET y.com:8443", "x.com y.com", "443 8443", granted("x.com", "443 8443", get), []PathRule{get, rule("y.com", "GET")}, false},
		{"a port beside rules", "GET x.com:80", "x.com", "443 80", granted("x.com", "443", get), []PathRule{get}, false},
		{"a tunnel beside rules", "CONNECT y.com:443", "x.com y.com", "443", granted("x.com", "443", get), []PathRule{get}, true},
		{"a tunnel without rules", "CONNECT y.com:443", "x.com y.com", "443", granted("x.com", "443"), nil, false},
		{"paths that servers read differently", "GET x.com:443/v1/..%2Fa GET x.com:443//v2 GET x.com:443/a;/..;/b", "x.com", "443", granted("x.com", "443", get), []PathRule{get}, false},
		{"a method that no rule may name", "TRACE y.com:443", "x.com", "443", granted("x.com", "443", get), []PathRule{get}, false},
		{"rules went", "GET x.com:443/v2", "x.com", "443", granted("x.com", "443"), nil, false},
	}
	obstacle := func(h hostname.Host, _ uint16) (string, string) {
		if h.Name == "closed.com" {
			return "closed", "RUMI_OPEN"
		}
		return "", ""
	}
	for _, tt := range tests {
		w, _, err := propose(tt.old, refusals(t, tt.refused), obstacle, now)
		if err != nil {
			t.Fatalf("%s: error %v, want a proposal", tt.name, err)
		}
		want := granted(tt.domains, tt.ports)
		if strings.Join(w.AllowedDomains, " ") != tt.domains || fmt.Sprint(w.AllowedPorts) != fmt.Sprint(want.AllowedPorts) {
			t.Errorf("%s: %v %v, want %s %s", tt.name, w.AllowedDomains, w.AllowedPorts, tt.domains, tt.ports)
		}
		if !reflect.DeepEqual(w.PathRules, tt.rules) || w.AllowTunnel != tt.tunnel {
			t.Errorf("%s: rules %v, tunnels %v; want %v, %v", tt.name, w.PathRules, w.AllowTunnel, tt.rules, tt.tunnel)
		}
		if err := w.Check(now); err != nil && tt.domains != "" {
			t.Errorf("%s: the proposal can't be posted: %v", tt.name, err)
		}
	}
	for _, refused := range []string{many, prefixes} {
		w, leftOut, err := propose(granted("x.com", "443", get), refusals(t, refused), obstacle, now)
		if err != nil || w.Check(now) != nil {
			t.Errorf("%d domains, %d rules: %v, %v; want a proposal that can be posted", len(w.AllowedDomains), len(w.PathRules), err, w.Check(now))
		}
		if len(leftOut) == 0 || !strings.Contains(leftOut[0].Why, "at most") {
			t.Errorf("left out %v, want those over a bound, with the bound", leftOut)
		}
	}
}

func TestProposeKeepsTheRest(t *testing.T) {
	o := newFixture(t)
	w := request("x.com", 443)
	w.Notes, w.ExpiresAt = "why", time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	if _, err := o.Grant(t.Context(), "p", w); err != nil {
		t.Fatal(err)
	}
	all := func(hostname.Host, uint16) (string, string) { return "", "" }
	got, _, err := o.Propose(t.Context(), "p", refusals(t, "GET y.com:80"), all)
	if want := (Request{AllowedDomains: []string{"x.com", "y.com"}, AllowedPorts: []int{443, 80}, Notes: "why", ExpiresAt: w.ExpiresAt}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if g, _ := o.cache.Get("p"); len(g.AllowedDomains) != 1 {
		t.Errorf("a proposal changed the grant: %+v, want one domain as before", g)
	}
	if _, _, err := o.Propose(t.Context(), "never", nil, all); err == nil || !strings.Contains(err.Error(), "Pack not found") {
		t.Errorf("of an unknown pack: %v; want that it is not found", err)
	}
}

// Whatever a proposal doesn't mend is told, with the reason and the setting that changes it.
func TestProposeTellsWhatItLeavesOut(t *testing.T) {
	obstacle := func(h hostname.Host, _ uint16) (string, string) {
		if h.Name == "nas.lan" {
			return "internal", "RUMI_EGRESS_ALLOW_CIDRS"
		}
		return "", ""
	}
	get := PathRule{Domains: []string{"x.com"}, Methods: []string{"GET"}, PathPrefixes: []string{"/v1"}}
	old := &Grant{PackID: "p", Enabled: true, AllowedDomains: []string{"x.com"}, AllowedPorts: []int{443}, PathRules: []PathRule{get}}
	refused := refusals(t, "GET nas.lan:80 GET 0x7f.1:80 TRACE x.com:443 GET x.com:443//v2 POST x.com:443/a/***/b GET x.com:443/v1/***")
	w, leftOut, err := propose(old, refused, obstacle, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	why := map[string]string{}
	for _, l := range leftOut {
		why[l.Method+" "+l.Host+l.Path] = l.Why + " " + l.Setting
	}
	for what, want := range map[string]string{
		"GET nas.lan":   "internal RUMI_EGRESS_ALLOW_CIDRS",
		"GET 0x7f.1":    "not a host that a grant can name ",
		"TRACE x.com":   "no rule may name the method TRACE ",
		"GET x.com//v2": "servers read this path differently: no rule covers it ",
	} {
		if why[what] != want {
			t.Errorf("%s is left out because %q, want %q", what, why[what], want)
		}
	}
	if len(leftOut) != 4 {
		t.Errorf("left out %v, want four", leftOut)
	}
	// A segment that looked like a credential isn't known, and stands in no rule.
	want := []PathRule{get, {Domains: []string{"x.com"}, Methods: []string{"POST"}, PathPrefixes: []string{"/a/"}}}
	if !reflect.DeepEqual(w.PathRules, want) {
		t.Errorf("rules %v, want %v", w.PathRules, want)
	}
}
