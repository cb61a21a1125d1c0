package grant

import (
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/hostname"
)

// decision is what the grant of "p" says of a domain on port 443.
func (o *fixture) decision(t *testing.T, domain string) Decision {
	t.Helper()
	host, err := hostname.Parse(domain)
	if err != nil {
		t.Fatal(err)
	}
	return o.cache.Check("p", host, domain, 443)
}

func TestPathRules(t *testing.T) {
	o := newFixture(t)
	w := request("*", 443)
	w.PathRules = []PathRule{
		{Domains: []string{"api.x.com"}, Methods: []string{"GET", "HEAD"}, PathPrefixes: []string{"/v1/models", "/files/"}},
		{Domains: []string{"api.x.com"}, Methods: []string{"POST"}, PathPrefixes: []string{"/v1/chat"}},
		{Domains: []string{"*.y.com"}, Methods: []string{"GET"}},
		{PathPrefixes: []string{"/.well-known"}},
	}
	if _, err := o.Grant(t.Context(), "p", w); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		method, domain, path string
		want                 bool
	}{
		{"GET", "api.x.com", "/v1/models", true},
		{"GET", "api.x.com", "/v1/models/a?b=/../c", true},
		{"HEAD", "api.x.com", "/v1/models?x", true},
		{"GET", "api.x.com", "/v1/modelsx", false},
		{"GET", "api.x.com", "/v1", false},
		{"GET", "api.x.com", "/files", false},
		{"GET", "api.x.com", "/files/", true},
		{"GET", "api.x.com", "/files/x", true},
		{"POST", "api.x.com", "/v1/models", false},
		{"POST", "api.x.com", "/v1/chat", true},
		{"GET", "api.x.com", "/v1/chat", false},
		{"DELETE", "api.x.com", "/v1/chat", false},
		{"GET", "api.x.com", "/?/v1/models", false},
		{"GET", "a.y.com", "/any//thing/..;/%2f", true}, // no path is named
		{"POST", "a.y.com", "/", false},
		{"GET", "y.com", "/", false},
		{"PATCH", "other.com", "/.well-known/x", true},
		{"GET", "other.com", "/", false},
		// On what these mean, servers differ.
		{"GET", "api.x.com", "/v1/models/..%2F..%2Fadmin", false},
		{"GET", "api.x.com", "/v1/models%2F..%2Fadmin", false},
		{"GET", "api.x.com", "/v1/models//../admin", false},
		{"GET", "api.x.com", "/v1//models", false},
		{"GET", "api.x.com", "//v1/models", false},
		{"GET", "api.x.com", "/v1/models/..;/admin", false},
		{"GET", "api.x.com", "/v1/models/%252e%252e/admin", false},
		{"GET", "api.x.com", "/v1/models/..%5Cadmin", false},
		{"GET", "api.x.com", "/v1/models/%C0%AE%C0%AE/admin", false},
		{"GET", "api.x.com", "/v1/models/%00", false},
	}
	for _, tt := range tests {
		d := o.decision(t, tt.domain)
		if !d.Allowed {
			t.Fatalf("%s: denied (%s), want that the host is allowed", tt.domain, d.Reason)
		}
		if got := d.ForRequest(tt.method, tt.path); got.Allowed != tt.want || !tt.want && got.Reason != ReasonPathRules {
			t.Errorf("%s %s %s: got %v, want allowed %v, or else %s", tt.method, tt.domain, tt.path, got, tt.want, ReasonPathRules)
		}
	}
	if d := o.decision(t, "a.y.com").ForTunnel(); d.Allowed || d.Reason != ReasonTunnel {
		t.Errorf("a tunnel beside path rules: %+v, want the reason %q", d, ReasonTunnel)
	}
	if got := o.check("p", "api.x.com", 443); got != ReasonGranted { // network/check knows domains and ports
		t.Errorf("the check says %s, want it granted", got)
	}
	w.AllowTunnel = true
	if _, err := o.Grant(t.Context(), "p", w); err != nil {
		t.Fatal(err)
	}
	if d := o.decision(t, "a.y.com").ForTunnel(); !d.Allowed {
		t.Errorf("a tunnel with allow_tunnel: %+v, want it allowed", d)
	}
	if d := o.decision(t, "a.y.com").ForRequest("POST", "/"); d.Allowed {
		t.Error("allow_tunnel opens requests that can be read")
	}
	if d := (Decision{Reason: ReasonNone}); d.ForRequest("GET", "/") != d || d.ForTunnel() != d {
		t.Error("a denial becomes something else")
	}
	last := o.log.list[len(o.log.list)-1].Details
	if rules, ok := last["rules"].([]PathRule); !ok || len(rules) != 4 || last["allow_tunnel"] != true {
		t.Errorf("audited %v, want four rules and allow_tunnel", last)
	}
}

