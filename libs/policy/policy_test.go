package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/hostname"
)

func mustParse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse(%s) = %v", text, err)
	}
	return p
}

func TestNetwork(t *testing.T) {
	none := None()
	p := mustParse(t, example)
	denyOnly := mustParse(t, `{"version":1,"network":{"domains":{"deny":["evil.example.com","1.2.3.4","*.internal"]}}}`)
	closed := mustParse(t, `{"version":1,"network":{"domains":{"allow":[]},"ports":[]}}`)
	for _, c := range []struct {
		policy  *Policy
		role    access.Role
		domains string
		ports   []int
		tunnels bool
		want    string // rules, separated by commas
	}{
		{none, access.Admin, "*,*.com,::1", []int{0}, true, ""},
		{none, "", "*", []int{0}, true, ""},
		{p, access.Admin, "api.example.com", []int{443, 8000, 8999}, false, ""},
		{p, access.Admin, "API.Example.COM.", []int{443}, false, ""},
		{p, access.Admin, "*.api.example.com", []int{443}, false, ""},
		{p, access.Admin, "example.com", []int{443}, false, Domains}, // *.example.com doesn't cover it
		{p, access.Admin, "*.example.com", []int{443}, false, Domains},
		{p, access.Admin, "evil.example.com", []int{443}, false, Domains},
		{p, access.Admin, "EVIL.example.com.", []int{443}, false, Domains},
		{p, access.Admin, "x.evil.example.com", []int{443}, false, ""}, // only the name itself is denied
		{p, access.Admin, "api.github.com", []int{443}, false, ""},
		{p, access.Admin, "x.api.github.com", []int{443}, false, Domains},
		{p, access.Admin, "*.github.com", []int{443}, false, Domains},
		{p, access.Admin, "api.example.com.attacker.net", []int{443}, false, Domains},
		{p, access.Admin, "notexample.com", []int{443}, false, Domains},
		{p, access.Admin, "api.example.com", []int{22}, false, Ports},
		{p, access.Admin, "api.example.com", []int{7999}, false, Ports},
		{p, access.Admin, "api.example.com", []int{9000}, false, Ports},
		{p, access.Admin, "api.example.com", []int{0}, false, Ports + "," + Wildcard},
		{p, access.Admin, "*", []int{443}, false, Domains + "," + Wildcard},
		{p, access.Admin, "api.example.com", []int{443}, true, Tunnels},
		{p, access.Admin, "", []int{22}, false, Ports},
		{p, access.Admin, "api.example.com", nil, false, ""},
		{p, access.Operator, "api.example.com", []int{443}, false, ""},
		{p, access.Operator, "api.example.com", []int{8000}, false, "roles.operator." + Ports},
		{p, access.Operator, "api.example.com", []int{22}, false, Ports + ",roles.operator." + Ports},
		{p, "", "api.example.com", []int{8000}, false, "roles.operator." + Ports},
		{p, "root", "api.example.com", []int{8000}, false, "roles.operator." + Ports},
		{denyOnly, access.Admin, "api.example.com", []int{0}, true, ""},
		{denyOnly, access.Admin, "*.example.com", []int{443}, false, Domains},
		{denyOnly, access.Admin, "*.com", []int{443}, false, Domains},
		{denyOnly, access.Admin, "*", []int{443}, false, Domains},
		{denyOnly, access.Admin, "1.2.3.4", []int{443}, false, Domains},
		{denyOnly, access.Admin, "db.internal", []int{443}, false, Domains},
		{denyOnly, access.Admin, "*.db.internal", []int{443}, false, Domains},
		{denyOnly, access.Admin, "internal", []int{443}, false, ""},
		{closed, access.Admin, "a.com", []int{1}, false, Domains + "," + Ports},
		{closed, access.Admin, "", nil, false, ""},
	} {
		var domains []string
		if c.domains != "" {
			domains = strings.Split(c.domains, ",")
		}
		found := c.policy.Network(c.role, Network{domains, c.ports, c.tunnels})
		if got := strings.Join(found.Rules(), ","); got != c.want {
			t.Errorf("%q grants %q %v tunnels %t: got %q, want %q (%v)", c.role, c.domains, c.ports, c.tunnels, got, c.want, found)
		}
	}
}

func TestEveryPortNeedsEveryPort(t *testing.T) {
	for ports, covered := range map[string]bool{`"1-65535"`: true, `"1-79", 80, "81-65535"`: true, `"40000-65535", "1-50000"`: true, `"1-65534"`: false, `"2-65535"`: false, `"1-79", "81-65535"`: false} {
		p := mustParse(t, `{"version":1,"network":{"ports":[`+ports+`]}}`)
		if got := len(p.Network(access.Admin, Network{Ports: []int{0}})) == 0; got != covered {
			t.Errorf("ports %s allow every port: got %t, want %t", ports, got, covered)
		}
	}
}

