package hostname

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	label63, name253 := strings.Repeat("a", 63), strings.Repeat("a.", 126)+"b"
	tests := []struct {
		in, name string // name "" means refused
		kind     string // "", "address", "numeric"
	}{
		{"api.openai.com", "api.openai.com", ""},
		{"API.OpenAI.com", "api.openai.com", ""},
		{"api.openai.com.", "api.openai.com", ""},
		{"my_host.example.com", "my_host.example.com", ""},
		{"a--b.example.com", "a--b.example.com", ""},
		{"-a.example.com", "-a.example.com", ""},
		{"localhost", "localhost", ""},
		{"1.example.com", "1.example.com", ""},
		{"0x1.example.com", "0x1.example.com", ""},
		// IDNA
		{"bücher.example", "xn--bcher-kva.example", ""},
		{"BÜCHER.example", "xn--bcher-kva.example", ""},
		{"bu\u0308cher.example", "xn--bcher-kva.example", ""},
		{"xn--bcher-kva.example", "xn--bcher-kva.example", ""},
		{"XN--BCHER-KVA.example", "xn--bcher-kva.example", ""},
		{"faß.de", "xn--fa-hia.de", ""},
		{"例え.jp", "xn--r8jz45g.jp", ""},
		{"xn--a.example", "", ""}, // no valid Punycode
		{"xn--.example", "", ""},
		// full-width letters and dots
		{"ａｐｉ.example.com", "api.example.com", ""},
		{"api。example．com｡", "api.example.com", ""},
		{"exam\u00adple.com", "example.com", ""}, // soft hyphen
		{"exam\u200bple.com", "example.com", ""}, // zero-width space
		// what is no name
		{"", "", ""}, {".", "", ""}, {"..", "", ""}, {".example.com", "", ""}, {"a..b", "", ""}, {"example.com..", "", ""},
		{"a b", "", ""}, {"a\tb", "", ""}, {"a\nb", "", ""}, {"a\x00b", "", ""}, {"example.com\n", "", ""}, {"a/b", "", ""}, {"a@b", "", ""},
		{"a%2eb", "", ""}, {"%65xample.com", "", ""}, {"a:80", "", ""}, {"a\\b", "", ""}, {"*.example.com", "", ""}, {"a,b", "", ""},
		{"\u2100.example.com", "", ""}, // maps to a/c
		{"\xff.example.com", "", ""},
		{label63 + ".com", label63 + ".com", ""},
		{label63 + "a.com", "", ""},
		{name253, name253, ""},
		{name253 + ".", name253, ""},
		{name253 + "c", "", ""},
		{strings.Repeat("é", 5000), "", ""},
		// addresses
		{"1.2.3.4", "1.2.3.4", "address"},
		{"1.2.3.4.", "1.2.3.4", "address"},
		{"[::1]", "::1", "address"},
		{"[2001:DB8::0:1]", "2001:db8::1", "address"},
		{"[::ffff:1.2.3.4]", "::ffff:1.2.3.4", "address"},
		{"[fe80::1%eth0]", "", ""}, {"[1.2.3.4]", "", ""}, {"[example.com]", "", ""}, {"[::1", "", ""}, {"::1", "", ""}, {"[]", "", ""}, {"[::1]a", "", ""},
		// what libc takes for an address
		{"2130706433", "127.0.0.1", "numeric"},
		{"0x7f000001", "127.0.0.1", "numeric"},
		{"0X7F000001", "127.0.0.1", "numeric"},
		{"0x7f.1", "127.0.0.1", "numeric"},
		{"017700000001", "127.0.0.1", "numeric"},
		{"0177.0.0.01", "127.0.0.1", "numeric"},
		{"127.1", "127.0.0.1", "numeric"},
		{"127.0.1", "127.0.0.1", "numeric"},
		{"10.256", "10.0.1.0", "numeric"},
		{"127.0.0.0x1", "127.0.0.1", "numeric"},
		{"0", "0.0.0.0", "numeric"},
		{"0x", "0.0.0.0", "numeric"},
		{"4294967295", "255.255.255.255", "numeric"},
		{"１２７.0.0.1", "127.0.0.1", "numeric"},
		{"127。0。0。1", "127.0.0.1", "numeric"},
		{"①②⑦.0.0.1", "127.0.0.1", "numeric"},
		{"0x7f.0.0.1.", "127.0.0.1", "numeric"},
		{"001.2.3.4", "1.2.3.4", "numeric"},
		// numbers that are no address to anybody, or not the same one to everybody
		{"4294967296", "", ""}, {"1.2.3.256", "", ""}, {"1.2.3.4.5", "", ""}, {"256.1", "", ""}, {"08.1.1.1", "", ""},
		{"example.0x1", "", ""}, {"example.1", "", ""}, {"1.2.3.0xg", "1.2.3.0xg", ""}, {"99999999999999999999", "", ""},
	}
	for _, tt := range tests {
		h, err := Parse(tt.in)
		if tt.name == "" {
			if err == nil {
				t.Errorf("Parse(%q) = %+v, want an error", tt.in, h)
			}
			continue
		}
		if err != nil || h.Name != tt.name {
			t.Errorf("Parse(%q) = %q, %v; want %q", tt.in, h.Name, err, tt.name)
			continue
		}
		if h.Addr.IsValid() != (tt.kind != "") || h.Numeric != (tt.kind == "numeric") {
			t.Errorf("Parse(%q) = %+v, want kind %q", tt.in, h, tt.kind)
		}
		if h.Addr.IsValid() && h.Addr != netip.MustParseAddr(tt.name) {
			t.Errorf("Parse(%q) is the address %v, want %s", tt.in, h.Addr, tt.name)
		}
	}
}

