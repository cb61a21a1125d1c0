package grant

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/hostname"
)

func TestWarnings(t *testing.T) {
	obstacle := func(h hostname.Host, port uint16) (string, string) {
		if strings.HasSuffix(h.Name, ".lan") || h.Name == "127.0.0.9" && port == 443 || h.Name == "::1" {
			return "closed", ""
		}
		return "", ""
	}
	rule := func(domains ...string) PathRule { return PathRule{Domains: domains, Methods: []string{"GET"}} }
	for _, tt := range []struct {
		name    string
		domains string
		ports   []int
		rules   []PathRule
		tunnel  bool
		want    []string
	}{
		{"all is well", "x.com *.y.com 9.9.9.9", []int{443}, nil, false, nil},
		{"no port", "x.com", nil, nil, false, []string{"no port is named: nothing is allowed (allowed_ports)"}},
		{"no port and closed", "a.lan", nil, nil, false, []string{"no port is named: nothing is allowed (allowed_ports)", "a.lan is closed"}},
		{"no domain", "", []int{443}, nil, false, []string{"no domain is named: nothing is allowed (allowed_domains)"}},
		{"every host", "*", []int{443}, nil, false, []string{"every host is allowed"}},
		{"every port", "x.com", []int{0}, nil, false, []string{"every port is allowed"}},
		{"everything", "*", []int{0}, nil, false, []string{"every host and port is allowed"}},
		{"closed", "a.lan *.lan ::1", []int{443}, nil, false, []string{"a.lan is closed", "*.lan is closed", "::1 is closed"}},
		{"closed at every port", "a.lan", []int{0}, nil, false, []string{"every port is allowed", "a.lan is closed"}},
		{"open at one port", "127.0.0.9", []int{443, 80}, nil, false, nil},
		{"a rule for a host that isn't granted", "x.com", []int{443}, []PathRule{rule("x.com"), rule("z.com")}, false, []string{"rules[1] covers no domain of allowed_domains: it allows nothing"}},
		{"a host without a rule", "x.com y.com", []int{443}, []PathRule{rule("x.com")}, false, []string{"y.com is covered by no rule: every request to it is refused"}},
		{"tunnels to it are allowed", "x.com y.com", []int{443}, []PathRule{rule("x.com")}, true, []string{"y.com is covered by no rule: only tunnels to it are allowed"}},
		{"a rule for all", "x.com y.com", []int{443}, []PathRule{rule()}, false, nil},
		{"a rule below a wildcard", "*.x.com", []int{443}, []PathRule{rule("a.x.com")}, false, nil},
		{"a wildcard rule", "a.x.com", []int{443}, []PathRule{rule("*.x.com")}, false, nil},
		{"every host has a rule for some", "*", []int{443}, []PathRule{rule("a.x.com")}, false, []string{"every host is allowed"}},
	} {
		g := Grant{AllowedDomains: strings.Fields(tt.domains), AllowedPorts: tt.ports, PathRules: tt.rules, AllowTunnel: tt.tunnel}
		if got := g.Warnings(obstacle); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	var many []string
	for i := range MaxEntries {
		many = append(many, fmt.Sprintf("h%d.lan", i))
	}
	got := (&Grant{AllowedDomains: many, AllowedPorts: []int{443}}).Warnings(obstacle)
	if want := fmt.Sprintf("and %d more of this kind", MaxEntries-maxWarnings); len(got) != maxWarnings+1 || got[maxWarnings] != want {
		t.Errorf("%d warnings, the last %q; want %d, the last %q", len(got), got[len(got)-1], maxWarnings+1, want)
	}
}

// A grant replaces the one before; what it takes away is told.
func TestGrantTellsWhatItRemoves(t *testing.T) {
	get, post := PathRule{Methods: []string{"GET"}}, PathRule{Methods: []string{"POST"}}
	ruled := func(w Request, tunnel bool, rules ...PathRule) Request {
		w.PathRules, w.AllowTunnel = rules, tunnel
		return w
	}
	for _, tt := range []struct {
		name        string
		first, then Request
		want        string
	}{
		{"the same", request("x.com", 443), request("x.com", 443), ""},
		{"more", request("x.com", 443), request("x.com y.com", 443, 80), ""},
		{"everything", request("x.com", 443), request("*", 0), ""},
		{"another host", request("x.com", 443), request("y.com", 443), "no longer granted: x.com"},
		{"fewer", request("x.com y.com", 443, 80), request("y.com", 443), "no longer granted: x.com, port 80"},
		{"rules", request("x.com", 443), ruled(request("x.com", 443), false, get), "no longer granted: tunnels"},
		{"other rules", ruled(request("x.com", 443), true, get, post), ruled(request("x.com", 443), true, get), "no longer granted: a rule"},
		{"no rules", ruled(request("x.com", 443), false, get), request("x.com", 443), ""},
	} {
		o := newFixture(t)
		if first, err := o.Grant(t.Context(), "p", tt.first); err != nil || first.Removed.Any() {
			t.Fatalf("%s: %v, removed %v; want the first grant to remove nothing", tt.name, err, first.Removed)
		}
		second, err := o.Grant(t.Context(), "p", tt.then)
		if err != nil || second.Removed.Warning() != tt.want {
			t.Errorf("%s: got %q, %v; want %q", tt.name, second.Removed.Warning(), err, tt.want)
		}
		if _, err := o.Revoke(t.Context(), "p", ""); err != nil {
			t.Fatal(err)
		}
		if third, err := o.Grant(t.Context(), "p", request("z.com", 1)); err != nil || third.Removed.Any() {
			t.Errorf("%s: after a revoke %v, removed %v; want nothing", tt.name, err, third.Removed)
		}
	}
	o, soon := newFixture(t), request("x.com", 443)
	soon.ExpiresAt = time.Now().Add(time.Hour)
	if _, err := o.Grant(t.Context(), "p", soon); err != nil {
		t.Fatal(err)
	}
	if g, err := o.Grant(t.Context(), "p", request("y.com", 443)); err != nil || g.Removed.Warning() != "no longer granted: x.com" {
		t.Errorf("got the warning %q, error %v, want that x.com is no longer granted", g.Removed.Warning(), err)
	}
}

// Who copies a URL into a grant is told the name in it.
func TestInvalidDomainNamesTheName(t *testing.T) {
	for domain, want := range map[string]string{
		"https://api.openai.com/v1": "want the name alone: api.openai.com; ports go to allowed_ports, paths to rules",
		"api.example.com:8443":      "want the name alone: api.example.com;",
		"Api.Example.com./v1?x=1":   "want the name alone: api.example.com;",
		"https://[2620:fe::fe]:1/":  "want the name alone: 2620:fe::fe;",
		"*.x.com/a":                 "want the name alone: *.x.com;",
		"a b":                       "want a name such as api.example.com",
		"https://user:pw@x.com/":    "want a name such as api.example.com",
		"https://":                  "want a name such as api.example.com",
		"0x7f.1":                    "want a name such as api.example.com",
	} {
		w := Request{AllowedDomains: []string{domain}, AllowedPorts: []int{443}}
		if got := w.Check(time.Now()); got == nil || !strings.Contains(got.Error(), want) {
			t.Errorf("%q: got %v, want %q", domain, got, want)
		}
	}
}
