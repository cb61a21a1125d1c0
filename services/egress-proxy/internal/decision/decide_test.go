package decision

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
)

// stored is a store of grants that has only one.
type stored struct{ grant.Grant }

func (s stored) Revision(context.Context) (int64, error) { return 1, nil }

func (s stored) Grants(context.Context) ([]grant.Grant, int64, error) {
	return []grant.Grant{s.Grant}, 1, nil
}

func (stored) Apply(context.Context, string, func(*grant.Grant) (*grant.Grant, error)) error {
	return errors.ErrUnsupported
}

// cache has g only.
func cache(t *testing.T, g grant.Grant) *grant.Cache {
	t.Helper()
	b, err := grant.Open(t.Context(), stored{g}, policy.Fixed{Policy: policy.None()}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t *testing.T, url string) Destination {
	t.Helper()
	to, f := ParseURL(url)
	if f != nil {
		t.Fatalf("ParseURL(%q): %s, want it valid", url, f.Text)
	}
	return to
}

// The whole table of Decide, written a second time: every gate with every grant, method and body. A row of gates or grants says what it denies
// with; the first of them that denies decides.
func TestDecideMatrix(t *testing.T) {
	gates := []struct {
		name  string
		state gate.State
		known bool
		want  string // blocked_reason and text; "" for an open gate
	}{
		{"unknown", gate.State{}, false, "gate_closed: Pack is not known"},
		{"open", gate.State{Open: true, Status: "approved"}, true, ""},
		{"open and running", gate.State{Open: true, Status: "running"}, true, ""},
		{"approved, lease over", gate.State{Status: "approved"}, true, "gate_closed: Pack's approval can't be confirmed at the moment"},
		{"running, lease over", gate.State{Status: "running"}, true, "gate_closed: Pack's approval can't be confirmed at the moment"},
		{"modified", gate.State{Status: "modified"}, true, "pack_modified: Pack is disabled due to modification"},
		{"blocked", gate.State{Status: "blocked"}, true, "gate_closed: Pack is not approved (status: blocked)"},
		{"pending", gate.State{Status: "pending"}, true, "gate_closed: Pack is not approved (status: pending)"},
		{"no status", gate.State{}, true, "gate_closed: Pack is not approved (status: )"},
	}
	open := grant.Grant{PackID: "p", Enabled: true, AllowedDomains: []string{"x.example"}, AllowedPorts: []int{443}}
	with := func(change func(*grant.Grant)) grant.Grant {
		g := open
		change(&g)
		return g
	}
	// What a grant denies, by what is asked.
	const (
		tunnel = iota
		covered
		coveredBody // a body where it has a meaning
		strayBody   // a body where it has none
		uncovered
	)
	grants := []struct {
		name string
		g    grant.Grant
		want [5]string
	}{
		{"no rules", open, [5]string{}},
		{"every host and port", with(func(g *grant.Grant) { g.AllowedDomains, g.AllowedPorts = []string{"*"}, []int{0} }), [5]string{}},
		{"another host", with(func(g *grant.Grant) { g.AllowedDomains = []string{"y.example"} }), all("grant_denied: Domain 'x.example' not in allowed list")},
		{"another port", with(func(g *grant.Grant) { g.AllowedPorts = []int{80} }), all("grant_denied: Port 443 not in allowed list")},
		{"revoked", with(func(g *grant.Grant) { g.Enabled = false }), all("grant_denied: Network grant is disabled")},
		{"expired", with(func(g *grant.Grant) { g.ExpiresAt = time.Now().Add(-time.Minute) }), all("grant_denied: Network grant is disabled")},
		{"rules", with(func(g *grant.Grant) { g.PathRules = []grant.PathRule{{PathPrefixes: []string{"/v1"}}} }), [5]string{
			tunnel: "rule_denied: Grant with rules does not allow tunnels", strayBody: "body_denied: Grant with rules does not allow a body with ",
			uncovered: "rule_denied: Request is not covered by the rules of the grant",
		}},
		{"rules and tunnels", with(func(g *grant.Grant) {
			g.PathRules, g.AllowTunnel = []grant.PathRule{{PathPrefixes: []string{"/v1"}}}, true
		}), [5]string{
			strayBody: "body_denied: Grant with rules does not allow a body with ", uncovered: "rule_denied: Request is not covered by the rules of the grant",
		}},
	}
	requests := []struct {
		kind    int
		method  string
		path    string
		hasBody bool
	}{
		{tunnel, "CONNECT", "", false},
		{covered, "GET", "/v1/models", false}, {covered, "HEAD", "/v1/models", false}, {covered, "DELETE", "/v1/models", false},
		{covered, "POST", "/v1/models", false}, {covered, "OPTIONS", "/v1/models", false},
		{coveredBody, "POST", "/v1/models?a=b", true}, {coveredBody, "PUT", "/v1/models", true}, {coveredBody, "PATCH", "/v1/models", true}, {coveredBody, "QUERY", "/v1", true},
		{strayBody, "GET", "/v1/models", true}, {strayBody, "HEAD", "/v1/models", true}, {strayBody, "DELETE", "/v1/models", true},
		{uncovered, "GET", "/", false}, {uncovered, "POST", "/v2", true}, {uncovered, "GET", "/v1/../v2", false}, {uncovered, "GET", "/v1%2f..", false},
	}
	for _, gr := range grants {
		b := cache(t, gr.g)
		for _, gt := range gates {
			for _, r := range requests {
				to := parse(t, "https://x.example"+r.path)
				want := gt.want
				if want == "" {
					want = gr.want[r.kind]
					if r.kind == strayBody && slices.Contains([]string{"rules", "rules and tunnels"}, gr.name) {
						want += r.method
					}
				}
				d := Decide(gt.state, gt.known, b.Check("p", to.Host, to.Host.Name, to.Port), Request{Method: r.method, To: to, HasBody: r.hasBody})
				got := ""
				if d.Denied != nil {
					got = d.Denied.Reason + ": " + d.Denied.Detail
				}
				about := fmt.Sprintf("gate %s, grant %s, %s %s, body %t", gt.name, gr.name, r.method, r.path, r.hasBody)
				if got != want {
					t.Errorf("%s: denied with %q, want %q", about, got, want)
				}
				if d.Denied != nil && (d.Denied.Kind != KindGrant || d.Denied.Text != "Network access denied: "+d.Denied.Detail) {
					t.Errorf("%s: denied as %q with the text %q, want the grant's kind and the detail in the text", about, d.Denied.Kind, d.Denied.Text)
				}
				if wantClose := want == "" && r.hasBody && len(gr.g.PathRules) > 0; d.CloseAfter != wantClose {
					t.Errorf("%s: CloseAfter = %t, want %t", about, d.CloseAfter, wantClose)
				}
			}
		}
	}
}

func all(want string) [5]string { return [5]string{want, want, want, want, want} }

func TestHost(t *testing.T) {
	closed, opened := address.NewPolicy(nil), address.NewPolicy([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
	for _, tt := range []struct {
		url      string
		policy   *address.Policy
		resolved bool
		want     string // blocked_reason and detail
	}{
		{"http://x.example/", closed, false, ""},
		{"http://93.184.216.34/", closed, true, ""},
		{"http://10.0.0.1/", closed, false, "internal_ip_blocked: private"},
		{"http://10.0.0.1/", opened, true, ""},
		{"http://127.1/", opened, false, "internal_ip_blocked: numeric form of 127.0.0.1"},
		{"http://134744072/", closed, false, "internal_ip_blocked: numeric form of 8.8.8.8"}, // servers read it as one or the other
		{"http://gateway/", opened, false, "internal_name_blocked: gateway"},
		{"http://metadata.google.internal/", opened, false, "internal_name_blocked: metadata.google.internal"},
	} {
		resolved, f := Host(tt.policy, parse(t, tt.url))
		if got := because(f); got != tt.want || resolved != tt.resolved {
			t.Errorf("%s: resolved %t, denied with %q; want %t, %q", tt.url, resolved, got, tt.resolved, tt.want)
		}
	}
}

func TestAddresses(t *testing.T) {
	policy := address.NewPolicy(nil)
	for _, tt := range []struct {
		addrs []string
		want  string
	}{
		{[]string{"93.184.216.34"}, ""},
		{[]string{"93.184.216.34", "2606:2800:220:1::1"}, ""},
		{[]string{"10.0.0.1"}, "dns_blocked: private"},
		{[]string{"10.0.0.1", "169.254.169.254"}, "dns_blocked: metadata"},
		{[]string{"93.184.216.34", "10.0.0.1"}, "dns_rebinding_blocked: private"},
		{[]string{"10.0.0.1", "93.184.216.34"}, "dns_rebinding_blocked: private"},
	} {
		var addrs []netip.Addr
		for _, a := range tt.addrs {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		if got := because(Addresses(policy, addrs, 443)); got != tt.want {
			t.Errorf("%v: denied with %q, want %q", tt.addrs, got, tt.want)
		}
	}
}

func because(f *Failure) string {
	if f == nil {
		return ""
	}
	return f.Reason + ": " + f.Detail
}