func TestCapability(t *testing.T) {
	p := mustParse(t, example)
	noMounts := mustParse(t, `{"version":1,"capability":{"mounts":[]}}`)
	wide := mustParse(t, `{"version":1,"capability":{"permissions":{"allow":["*"],"deny":["a.b.*"]},"mounts":[{"path":"/"},{"path":".","read_only":false}]}}`)
	for _, c := range []struct {
		policy *Policy
		role   access.Role
		grant  Capability
		want   string
	}{
		{None(), "", Capability{"any.thing", []Mount{{"/etc", false}}, 1 << 40}, ""},
		{p, access.Admin, Capability{Permission: "secrets.get"}, ""},
		{p, access.Admin, Capability{Permission: "secrets.get.more"}, Permissions},
		{p, access.Admin, Capability{Permission: "secrets"}, Permissions},
		{p, access.Admin, Capability{Permission: "store.get"}, ""},
		{p, access.Admin, Capability{Permission: "store.a.b"}, ""},
		{p, access.Admin, Capability{Permission: "store"}, Permissions},
		{p, access.Admin, Capability{Permission: "storex.get"}, Permissions},
		{p, access.Admin, Capability{Permission: "store.admin"}, Permissions},
		{p, access.Admin, Capability{Permission: "mail.send"}, Permissions},
		{p, access.Admin, Capability{"store.get", []Mount{{"/srv/data", true}}, 0}, ""},
		{p, access.Admin, Capability{"store.get", []Mount{{"/srv/data/x", true}}, 0}, ""},
		{p, access.Admin, Capability{"store.get", []Mount{{"/srv/data", false}}, 0}, Mounts},
		{p, access.Admin, Capability{"store.get", []Mount{{"/srv/database", true}}, 0}, Mounts},
		{p, access.Admin, Capability{"store.get", []Mount{{"/srv", true}}, 0}, Mounts},
		{p, access.Admin, Capability{"store.get", []Mount{{"reports/2027", false}}, 0}, ""},
		{p, access.Admin, Capability{"store.get", []Mount{{"/reports", true}}, 0}, Mounts},
		{p, access.Admin, Capability{"store.get", []Mount{{"reportsx", true}}, 0}, Mounts},
		{p, access.Admin, Capability{"store.get", nil, 512 << 20}, ""},
		{p, access.Admin, Capability{"store.get", nil, 512<<20 + 1}, Memory},
		{p, access.Operator, Capability{"store.get", nil, 512 << 20}, "roles.operator." + Memory},
		{p, access.Operator, Capability{"mail.send", []Mount{{"/etc", true}}, 1 << 30}, strings.Join([]string{Permissions, Mounts, Memory, "roles.operator." + Memory}, ",")},
		{noMounts, access.Admin, Capability{"a.b", nil, 0}, ""},
		{noMounts, access.Admin, Capability{"a.b", []Mount{{"x", true}}, 0}, Mounts},
		{wide, access.Admin, Capability{"a.c", []Mount{{"/etc", true}, {"x", false}}, 0}, ""},
		{wide, access.Admin, Capability{"a.b.c", nil, 0}, Permissions},
		{wide, access.Admin, Capability{"a.b", []Mount{{"/etc", false}}, 0}, Mounts},
	} {
		found := c.policy.Capability(c.role, c.grant)
		if got := strings.Join(found.Rules(), ","); got != c.want {
			t.Errorf("%q grants %+v: got %q, want %q (%v)", c.role, c.grant, got, c.want, found)
		}
	}
}

func TestTunnelsMemoryAndLocks(t *testing.T) {
	p := mustParse(t, example)
	if v := p.Tunnels(access.Admin); v == nil || v.Rule != Tunnels {
		t.Errorf("tunnels: got %v, want %s", v, Tunnels)
	}
	if v := None().Tunnels(""); v != nil {
		t.Errorf("tunnels without a ceiling: got %v", v)
	}
	for role, want := range map[access.Role]int64{access.Admin: 512 << 20, access.Operator: 256 << 20, "": 256 << 20} {
		if got := p.MaxMemory(role); got != want {
			t.Errorf("most memory of %q: got %d, want %d", role, got, want)
		}
	}
	if got := None().MaxMemory(access.Admin); got != 0 {
		t.Errorf("most memory without a ceiling: got %d, want 0", got)
	}
	if got := p.Container(access.Admin, 600<<20).Rules(); !slices.Equal(got, []string{Memory}) {
		t.Errorf("600 MiB: got %v, want %s", got, Memory)
	}
	if found := p.Container(access.Admin, 0); len(found) > 0 {
		t.Errorf("a pack that asks for no memory: got %v", found)
	}
	if got := p.Lock(access.Admin, true).Rules(); !slices.Equal(got, []string{Sdists}) {
		t.Errorf("sdists: got %v, want %s", got, Sdists)
	}
	if found := p.Lock(access.Operator, false); len(found) > 0 {
		t.Errorf("wheels: got %v", found)
	}
}