func TestGrantWithoutPathRules(t *testing.T) {
	o := newFixture(t)
	if _, err := o.Grant(t.Context(), "p", request("x.com", 443)); err != nil {
		t.Fatal(err)
	}
	d := o.decision(t, "x.com")
	if !d.Allowed || !d.ForTunnel().Allowed || !d.ForRequest("DELETE", "//%2f/..;/").Allowed {
		t.Errorf("got %+v, want that a grant without path rules allows everything", d)
	}
}

func TestInvalidPathRules(t *testing.T) {
	many := slices.Repeat([]PathRule{{Methods: []string{"GET"}}}, MaxRules+1)
	tests := []struct {
		rules []PathRule
		want  string
	}{
		{many, "Too many rules: 101 > 100"},
		{[]PathRule{{}}, "rules[0] must specify domains, methods or path_prefixes"},
		{[]PathRule{{Methods: []string{"GET"}}, {Domains: []string{"a..b"}}}, `Invalid domain in rules[1].domains: "a..b"`},
		{[]PathRule{{Methods: []string{"get"}}}, `Invalid method in rules[0].methods: "get"`},
		{[]PathRule{{Methods: []string{"CONNECT"}}}, `Invalid method in rules[0].methods: "CONNECT"`},
		{[]PathRule{{Methods: []string{"*"}}}, `Invalid method in rules[0].methods: "*"`},
		{[]PathRule{{Methods: slices.Repeat([]string{"GET"}, len(Methods)+1)}}, "Too many rules[0].methods: 40 > 39"},
		{[]PathRule{{Methods: []string{"TRACE"}}}, `Invalid method in rules[0].methods: "TRACE"`},
		{[]PathRule{{Methods: []string{"GTE"}}}, `Invalid method in rules[0].methods: "GTE"`},
		{[]PathRule{{Domains: slices.Repeat([]string{"a"}, MaxEntries+1)}}, "Too many rules[0].domains: 1001 > 1000"},
		{[]PathRule{{PathPrefixes: slices.Repeat([]string{"/"}, MaxPrefixes+1)}}, "Too many rules[0].path_prefixes: 101 > 100"},
		{[]PathRule{{PathPrefixes: []string{"v1"}}}, `Invalid path in rules[0].path_prefixes: "v1"`},
		{[]PathRule{{PathPrefixes: []string{"/a/../b"}}}, `Invalid path in rules[0].path_prefixes`},
		{[]PathRule{{PathPrefixes: []string{"/a%2fb"}}}, `Invalid path in rules[0].path_prefixes`},
		{[]PathRule{{PathPrefixes: []string{"/a?b"}}}, `Invalid path in rules[0].path_prefixes`},
		{[]PathRule{{PathPrefixes: []string{""}}}, `Invalid path in rules[0].path_prefixes`},
	}
	o := newFixture(t)
	for _, tt := range tests {
		w := request("x.com", 443)
		w.PathRules = tt.rules
		if _, err := o.Grant(t.Context(), "p", w); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want an error with %s", err, tt.want)
		}
	}
	if len(o.log.list) != 0 {
		t.Errorf("refused requests left the entries %v, want none", o.log.list)
	}
}

// What a grant no longer covers is cut off.
func TestPathRulesNarrow(t *testing.T) {
	get, post := PathRule{Methods: []string{"GET"}}, PathRule{Methods: []string{"POST"}}
	tests := []struct {
		name        string
		rules, next []PathRule
		was, is     bool // allow_tunnel
		want        bool
	}{
		{"rules come", nil, []PathRule{get}, false, true, true},
		{"rules go", []PathRule{get}, nil, false, false, false},
		{"one more", []PathRule{get}, []PathRule{post, get}, false, false, false},
		{"one less", []PathRule{get, post}, []PathRule{get}, false, false, true},
		{"another", []PathRule{get}, []PathRule{post}, false, false, true},
		{"tunnels go", []PathRule{get}, []PathRule{get}, true, false, true},
		{"tunnels come", []PathRule{get}, []PathRule{get}, false, true, false},
		{"tunnels go without rules", nil, nil, true, false, false},
	}
	for _, tt := range tests {
		o := newFixture(t)
		for i, rules := range [][]PathRule{tt.rules, tt.next} {
			w := request("x.com", 443)
			w.PathRules, w.AllowTunnel = rules, []bool{tt.was, tt.is}[i]
			if _, err := o.Grant(t.Context(), "p", w); err != nil {
				t.Fatal(err)
			}
		}
		if got := len(o.takeNarrowed()) > 0; got != tt.want {
			t.Errorf("%s: narrowed is %v, want %v", tt.name, got, tt.want)
		}
	}
}
