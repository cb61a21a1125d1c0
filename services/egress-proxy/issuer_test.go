package main

import (
	"strings"
	"testing"

	api "github.com/rumi-ai/rumi/api/egress"
)

// TestIssuerIsOfTheSettings: the gateway alone may ask, and names no URL.
func TestIssuerIsOfTheSettings(t *testing.T) {
	r := newRig(t, map[string]string{"RUMI_OIDC_ISSUER": "https://10.0.0.1/realms/main"})
	if status, body := r.call("GET", "/internal/issuer/keys", ""); status != 503 || !strings.Contains(body, `"oidc_unavailable"`) || !strings.Contains(body, "name it in RUMI_EGRESS_ALLOW_CIDRS") {
		t.Errorf("an internal issuer: %d %s, want 503 and the setting that opens it", status, body)
	}
	if status, body := r.call("GET", "/internal/issuer/keys?url=https://evil.example", ""); status != 400 {
		t.Errorf("with a URL: %d %s, want 400", status, body)
	}
	if _, err := api.NewClient(r.suite.Peer("approval", "egress-proxy")).FetchKeys(t.Context()); err == nil || !strings.Contains(err.Error(), "Caller not allowed") {
		t.Errorf("another caller: %v, want that it isn't allowed", err)
	}
}