func TestMatch(t *testing.T) {
	tests := []struct {
		pattern  string
		yes, not string // hosts, separated by spaces
	}{
		{"api.x.com", "api.x.com API.X.COM api.x.com. ａpi.x.com", "x.com a.api.x.com xapi.x.com api.x.com.evil.com api-x.com"},
		{"*.x.com", "a.x.com a.b.x.com A.X.Com.", "x.com evilx.com x.com.evil.com .x.com"},
		{"*.X.com.", "a.x.com", "x.com"},
		{"*", "a.x.com 1.2.3.4 [::1] localhost 0x7f.1", ""},
		{"bücher.example", "xn--bcher-kva.example BÜCHER.example", "bucher.example"},
		{"*.bücher.example", "a.xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"127.0.0.1", "127.0.0.1 127.1", "127.0.0.2 1.127.0.0.1.example"},
		{"::1", "[::1] [0:0::1]", "[::2]"},
		{"[::1]", "[::1]", "[::2]"},
		{"*.com", "x.com", "com 1.2.3.4"},
	}
	for _, tt := range tests {
		p, err := ParsePattern(tt.pattern)
		if err != nil {
			t.Errorf("ParsePattern(%q): %v", tt.pattern, err)
			continue
		}
		for _, side := range []struct {
			hosts string
			want  bool
		}{{tt.yes, true}, {tt.not, false}} {
			for _, s := range strings.Fields(side.hosts) {
				h, err := Parse(s)
				if got := err == nil && p.Match(h); got != side.want {
					t.Errorf("%q matches %q: %v, want %v", tt.pattern, s, got, side.want)
				}
			}
		}
	}
	if (Pattern{any: true}).Match(Host{}) || (Pattern{}).Match(Host{}) {
		t.Error("a pattern matches no host at all")
	}
}

func TestParsePatternRefuses(t *testing.T) {
	for _, s := range []string{
		"", "**", "*.", "*.*", "*.*.com", "a*.com", "a.*.com", "*a.com", ".com", "*..com", " x.com", "x.com ", "x.com\n", "https://x.com",
		"x.com/path", "x.com:443", "user@x.com", "*.1.2.3.4", "*.0x1", "0x7f000001", "127.1", "2130706433", "[x.com]", "*.[::1]", "1.2.3.4/8",
		"fe80::1%eth0", strings.Repeat("a", 254),
	} {
		if p, err := ParsePattern(s); err == nil {
			t.Errorf("ParsePattern(%q) = %v, want an error", s, p)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"api.x.com", "*.x.com", "*", "127.1", "0x7f.1", "[::1]", "bücher.example", "xn--bcher-kva.example", "１２７.1", "a..b", "ß。x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if h, err := Parse(s); err == nil {
			again, err := Parse(bracketed(h))
			if err != nil || again.Name != h.Name || again.Addr != h.Addr || again.Numeric {
				t.Fatalf("Parse(%q) = %+v, and of that %+v, %v", s, h, again, err)
			}
		}
		if p, err := ParsePattern(s); err == nil {
			again, err := ParsePattern(p.String())
			if err != nil || again != p {
				t.Fatalf("ParsePattern(%q) = %q, and of that %q, %v", s, p, again, err)
			}
		}
	})
}

func bracketed(h Host) string {
	if h.Addr.Is6() {
		return "[" + h.Name + "]"
	}
	return h.Name
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Parse("api.openai.com")
	}
}
