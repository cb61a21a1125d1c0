package site_test

import (
	"net/http"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/gateway/internal/site"
)

func TestCheck(t *testing.T) {
	policy, err := site.New([]string{"rumi.example", "other.example:9000"}, []string{"https://console.example"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, method, host string
		header             map[string]string
		ok                 bool
	}{
		{"curl", "POST", "localhost:8765", nil, true},
		{"loopback v4", "POST", "127.0.0.1:8765", nil, true},
		{"loopback v6", "POST", "[::1]:8765", nil, true},
		{"loopback v6 without port", "DELETE", "[::1]", nil, true},
		{"no port", "POST", "localhost", nil, true},
		{"case and trailing dot", "POST", "LocalHost.:8765", nil, true},
		{"configured, any port", "POST", "rumi.example:1234", nil, true},
		{"configured with a port", "POST", "other.example:9000", nil, true},

		{"configured with another port", "POST", "other.example:9001", nil, false},
		{"rebound name", "POST", "evil.example:8765", nil, false},
		{"name that begins like ours", "POST", "localhost.evil.example", nil, false},
		{"name that ends like ours", "POST", "evil-localhost", nil, false},
		{"another loopback address", "POST", "127.0.0.2:8765", nil, false},
		{"decimal address", "POST", "2130706433", nil, false},
		{"user-info", "POST", "localhost@evil.example", nil, false},
		{"port that is none", "POST", "localhost:80a", nil, false},
		{"brackets around a name", "POST", "[localhost]:80", nil, true}, // as net.SplitHostPort reads it: still our name
		{"no host", "POST", "", nil, false},

		{"own origin", "POST", "localhost:8765", map[string]string{"Origin": "http://localhost:8765"}, true},
		{"trusted origin", "POST", "localhost:8765", map[string]string{"Origin": "https://console.example"}, true},
		{"foreign origin", "POST", "localhost:8765", map[string]string{"Origin": "https://evil.example"}, false},
		{"foreign origin, text/plain", "POST", "localhost:8765", map[string]string{"Origin": "https://evil.example", "Content-Type": "text/plain"}, false},
		{"another port of this machine", "POST", "localhost:8765", map[string]string{"Origin": "http://localhost:3000"}, false},
		{"opaque origin", "POST", "localhost:8765", map[string]string{"Origin": "null"}, false},
		{"trusted name, other scheme", "POST", "localhost:8765", map[string]string{"Origin": "http://console.example"}, false},
		{"cross-site by fetch metadata", "POST", "localhost:8765", map[string]string{"Sec-Fetch-Site": "cross-site"}, false},
		{"same-site is not same-origin", "POST", "localhost:8765", map[string]string{"Sec-Fetch-Site": "same-site"}, false},
		{"same-origin by fetch metadata", "POST", "localhost:8765", map[string]string{"Sec-Fetch-Site": "same-origin"}, true},
		{"own origin under a rebound name", "POST", "evil.example", map[string]string{"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, false},

		{"unknown method", "FOO", "evil.example", nil, false},
		{"reading changes nothing", "GET", "evil.example", map[string]string{"Origin": "https://evil.example"}, true},
		{"nor does HEAD", "HEAD", "evil.example", nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := http.NewRequest(c.method, "http://placeholder/api/packs/scan", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = c.host
			for name, value := range c.header {
				r.Header.Set(name, value)
			}
			err = policy.Check(r)
			if (err == nil) != c.ok {
				t.Fatalf("got %v, want ok %v", err, c.ok)
			}
			if err != nil && (!fault.Is(err, fault.KindDenied) || fault.Of(err).Code != "origin_refused") {
				t.Fatalf("the fault is %#v, want denied with the code origin_refused", err)
			}
		})
	}
}

func TestSettingsThatCannotBe(t *testing.T) {
	for _, hosts := range [][]string{{""}, {"http://rumi.example"}, {"*"}, {"a b"}} {
		if _, err := site.New(hosts, nil); err == nil {
			t.Errorf("the hosts %q were taken, want an error", hosts)
		}
	}
	for _, origins := range [][]string{{""}, {"rumi.example"}, {"https://rumi.example/path"}, {"*"}} {
		if _, err := site.New(nil, origins); err == nil {
			t.Errorf("the origins %q were taken, want an error", origins)
		}
	}
}
