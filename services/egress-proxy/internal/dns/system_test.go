package dns

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestParseResolv(t *testing.T) {
	for text, want := range map[string]string{
		"nameserver 127.0.0.11\nsearch lan\noptions ndots:0":                    "127.0.0.11:53",
		"# nameserver 1.1.1.1\n; x\nnameserver 192.0.2.1 # a\nnameserver ::1\n": "192.0.2.1:53 [::1]:53",
		"nameserver fe80::1%eth0":                                               "[fe80::1%eth0]:53",
		"nameserver\nnameserver x\nnameservers 192.0.2.1":                       "127.0.0.1:53 [::1]:53",
		"": "127.0.0.1:53 [::1]:53",
	} {
		if got := strings.Join(parseResolv(strings.NewReader(text)), " "); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestParseHosts(t *testing.T) {
	hosts := parseHosts(strings.NewReader("127.0.0.1 localhost\n::1 localhost ip6-localhost\n192.0.2.1\tA.Example. a # b\n#192.0.2.2 c\nx y\n192.0.2.3\n"))
	for name, want := range map[string]string{"localhost": "127.0.0.1 ::1", "a.example": "192.0.2.1", "a": "192.0.2.1", "b": "", "c": "", "y": ""} {
		if got := texts(hosts[name]); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// What a file says comes before what servers say; both are read anew when they change. No search domain is tried.
func TestSystem(t *testing.T) {
	s := newServer(t, func(_ string, q dnsmessage.Question, m *dnsmessage.Message) {
		if m.Answers = of(q, address(q.Name.String(), "192.0.2.1", 60)); q.Name.String() != "x.example." {
			m.Answers, m.RCode = nil, dnsmessage.RCodeNameError
		}
	})
	dir := t.TempDir()
	hosts, resolv := filepath.Join(dir, "hosts"), filepath.Join(dir, "resolv.conf")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	c := system(hosts, resolv)
	if _, err := c.Lookup(t.Context(), "x.example"); err == nil {
		t.Error("an answer without servers")
	}
	write(resolv, "search example\nnameserver 192.0.2.7\n")
	if got, err := c.servers(); err != nil || !slices.Equal(got, []string{"192.0.2.7:53"}) {
		t.Errorf("got the servers %v, %v, want 192.0.2.7:53", got, err)
	}
	write(resolv, "nameserver 192.0.2.8\n")
	if got, err := c.servers(); err != nil || !slices.Equal(got, []string{"192.0.2.8:53"}) {
		t.Errorf("got the servers %v, %v, want those of the changed file", got, err)
	}
	c.servers = func() ([]string, error) { return []string{s.addr}, nil } // a port below 1024 is not for tests
	write(hosts, "127.0.0.2 y.example\n")
	if got, err := c.Lookup(t.Context(), "Y.example."); err != nil || texts(got.Addrs) != "127.0.0.2" || got.TTL != hostsTTL {
		t.Errorf("got %v, %v, want the address in the hosts file", got, err)
	}
	if asked := s.questions(); asked != nil {
		t.Errorf("asked %v, want no question", asked)
	}
	if got, err := c.Lookup(t.Context(), "x.example"); err != nil || texts(got.Addrs) != "192.0.2.1" {
		t.Errorf("got %v, %v, want the server's 192.0.2.1", got, err)
	}
	if _, err := c.Lookup(t.Context(), "x"); err == nil {
		t.Error("a search domain was tried")
	}
	write(hosts, "127.0.0.3 x.example\n")
	if got, err := c.Lookup(t.Context(), "x.example"); err != nil || texts(got.Addrs) != "127.0.0.3" {
		t.Errorf("got %v, %v, want the address in the changed hosts file", got, err)
	}
}
