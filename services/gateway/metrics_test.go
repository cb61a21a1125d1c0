package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/rpc"
)

// TestRefusalsByReason: each refusal of the gateway is counted once, by its reason, and none of a service's own faults is.
func TestRefusalsByReason(t *testing.T) {
	w := newWorld(t, map[string]string{"RUMI_API_RATE_LIMIT": "40", "RUMI_API_RATE_WINDOW": "3600"})
	gateway := w.servers["gateway"]
	viewer := w.issue(t, `{"name": "v", "role": "viewer"}`).Token
	for _, c := range []struct {
		reason string
		do     func()
	}{
		{"unauthorized", func() { w.as(t, "wrong", "GET", "/api/packs", "") }},
		{"not_found", func() { w.do(t, "GET", "/api/nothing", nil, nil) }},
		{"method_not_allowed", func() { w.do(t, "FOO", "/api/packs", nil, nil) }},
		{"not_allowed", func() { w.as(t, viewer, "POST", "/api/packs/x/reject", `{}`) }},
		{"origin_refused", func() {
			w.do(t, "POST", "/api/packs/x/reject", strings.NewReader("{}"), map[string]string{"Origin": "https://evil.example"})
		}},
		{"body_too_large", func() {
			w.do(t, "POST", "/api/packs/x/reject", strings.NewReader(strings.Repeat(" ", rpc.MaxBody+1)), nil)
		}},
		{"invalid_request", func() { w.do(t, "GET", "/api/packs?a=%zz", nil, nil) }},
	} {
		name := fmt.Sprintf("rumi_api_refusals_total{reason=%q}", c.reason)
		before := gateway.Values(t)
		c.do()
		for other, value := range gateway.Values(t) {
			if !strings.HasPrefix(other, "rumi_api_refusals_total") {
				continue
			}
			want := before[other]
			if other == name {
				want++
			}
			if value != want {
				t.Errorf("%s: %s is %v, want %v", c.reason, other, value, want)
			}
		}
	}
	before := gateway.Values(t)
	w.do(t, "GET", "/api/containers", nil, nil) // the owner's own 503
	gateway.WantValues(t, "a service's fault", map[string]float64{
		`rumi_api_refusals_total{reason="tokens_unavailable"}`: before[`rumi_api_refusals_total{reason="tokens_unavailable"}`],
	})
	for range 11 {
		w.as(t, "wrong", "GET", "/api/packs", "")
	}
	for range 40 {
		w.do(t, "GET", "/api/packs", nil, nil)
	}
	after := gateway.Values(t)
	for _, name := range []string{`rumi_api_refusals_total{reason="too_many_failures"}`, `rumi_api_refusals_total{reason="rate_limited"}`} {
		if after[name] <= before[name] {
			t.Errorf("%s is %v after it was exceeded, want more than %v", name, after[name], before[name])
		}
	}
}

// TestTokensByState: tokens are counted as they are at the time of the scrape, also those that expire by themselves.
func TestTokensByState(t *testing.T) {
	w := newWorld(t, nil)
	gateway := w.servers["gateway"]
	states := func(active, expired, revoked float64) map[string]float64 {
		return map[string]float64{
			`rumi_api_tokens{state="active"}`: active, `rumi_api_tokens{state="expired"}`: expired, `rumi_api_tokens{state="revoked"}`: revoked,
			`rumi_api_tokens{state="unreadable"}`: 0,
		}
	}
	gateway.WantValues(t, "at first", states(0, 0, 0))
	w.issue(t, `{"name": "a", "role": "viewer"}`)
	w.issue(t, fmt.Sprintf(`{"name": "b", "role": "viewer", "expires_at": %q}`, time.Now().Add(1200*time.Millisecond).UTC().Format(time.RFC3339Nano)))
	revoked := w.issue(t, `{"name": "c", "role": "viewer"}`)
	gateway.WantValues(t, "three", states(3, 0, 0))
	if got := w.do(t, "DELETE", "/api/tokens/"+w.listed(t)["c"].ID, nil, nil); got.status != 200 {
		t.Fatalf("revoke %+v: %d %s", revoked, got.status, got.raw)
	}
	time.Sleep(1300 * time.Millisecond)
	gateway.WantValues(t, "one expired, one revoked", states(1, 1, 1))
}

// TestGatewayWithoutADatabaseIsScraped: the tokens aren't known, and everything else is.
func TestGatewayWithoutADatabaseIsScraped(t *testing.T) {
	w := newWorld(t, map[string]string{"RUMI_DATABASE_URL": "postgres://rumi:none@127.0.0.1:1/rumi?sslmode=disable"})
	began := time.Now()
	values := w.servers["gateway"].Values(t)
	if took := time.Since(began); took > time.Second {
		t.Errorf("the scrape took %v, want less than 1s", took)
	}
	if _, ok := values[`rumi_api_tokens{state="active"}`]; ok {
		t.Error("tokens are counted without a database, want none")
	}
	if _, ok := values[`rumi_api_refusals_total{reason="unauthorized"}`]; !ok {
		t.Error("no refusals are exposed, want them")
	}
}

// TestStrangersMakeNoSeries: whatever a stranger makes up, it makes no time series of it.
func TestStrangersMakeNoSeries(t *testing.T) {
	w := newWorld(t, nil)
	w.do(t, "GET", "/api/packs", nil, nil)
	w.servers["gateway"].WantNoNewSeries(t, func() {
		for i := range 300 {
			w.as(t, fmt.Sprint("token", i), "GET", fmt.Sprintf("/api/made/up/%d", i), "")
			w.do(t, fmt.Sprint("METHOD", i), fmt.Sprintf("/api/packs/%d", i), nil, nil)
			w.do(t, "GET", fmt.Sprintf("/path%d?x%d=1", i, i), nil, map[string]string{fmt.Sprint("X-Header-", i): "x", "Origin": fmt.Sprintf("https://o%d.example", i)})
			w.do(t, "POST", fmt.Sprintf("/api/packs/p%d/reject", i), strings.NewReader(fmt.Sprintf(`{"field%d": 1}`, i)), nil)
		}
	})
}
