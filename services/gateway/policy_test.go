package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/policy/policycheck"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

// policyOwner is a service that enforces the policy of the suite and has one grant of everything.
func policyOwner(name string) service.Build[struct{}] {
	return func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		reader, err := rt.OpenPolicy()
		if err != nil {
			return err
		}
		endpoint := policycheck.Endpoint(name)
		h := route.NewHandlers(route.NewTable(endpoint))
		policycheck.Handle(h, endpoint, reader, func(_ context.Context, p *policy.Policy) ([]policy.Finding, error) {
			broken := p.Network("operator", policy.Network{Domains: []string{"*"}, Ports: []int{443}})
			return broken.Findings(policy.Finding{Kind: policy.NetworkGrant, PackID: "of-" + name, GrantedBy: "alice", Role: "operator", Suspended: true}), nil
		})
		return h.Mount(rt.Mux())
	}
}

func TestPolicy(t *testing.T) {
	suite := servicetest.New(t, "gateway", "egress-proxy", "capability-broker") // pip-installer is down
	suite.SetPolicy(`{"version": 1, "network": {"wildcard": false}}`)
	w := &world{Suite: suite, t: t, servers: map[string]*servicetest.Server{}}
	w.setToken(apiToken)
	for _, name := range []string{"egress-proxy", "capability-broker"} {
		w.servers[name] = servicetest.Start(suite, name, policyOwner(name), nil)
	}
	w.servers["gateway"] = servicetest.Start(suite, "gateway", build, nil)
	w.address = w.servers["gateway"].Address
	get := w.as(t, apiToken, "GET", "/api/policy", "").raw
	for _, part := range []string{
		`"policy":{"version":1,"network":{"wildcard":false}}`, `"count":2`, `"rule":"network.wildcard"`, `"pack_id":"of-egress-proxy"`,
		`"service":"capability-broker"`, `"errors":{"pip-installer":`, `"granted_role":"operator"`, `"digest":"sha256:`,
	} {
		if !strings.Contains(get, part) {
			t.Errorf("GET /api/policy: got %s, want %s in it", get, part)
		}
	}
	for body, want := range map[string]string{
		`{}`:                         `"count":2`,
		`{"policy": null}`:           `"count":2`,
		`{"policy": {"version": 1}}`: `"violations":[],"count":0`,
		`{"policy": {"version": 1, "network": {"domains": {"allow": []}}}}`: `"rule":"network.domains"`,
		`{"policy": {"version": 1, "netwrok": {}}}`:                         `line 1, column 16: \"netwrok\" is no rule`,
		`{"policy": "x"}`: `"error_code":"invalid_policy"`,
		`{"polcy": {}}`:   `Unknown field 'polcy'`,
	} {
		if got := w.as(t, apiToken, "POST", "/api/policy/check", body).raw; !strings.Contains(got, want) {
			t.Errorf("check of %s: got %s, want %s", body, got, want)
		}
	}
	if got := w.as(t, apiToken, "GET", "/api/policy", "").raw; got != get {
		t.Errorf("after the checks: got %s, want the policy as before, %s", got, get)
	}
}

// A pack's view names the grants that are suspended, and no step proposes what the policy would refuse.
func TestAPackShowsWhatIsSuspended(t *testing.T) {
	network, grants := answers["egress-proxy"]["GET /api/network/list"], answers["capability-broker"]["GET /api/capability/grants"]
	t.Cleanup(func() {
		answers["egress-proxy"]["GET /api/network/list"], answers["capability-broker"]["GET /api/capability/grants"] = network, grants
	})
	const suspended = `"enabled":false,"suspended":{"rule":"network.domains","reason":"why"}`
	answers["egress-proxy"]["GET /api/network/list"] = strings.Replace(network, `"enabled":true`, suspended, 1)
	answers["capability-broker"]["GET /api/capability/grants"] = strings.Replace(grants, `"enabled":true`, strings.Replace(suspended, "network.domains", "capability.permissions", 1), 1)
	w := viewsWorld(t)
	got := w.as(t, apiToken, "GET", "/api/packs/chat", "").raw
	if want := `"suspended":[{"what":"network","rule":"network.domains","reason":"why"},{"what":"secrets.get","rule":"capability.permissions","reason":"why"}]`; !strings.Contains(got, want) {
		t.Errorf("got %s, want %s in it", got, want)
	}
	for _, step := range []string{"grant network", "grant secrets"} {
		if strings.Contains(got, step) {
			t.Errorf("got %s, want no step %q, which the policy would refuse", got, step)
		}
	}
}

// What a pack asks for and nobody may grant is named with the rule, and no step proposes to grant it.
func TestAPackShowsWhatThePolicyForbids(t *testing.T) {
	w := viewsWorld(t)
	forbidden := func() string {
		return w.as(t, apiToken, "GET", "/api/packs/chat", "").raw
	}
	if got := forbidden(); !strings.Contains(got, `"forbidden":null`) || !strings.Contains(got, "grant network") {
		t.Errorf("without a ceiling: got %s, want nothing forbidden and the step to grant", got)
	}
	w.SetPolicy(`{"version": 1, "network": {"domains": {"deny": ["api.llm.test"]}}}`)
	time.Sleep(3 * policy.Refresh)
	got := forbidden()
	if !strings.Contains(got, `"forbidden":{"rule":"network.domains","reason":"\"api.llm.test\" covers denied domains`) || strings.Contains(got, "grant network") {
		t.Errorf("got %s, want what is requested forbidden by network.domains, and no step to grant it", got)
	}
}
