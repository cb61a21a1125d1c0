package address

import (
	"net/netip"
	"strings"
	"testing"
)

func judge(t *testing.T, p *Policy, s string) (string, bool) {
	t.Helper()
	return p.Judge(netip.AddrPortFrom(netip.MustParseAddr(s), 443))
}

func TestJudgeEveryRange(t *testing.T) {
	tests := []struct {
		class string // "" is public
		addrs string
	}{
		{"unspecified", "0.0.0.0 0.1.2.3 0.255.255.255 ::"},
		{"private", "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255 fc00:: fdff:ffff::1 fec0::1 feff::1"},
		{"shared", "100.64.0.0 100.127.255.255"},
		{"loopback", "127.0.0.0 127.0.0.1 127.255.255.255 ::1"},
		{"metadata", "169.254.0.0 169.254.169.254 169.254.170.2 169.254.170.23 169.254.255.255 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:42::42"},
		{"reserved", "192.0.0.0 192.0.0.255 192.0.2.1 198.18.0.0 198.19.255.255 198.51.100.1 203.0.113.1 192.88.99.1 192.175.48.1 240.0.0.0 255.255.255.254"},
		{"broadcast", "255.255.255.255"},
		{"multicast", "224.0.0.0 239.255.255.255 ff00:: ff02::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"link_local", "fe80:: fe80::1 febf:ffff::1"},
		{"reserved", "2001:db8::1 2001:10::1 2001:20::1 2001:1::1 3fff::1 2620:4f:8000::1 100::1 4000::1 5f00::1 1::1 e000::1 fe00::1"},
		// IPv4 inside IPv6, internal or public alike
		{"carries_ipv4", "::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:169.254.169.254"},
		{"carries_ipv4", "::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8"},
		{"carries_ipv4", "64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::a00:1"},
		{"carries_ipv4", "2002:7f00:1:: 2002:808:808::1 2002:a9fe:a9fe::"},
		{"carries_ipv4", "2001:0:4136:e378:8000:63bf:3fff:fdd2 2001::1"},
		{"carries_ipv4", "::2 ::8.8.8.8 ::a00:1"},
		{"carries_ipv4", "2a00::5efe:a00:1 2a00::200:5efe:808:808"},
		{"", "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255"},
		{"", "2606:4700:4700::1111 2a00:1450:4001::1 2001:4860:4860::8888 2003::1 2400:cb00::1"},
	}
	p := NewPolicy(nil)
	for _, tt := range tests {
		for _, s := range strings.Fields(tt.addrs) {
			if class, ok := judge(t, p, s); class != tt.class || ok != (tt.class == "") {
				t.Errorf("%s is %q (%v), want %q", s, class, ok, tt.class)
			}
		}
	}
}

func TestJudgeOpened(t *testing.T) {
	p := NewPolicy(prefixes("0.0.0.0/0", "::/0"))
	p.SetSelf(Self{
		Listeners: []netip.AddrPort{
			netip.MustParseAddrPort("127.0.0.1:8080"), netip.MustParseAddrPort("[::ffff:127.0.0.9]:443"), netip.MustParseAddrPort("[::]:9090"),
		},
		Machine: []netip.Addr{netip.MustParseAddr("172.18.0.7")},
		Hosts:   []netip.Addr{netip.MustParseAddr("172.18.0.5")},
	})
	tests := []struct{ class, addrs string }{
		{"", "127.0.0.1 10.1.2.3 192.168.1.1 ::1 fd12::1 64:ff9b::a00:1 ::ffff:10.0.0.1 2002:a00:1:: 240.0.0.1 fe80::1"},
		{"metadata", "169.254.169.254 169.254.1.1 100.100.100.200 fd00:ec2::254 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe:: ::169.254.169.254"},
		{"metadata", "2001:0:4136:e378:8000:63bf:5601:5601"}, // Teredo of 169.254.169.254
		{"unspecified", "0.0.0.0 :: ::ffff:0.0.0.0"},
		{"multicast", "224.0.0.1 ff02::1"},
		{"broadcast", "255.255.255.255"},
		{"own_service", "172.18.0.5 ::ffff:172.18.0.5 127.0.0.9 ::ffff:127.0.0.9"},
	}
	for _, tt := range tests {
		for _, s := range strings.Fields(tt.addrs) {
			if class, ok := judge(t, p, s); class != tt.class || ok != (tt.class == "") {
				t.Errorf("%s is %q (%v), want %q", s, class, ok, tt.class)
			}
		}
	}
	for s, want := range map[string]bool{
		"127.0.0.1:8080": false, "127.0.0.2:8080": true, "127.0.0.1:8081": true, "[::ffff:127.0.0.1]:8080": false,
		"127.0.0.1:9090": false, "127.3.2.1:9090": false, "[::1]:9090": false, "172.18.0.7:9090": false, "172.18.0.7:443": true, "172.18.0.8:9090": true,
	} {
		if class, ok := p.Judge(netip.MustParseAddrPort(s)); ok != want || !ok && class != "own_service" {
			t.Errorf("%s is %q (%v), want %v", s, class, ok, want)
		}
	}
	narrow := NewPolicy(prefixes("10.1.0.0/16"))
	for s, want := range map[string]bool{"10.1.2.3": true, "10.2.0.1": false, "127.0.0.1": false, "::ffff:10.1.2.3": false, "8.8.8.8": true} {
		if _, ok := judge(t, narrow, s); ok != want {
			t.Errorf("with 10.1.0.0/16 open, %s may be reached: %v, want %v", s, ok, want)
		}
	}
}

func TestJudgeInvalid(t *testing.T) {
	p := NewPolicy(prefixes("::/0"))
	for _, to := range []netip.AddrPort{{}, netip.MustParseAddrPort("8.8.8.8:0"), netip.AddrPortFrom(netip.MustParseAddr("fe80::1%eth0"), 80)} {
		if class, ok := p.Judge(to); ok {
			t.Errorf("%v is taken as %q, want it invalid", to, class)
		}
	}
}

func TestParseOpened(t *testing.T) {
	got, err := ParseOpened(" 10.0.0.0/8, 127.0.0.1 ,,fd12::/16")
	if err != nil || len(got) != 3 || got[0].String() != "10.0.0.0/8" || got[1].String() != "127.0.0.1/32" || got[2].String() != "fd12::/16" {
		t.Errorf("got %v, %v; want 10.0.0.0/8, 127.0.0.1/32 and fd12::/16", got, err)
	}
	if got, err := ParseOpened(""); err != nil || NewPolicy(got).Opens() {
		t.Errorf("an empty setting opens %v, %v; want nothing", got, err)
	}
	for _, s := range []string{"10.0.0.1/8", "lan", "10.0.0.0/33", "10.0.0.0 11.0.0.0", "fe80::1%eth0"} {
		if got, err := ParseOpened(s); err == nil {
			t.Errorf("%q opens %v, want an error", s, got)
		}
	}
}

func TestDeniedName(t *testing.T) {
	for _, name := range []string{
		"gateway", "pack-registry", "approval", "egress-proxy", "capability-broker", "pip-installer", "secrets", "consul", "prometheus",
		"grafana", "otel-collector", "otel-collector.rumi.internal", "jaeger", "postgres", "tasks.gateway", "approval.service.consul", "host.docker.internal", "metadata.google.internal", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local",
	} {
		if !DeniedName(name) {
			t.Errorf("%s may be looked up", name)
		}
	}
	for _, name := range []string{"example.com", "gateway.example.com", "secrets.io", "upstream", "localhost", "myconsul"} {
		if DeniedName(name) {
			t.Errorf("%s is denied, want it allowed", name)
		}
	}
}

func BenchmarkJudge(b *testing.B) {
	p := NewPolicy(nil)
	to := netip.MustParseAddrPort("93.184.216.34:443")
	b.ReportAllocs()
	for b.Loop() {
		p.Judge(to)
	}
}

func TestObstacle(t *testing.T) {
	public := NewPolicy(nil)
	opened, err := ParseOpened("10.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16")
	if err != nil {
		t.Fatal(err)
	}
	lan := NewPolicy(opened)
	lan.SetSelf(Self{Listeners: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.3:443")}})
	const never, set, none = "never reached", AllowCIDRs, ""
	for _, tt := range []struct{ host, public, opened string }{
		{"api.example.com", none, none}, {"8.8.8.8", none, none}, {"2620:fe::fe", none, none},
		{"10.1.2.3", set, none}, {"192.168.0.1", set, set}, {"127.0.0.1", set, none}, {"localhost", set, none}, {"x.localhost", set, none},
		{"127.0.0.3", set, never}, {"::ffff:10.1.2.3", set, set}, {"::ffff:169.254.169.254", never, never},
		{"169.254.169.254", never, never}, {"fd00:ec2::254", never, never}, {"metadata.google.internal", never, never}, {"metadata", never, never},
		{"gateway", never, never}, {"secrets", never, never}, {"tasks.approval", never, never}, {"x.service.consul", never, never}, {"host.docker.internal", never, never},
		{"printer", set, none}, {"nas.local", set, none}, {"db.internal", set, none}, {"model.lan", set, none}, {"x.home.arpa", set, none},
	} {
		addr, _ := netip.ParseAddr(tt.host)
		for _, c := range []struct {
			name   string
			policy *Policy
			want   string
		}{{"no opened range", public, tt.public}, {"opened ranges", lan, tt.opened}} {
			why, setting := c.policy.Obstacle(tt.host, addr, 443)
			if (why == "") != (c.want == none) || !strings.Contains(why, c.want) || (setting != "") != (c.want == set) {
				t.Errorf("%s with %s: got %q, %q; want %q in it", tt.host, c.name, why, setting, c.want)
			}
		}
	}
}