func TestARefusalNamesRuleAndWhatIsAllowed(t *testing.T) {
	err := mustParse(t, example).Network(access.Operator, Network{Domains: []string{"a.net"}, Ports: []int{8000}}).Err()
	if !fault.Is(err, fault.KindDenied) || fault.Of(err).Code != "policy_violation" {
		t.Errorf("got %v with code %q, want denied, policy_violation", err, fault.Of(err).Code)
	}
	for _, part := range []string{
		`network.domains: "a.net" is not within the allowed domains (allowed: *.example.com, api.github.com)`,
		"roles.operator.network.ports: port 8000 is not among the allowed ports (allowed: 443)", Path,
	} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("got %q, want %q in it", err, part)
		}
	}
	if err := None().Network("", Network{Domains: []string{"*"}}).Err(); err != nil {
		t.Errorf("without a ceiling: got %v", err)
	}
}

// Whatever the lists: what may be granted covers allowed hosts only, and none that is denied; and a role's section never allows more.
func TestAGrantedPatternCoversAllowedHostsOnly(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	name := func() string {
		labels := make([]string, 1+random.IntN(3))
		for i := range labels {
			labels[i] = string(rune('a' + random.IntN(2)))
		}
		return strings.Join(labels, ".")
	}
	pattern := func() string {
		switch random.IntN(8) {
		case 0:
			return "*"
		case 1, 2, 3:
			return "*." + name()
		}
		return name()
	}
	list := func() []string {
		all := make([]string, random.IntN(4))
		for i := range all {
			all[i] = pattern()
		}
		return all
	}
	matches := func(patterns []string, h hostname.Host) bool {
		return slices.ContainsFunc(patterns, func(text string) bool {
			p, err := hostname.ParsePattern(text)
			return err == nil && p.Match(h)
		})
	}
	granted := 0
	for range 20_000 {
		allow, deny, roleAllow, roleDeny, asked := list(), list(), list(), list(), pattern()
		p := mustParse(t, fmt.Sprintf(`{"version":1,"network":{"domains":{"allow":%s,"deny":%s}},"roles":{"operator":{"network":{"domains":{"allow":%s,"deny":%s}}}}}`,
			quoted(allow), quoted(deny), quoted(roleAllow), quoted(roleDeny)))
		admin := len(p.Network(access.Admin, Network{Domains: []string{asked}})) == 0
		operator := len(p.Network(access.Operator, Network{Domains: []string{asked}})) == 0
		if operator && !admin {
			t.Fatalf("allow %v deny %v: the operator may grant %q, the admin may not", allow, deny, asked)
		}
		if !admin {
			continue
		}
		granted++
		for range 20 {
			host, err := hostname.Parse(name() + "." + name())
			if err != nil {
				t.Fatal(err)
			}
			if !matches([]string{asked}, host) {
				continue
			}
			if !matches(allow, host) || matches(deny, host) {
				t.Fatalf("allow %v deny %v: %q may be granted, and covers %s", allow, deny, asked, host.Name)
			}
			if operator && (!matches(roleAllow, host) || matches(roleDeny, host)) {
				t.Fatalf("operator: allow %v deny %v: %q may be granted, and covers %s", roleAllow, roleDeny, asked, host.Name)
			}
		}
	}
	if granted < 500 {
		t.Errorf("%d of 20000 could be granted: too few to say anything", granted)
	}
}

func quoted(list []string) string {
	all := make([]string, len(list))
	for i, text := range list {
		all[i] = fmt.Sprintf("%q", text)
	}
	return "[" + strings.Join(all, ",") + "]"
}

func BenchmarkNetwork(b *testing.B) {
	p := mustParse(b, example)
	for b.Loop() {
		p.Network(access.Operator, Network{Domains: []string{"a.example.com", "*.b.example.com"}, Ports: []int{443}})
	}
}
