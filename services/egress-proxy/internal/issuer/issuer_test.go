package issuer_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/dns"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/issuer"
)

// names resolves every name to one address.
type names struct{ asked []string }

func (n *names) Lookup(_ context.Context, name string) (dns.Answer, error) {
	n.asked = append(n.asked, name)
	if name == "gone.example.com" {
		return dns.Answer{}, &dns.NotFoundError{Name: name}
	}
	return dns.Answer{Addrs: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}}, nil
}

// fetch asks a server that answers by handler for the keys of name, an issuer at that server; "" for the server's own URL.
func fetch(t *testing.T, name string, opened string, handler func(url string, w http.ResponseWriter, r *http.Request)) (string, error) {
	t.Helper()
	var server *httptest.Server
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler(server.URL, w, r) }))
	defer server.Close()
	if name == "" {
		name = server.URL
	}
	_, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "https://"), ":")
	ranges, err := address.ParseOpened(opened)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	f, err := issuer.New(issuer.Config{
		Issuer: strings.ReplaceAll(name, "PORT", port), Addresses: address.NewPolicy(ranges), Resolver: &names{},
		TLS: func() *tls.Config { return &tls.Config{RootCAs: roots} },
	})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := f.Keys(t.Context())
	return string(keys), err
}

func discovery(issuer, keys string) string {
	return fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q,"other":1}`, issuer, keys)
}

func TestKeys(t *testing.T) {
	right := func(url string, w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			fmt.Fprint(w, discovery(url, url+"/keys"))
		case "/keys":
			fmt.Fprint(w, `{"keys":[]}`)
		default:
			http.NotFound(w, r)
		}
	}
	says := func(text func(url string) string) func(string, http.ResponseWriter, *http.Request) {
		return func(url string, w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text(url)) }
	}
	for name, c := range map[string]struct {
		issuer, opened string
		handler        func(url string, w http.ResponseWriter, r *http.Request)
		want           string // in the error; "" for none
	}{
		"right":                       {"", "127.0.0.1", right, ""},
		"an internal address":         {"", "", right, "an internal address (loopback) of 127.0.0.1: name it in RUMI_EGRESS_ALLOW_CIDRS"},
		"a name of an internal one":   {"https://login.example.com:PORT", "10.0.0.0/8", right, "127.0.0.1 is an internal address (loopback) of login.example.com"},
		"a name that isn't":           {"https://gone.example.com:PORT", "127.0.0.1", right, "gone.example.com"},
		"the metadata of a cloud":     {"https://metadata.google.internal:PORT", "127.0.0.1", right, "never reached"},
		"a service of Rumi":           {"https://approval:PORT", "127.0.0.1", right, "never reached"},
		"another spelling":            {"https://0x7f.1:PORT", "127.0.0.1", right, "never reached"},
		"a certificate of other name": {"https://login.test.org:PORT", "127.0.0.1", right, "certificate is valid for"},
		"another issuer":              {"", "127.0.0.1", says(func(url string) string { return discovery("https://evil.example", url) }), `the issuer calls itself "https://evil.example"`},
		"a slash too many":            {"", "127.0.0.1", says(func(url string) string { return discovery(url+"/", url) }), "write exactly that to RUMI_OIDC_ISSUER"},
		"keys over plain HTTP":        {"", "127.0.0.1", says(func(url string) string { return discovery(url, "http://127.0.0.1/keys") }), "jwks_uri"},
		"keys at an internal address": {"", "127.0.0.1", says(func(url string) string { return discovery(url, "https://10.0.0.1/keys") }), "an internal address (private) of 10.0.0.1"},
		"keys that are no JSON":       {"", "127.0.0.1", says(func(url string) string { return discovery(url, url) + "x" }), "no JSON object"},
		"no JSON":                     {"", "127.0.0.1", says(func(string) string { return "<html>" }), "no JSON object"},
		"too much":                    {"", "127.0.0.1", says(func(string) string { return strings.Repeat(" ", 1<<20+1) }), "more than 1048576 bytes"},
		"a redirect": {"", "127.0.0.1", func(url string, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://169.254.169.254/", http.StatusFound)
		}, "it redirects"},
		"an error": {"", "127.0.0.1", func(_ string, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "it answers 500"},
	} {
		t.Run(name, func(t *testing.T) {
			keys, err := fetch(t, c.issuer, c.opened, c.handler)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) || err == nil && keys != `{"keys":[]}` {
				t.Errorf("got %q, %v; want %q", keys, err, c.want)
			}
		})
	}
}

func TestSetting(t *testing.T) {
	for _, bad := range []string{"login.example.com", "http://login.example.com", "https://", "https://user@login.example.com", "https://login.example.com/#x", "https:login.example.com"} {
		if _, err := issuer.New(issuer.Config{Issuer: bad}); err == nil || !strings.Contains(err.Error(), "RUMI_OIDC_ISSUER=") {
			t.Errorf("%q: %v, want an error that names the setting", bad, err)
		}
	}
}

// TestOneFetchForAll: however many ask at once, the issuer is asked once.
func TestOneFetchForAll(t *testing.T) {
	var fetches atomic.Int64
	var server *httptest.Server
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" {
			fetches.Add(1)
		}
		fmt.Fprint(w, discovery(server.URL, server.URL+"/keys"))
	}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	ranges := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	f, err := issuer.New(issuer.Config{Issuer: server.URL, Addresses: address.NewPolicy(ranges), Resolver: &names{}, TLS: func() *tls.Config { return &tls.Config{RootCAs: roots} }})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := f.Keys(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := fetches.Load(); got != 1 {
		t.Errorf("20 callers caused %d fetches, want 1", got)
	}
}
