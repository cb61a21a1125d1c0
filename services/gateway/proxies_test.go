package main

import (
	"strings"
	"testing"
)

// TestTrustedProxies: behind a proxy that is named, rates, refusals, the audit log and the services know the client itself.
func TestTrustedProxies(t *testing.T) {
	w := newWorld(t, map[string]string{"RUMI_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/24", "RUMI_API_RATE_LIMIT": "3", "RUMI_API_RATE_WINDOW": "3600"})
	as := func(address string, more ...string) map[string]string {
		header := map[string]string{"X-Forwarded-For": address}
		for i := 0; i < len(more); i += 2 {
			header[more[i]] = more[i+1]
		}
		return header
	}
	if got := w.do(t, "GET", "/api/packs", nil, as("6.6.6.6, 203.0.113.1, 10.0.0.3")); got.status != 200 || got.seen(t).Address != "203.0.113.1" {
		t.Errorf("answered %d %s, want 200 with the client's address", got.status, got.raw)
	}
	for range 2 {
		w.do(t, "GET", "/api/packs", nil, as("203.0.113.1"))
	}
	wantFailure(t, w.do(t, "GET", "/api/packs", nil, as("203.0.113.1")), 429, "Rate limit exceeded")
	wantFailure(t, w.do(t, "GET", "/api/packs", nil, as("6.6.6.6, 203.0.113.1")), 429, "Rate limit exceeded") // who makes up another address
	if got := w.do(t, "GET", "/api/packs", nil, as("203.0.113.2")); got.status != 200 {
		t.Errorf("another client is limited for the first: %d %s", got.status, got.raw)
	}
	for range 10 {
		wantFailure(t, w.do(t, "GET", "/api/packs", nil, as("203.0.113.3", "Authorization", "Bearer wrong")), 401, "Unauthorized")
	}
	wantFailure(t, w.do(t, "GET", "/api/packs", nil, as("203.0.113.3", "Authorization", "Bearer wrong")), 429, "Too many failed authentications")
	wantFailure(t, w.do(t, "GET", "/api/packs", nil, as("203.0.113.4", "Authorization", "Bearer wrong")), 401, "Unauthorized")
	// The name that a browser used is in Host, which the proxy passes on; what else it says of it is nobody's proof.
	wantFailure(t, w.do(t, "POST", "/api/packs/x/reject", strings.NewReader("{}"), as("203.0.113.5", "Host", "evil.example", "X-Forwarded-Host", "localhost", "X-Forwarded-Proto", "https")),
		403, "Host not allowed: evil.example; name it in RUMI_ALLOWED_HOSTS, or call localhost (reads are answered under any name, changes aren't)")
	for _, address := range []string{"203.0.113.3", "203.0.113.4", "203.0.113.5"} {
		if got := w.audit("security"); !strings.Contains(got, `"address":"`+address+`"`) {
			t.Errorf("the security entries lack %s:\n%s", address, got)
		}
	}
}

// TestUntrustedForwarding: a client that isn't a proxy can't take another address.
func TestUntrustedForwarding(t *testing.T) {
	w := newWorld(t, map[string]string{"RUMI_TRUSTED_PROXIES": "10.0.0.3"})
	for _, name := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded"} {
		if got := w.do(t, "GET", "/api/packs", nil, map[string]string{name: "6.6.6.6"}).seen(t).Address; got != "127.0.0.1" {
			t.Errorf("%s was believed: the address is %s, want 127.0.0.1", name, got)
		}
	}
}
