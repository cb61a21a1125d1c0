package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	api "github.com/rumi-ai/rumi/api/egress"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/service"
)

func (r *rig) listed(id string) (g api.Grant) {
	r.Helper()
	var answer struct {
		Data api.ListResponse `json:"data"`
	}
	if err := json.Unmarshal([]byte(r.mustCall("GET", "/api/network/list", "")), &answer); err != nil {
		r.Fatal(err)
	}
	return answer.Data.Grants[id]
}

// as is call in the name of a person with a role.
func (r *rig) as(role, method, path, body string) (int, string) {
	r.Helper()
	request, err := http.NewRequest(method, "https://egress-proxy"+path, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	request.Header.Set(rpc.ActorHeader, "alice")
	request.Header.Set(rpc.RoleHeader, role)
	response, err := r.api.Do(request)
	if err != nil {
		r.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		r.Fatal(err)
	}
	return response.StatusCode, string(data)
}

func TestAGrantOverThePolicyIsRefused(t *testing.T) {
	r := newRig(t, nil)
	r.pack("p", "approved")
	r.suite.SetPolicy(`{"version": 1, "network": {"domains": {"allow": ["*.example.com"], "deny": ["evil.example.com"]}, "ports": [443, "8000-8999"], "wildcard": false},
		"roles": {"operator": {"network": {"ports": [443]}}}}`)
	r.eventually("the policy is in force", func() bool {
		status, _ := r.as("admin", "POST", "/api/network/grant", `{"pack_id":"p","allowed_domains":["*"],"allowed_ports":[443]}`)
		return status == http.StatusForbidden
	})
	for _, c := range []struct{ role, domain, port, rule string }{
		{"admin", "api.example.com", "443", ""},
		{"admin", "api.example.com", "8080", ""},
		{"operator", "api.example.com", "443", ""},
		{"operator", "api.example.com", "8080", "roles.operator.network.ports"},
		{"", "api.example.com", "8080", "roles.operator.network.ports"},
		{"admin", "*.example.com", "443", "network.domains"},
		{"admin", "EVIL.example.com.", "443", "network.domains"},
		{"admin", "api.example.org", "443", "network.domains"},
		{"admin", "api.example.com", "22", "network.ports"},
		{"admin", "*", "443", "network.wildcard"},
		{"admin", "api.example.com", "0", "network.wildcard"},
	} {
		before := r.mustCall("GET", "/api/network/list", "")
		status, answer := r.as(c.role, "POST", "/api/network/grant", fmt.Sprintf(`{"pack_id":"p","allowed_domains":[%q],"allowed_ports":[%s]}`, c.domain, c.port))
		if c.rule == "" {
			if g := r.listed("p"); status != http.StatusOK || !g.Enabled || g.Suspended != nil || g.GrantedRole != c.role {
				t.Errorf("%s grants %s:%s: got %d %s and %+v, want it granted", c.role, c.domain, c.port, status, answer, g)
			}
			continue
		}
		if status != http.StatusForbidden || !strings.Contains(answer, `"error_code":"policy_violation"`) || !strings.Contains(answer, c.rule+": ") || !strings.Contains(answer, "allowed") {
			t.Errorf("%q grants %s:%s: got %d %s, want 403 policy_violation with %s", c.role, c.domain, c.port, status, answer, c.rule)
		}
		if after := r.mustCall("GET", "/api/network/list", ""); after != before {
			t.Errorf("%q is refused %s:%s: the list was %s and is %s", c.role, c.domain, c.port, before, after)
		}
	}
	refused := 0
	for _, e := range r.entries("security") {
		if e["action"] == "policy_refused" && e["actor"] == "alice" && e["owner_pack"] == "p" {
			refused++
		}
	}
	if refused < 8 {
		t.Errorf("the audit log has %d entries policy_refused, want one for each refusal", refused)
	}
}

// Lowered: what runs is cut within a second, and the record stays. Raised: it is in force again, without a call.
func TestSuspendedGrants(t *testing.T) {
	r := newRig(t, nil)
	stuck := make(chan struct{})
	defer close(stuck)
	started := make(chan struct{}, 1)
	url, port := upstreamServer(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/stuck" {
			started <- struct{}{}
			<-stuck
		}
	})
	r.pack("p", "approved")
	r.pack("q", "approved")
	// Two domains, of which one will be over the ceiling: the whole grant is suspended.
	r.grant("p", `"127.0.0.1","localhost","api.example.com"`, port)
	r.grant("q", `"127.0.0.1"`, port)
	before := r.listed("p")
	if a := r.ask(r.dial("p"), url); a.Status != http.StatusOK {
		t.Fatalf("before: got %+v, want 200", a)
	}
	tunnel := r.dial("p")
	in := bufio.NewReader(tunnel)
	if status, _ := speak(t, tunnel, in, "CONNECT", "127.0.0.1:"+port, ""); status != http.StatusOK {
		t.Fatalf("tunnel: got %d, want 200", status)
	}
	running := make(chan answer, 1)
	held := r.dial("p")
	go func() {
		a, _ := ask(held, fmt.Sprintf(`{"method":"GET","url":%q}`, url+"/stuck"))
		running <- a
	}()
	<-started
	lowered := time.Now()
	r.suite.SetPolicy(`{"version": 1, "network": {"domains": {"deny": ["*.example.com"]}}}`)
	if _, err := in.ReadByte(); err == nil {
		t.Error("the tunnel of a suspended grant: got a byte, want its end")
	}
	if a := <-running; a.Success {
		t.Errorf("the request of a suspended grant: got %+v, want an error", a)
	}
	if took := time.Since(lowered); took > time.Second {
		t.Errorf("a suspended grant's tunnel and request ended after %v, want at most 1 s", took)
	}
	if a := r.ask(r.dial("p"), url); a.Error != "Network access denied: Network grant is disabled" || a.ErrorType != "grant_denied" {
		t.Errorf("a request under a suspended grant: got %+v, want what a revoked one answers", a)
	}
	if a := r.ask(r.dial("q"), url); a.Status != http.StatusOK {
		t.Errorf("a pack within the ceiling: got %+v, want 200", a)
	}
	g := r.listed("p")
	if g.Enabled || g.Suspended == nil || g.Suspended.Rule != policy.Domains || !strings.Contains(g.Suspended.Reason, "api.example.com") || !g.UpdatedAt.Equal(before.UpdatedAt) {
		t.Errorf("the list: got %+v with %+v, want it suspended by %s and its record as it was", g, g.Suspended, policy.Domains)
	}
	if answer := r.mustCall("POST", "/api/network/check", `{"pack_id":"p","domain":"127.0.0.1","port":`+port+`}`); !strings.Contains(answer, "Network grant is suspended by the policy: network.domains") {
		t.Errorf("check: got %s, want the rule", answer)
	}
	if got := r.reasons()["policy_denied"]; got < 1 {
		t.Errorf("the audit log has %d denials policy_denied, want some", got)
	}
	r.suite.SetPolicy(`{"version": 1`) // what can't be read changes nothing
	time.Sleep(3 * policy.Refresh)
	if r.listed("p").Suspended == nil {
		t.Error("a policy that can't be read brought the grant back")
	}
	if err := r.proxy.Readiness(t.Context()); err.Ready {
		t.Error("the service is ready, want it to say that the newest policy is not in force")
	}
	r.suite.SetPolicy(`{"version": 1}`)
	r.eventually("the grant is back", func() bool { return r.ask(r.dial("p"), url).Status == http.StatusOK })
	if g := r.listed("p"); !g.Enabled || g.Suspended != nil || !g.UpdatedAt.Equal(before.UpdatedAt) || !g.GrantedAt.Equal(before.GrantedAt) {
		t.Errorf("the list: got %+v, want the grant as it was before", g)
	}
	changes := 0
	for _, e := range r.entries("security") {
		if e["action"] == "policy_changed" {
			changes++
		}
	}
	if changes != 2 {
		t.Errorf("the audit log has %d entries policy_changed, want 2", changes)
	}
}

