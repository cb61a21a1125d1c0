package main

import (
	"fmt"
	"testing"
	"time"
)

// TestGrantsByState: grants are counted as they decide at the time of the scrape, also when they expire by themselves or the policy changes.
func TestGrantsByState(t *testing.T) {
	r := newRig(t, nil)
	r.pack("p", "approved")
	r.pack("q", "approved")
	states := func(active, suspended float64) map[string]float64 {
		return map[string]float64{`rumi_grants{state="active"}`: active, `rumi_grants{state="suspended"}`: suspended}
	}
	r.proxy.WantValues(t, "at first", states(0, 0))
	r.eventually("p is known", func() bool {
		status, _ := r.call("POST", "/api/network/grant", `{"pack_id":"p","allowed_domains":["a.example"],"allowed_ports":[443]}`)
		return status == 200
	})
	until := time.Now().Add(2 * time.Second).UTC().Format(time.RFC3339Nano)
	r.mustCall("POST", "/api/network/grant", fmt.Sprintf(`{"pack_id":"q","allowed_domains":["b.example"],"allowed_ports":[443],"expires_at":%q}`, until))
	r.proxy.WantValues(t, "two", states(2, 0))
	r.suite.SetPolicy(`{"version": 1, "network": {"domains": {"allow": ["b.example"]}}}`)
	r.proxy.Eventually(t, "one is suspended, the other one has expired", states(0, 1))
	r.suite.SetPolicy(`{"version": 1}`)
	r.proxy.Eventually(t, "in force again", states(1, 0))
	r.mustCall("POST", "/api/network/revoke", `{"pack_id":"p"}`)
	r.proxy.WantValues(t, "revoked", states(0, 0))
}