// A grant without path rules doesn't name tunnels: it stays in force where they are forbidden, but for them.
func TestForbiddenTunnels(t *testing.T) {
	r := newRig(t, nil)
	url, port := upstreamServer(t, func(http.ResponseWriter, *http.Request) {})
	r.pack("p", "approved")
	r.pack("q", "approved")
	r.grant("p", `"127.0.0.1"`, port)
	ruled := `{"pack_id":"q","allowed_domains":["127.0.0.1"],"allowed_ports":[` + port + `],"rules":[{"methods":["GET"]}],"allow_tunnel":true}`
	r.mustCall("POST", "/api/network/grant", ruled)
	open := func(id string) (net.Conn, *bufio.Reader, int) {
		c := r.dial(id)
		in := bufio.NewReader(c)
		status, _ := speak(t, c, in, "CONNECT", "127.0.0.1:"+port, "")
		return c, in, status
	}
	_, in, status := open("p")
	if status != http.StatusOK {
		t.Fatalf("a tunnel without a ceiling: got %d, want 200", status)
	}
	r.suite.SetPolicy(`{"version": 1, "network": {"tunnels": false}}`)
	if _, err := in.ReadByte(); err == nil {
		t.Error("a running tunnel: got a byte, want its end")
	}
	if _, _, status := open("p"); status != http.StatusForbidden {
		t.Errorf("a new tunnel: got %d, want 403", status)
	}
	if a := r.ask(r.dial("p"), url); a.Status != http.StatusOK {
		t.Errorf("a request that is no tunnel: got %+v, want 200", a)
	}
	if g := r.listed("p"); !g.Enabled || g.Suspended != nil {
		t.Errorf("a grant that names no tunnels: got %+v, want it in force", g)
	}
	if g := r.listed("q"); g.Enabled || g.Suspended == nil || g.Suspended.Rule != policy.Tunnels {
		t.Errorf("a grant that names tunnels: got %+v, want it suspended", g)
	}
	if status, answer := r.call("POST", "/api/network/grant", ruled); status != http.StatusForbidden || !strings.Contains(answer, "network.tunnels") {
		t.Errorf("a new grant that names tunnels: got %d %s, want 403 with network.tunnels", status, answer)
	}
	if answer := r.mustCall("POST", "/api/network/grant", `{"pack_id":"p","allowed_domains":["127.0.0.1"],"allowed_ports":[`+port+`]}`); !strings.Contains(answer, "tunnels are refused by the policy (network.tunnels)") {
		t.Errorf("a grant that names no tunnels: got %s, want a warning", answer)
	}
}

// The proposal leaves out what the policy forbids, so that it can be posted as it is.
func TestTheProposalKeepsWithinThePolicy(t *testing.T) {
	r := newRig(t, nil)
	r.pack("p", "approved")
	r.suite.SetPolicy(`{"version": 1, "network": {"domains": {"deny": ["*.example.org"]}}}`)
	c := r.dial("p")
	for _, host := range []string{"api.example.com", "api.example.org"} {
		r.ask(c, "https://"+host+"/")
	}
	r.eventually("the proposal", func() bool {
		answer := r.mustCall("GET", "/api/network/proposal?pack_id=p", "")
		return strings.Contains(answer, `"allowed_domains":["api.example.com"]`) && strings.Contains(answer, "forbidden by the policy (network.domains)") &&
			strings.Contains(answer, policy.Path)
	})
}

func TestTheProxyDoesNotStartWithoutItsPolicy(t *testing.T) {
	r := newRig(t, nil)
	if err := r.proxy.Stop(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(r.suite.UserData(), "settings", "policy")
	for what, spoil := range map[string]func() error{
		"empty":   func() error { return os.Remove(filepath.Join(dir, policy.FileName)) },
		"damaged": func() error { return os.WriteFile(filepath.Join(dir, policy.FileName), []byte("{"), 0o640) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		listen := func() net.Listener {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		environ := append(r.suite.Environ("egress-proxy"), "RUMI_EGRESS_SOCK_DIR="+r.dir)
		rt, err := service.Start(context.Background(), "egress-proxy", builder(noResolvers), service.Options{Environ: environ, API: listen(), Admin: listen(), Logs: io.Discard})
		if err == nil {
			rt.Stop()
			t.Errorf("%s: it started, want an error", what)
		} else if !strings.Contains(err.Error(), "read the policy") {
			t.Errorf("%s: got %v, want an error that names the policy", what, err)
		}
	}
}
