package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	api "github.com/rumi-ai/rumi/api/egress"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
	"github.com/rumi-ai/rumi/libs/uds"
)

// A grant that comes to something else than its lists may promise is made, and said to.
func TestGrantsWarn(t *testing.T) {
	r := newRig(t, nil)
	r.pack("q", "approved")
	r.dial("q") // approval's news have come
	if got := r.mustCall("POST", "/api/network/grant", `{"pack_id":"q","allowed_domains":["10.0.0.1"]}`); !strings.Contains(got, `"warnings":["no port is named: nothing is allowed (allowed_ports)","10.0.0.1 is an internal address (private): name it in RUMI_EGRESS_ALLOW_CIDRS"]`) {
		t.Errorf("the grant without a port says %s, want a warning of the port and one of the address", got)
	}
	if got := r.mustCall("POST", "/api/network/grant", `{"pack_id":"q","allowed_domains":["10.0.0.2"],"allowed_ports":[443]}`); !strings.Contains(got, `"replaced":{"removed":{"allowed_domains":["10.0.0.1"],"allowed_ports":[],"rules":[],"tunnels":false}}`) ||
		!strings.Contains(got, `"10.0.0.2 is an internal address (private): name it in RUMI_EGRESS_ALLOW_CIDRS","no longer granted: 10.0.0.1"`) {
		t.Errorf("grant of another host: %s; want warnings of the new address and of the one that is no longer granted", got)
	}
	if got := r.mustCall("POST", "/api/network/check", `{"pack_id":"q","domain":"10.0.0.2","port":443}`); !strings.Contains(got, `"allowed":true`) || !strings.Contains(got, `"warnings":["10.0.0.2 is an internal address (private)`) {
		t.Errorf("check of a host that isn't reached nevertheless: %s; want it allowed, with a warning", got)
	}
}

func TestLifeOfAGrant(t *testing.T) {
	r := newRig(t, nil)
	url, port := upstreamServer(t, func(w http.ResponseWriter, q *http.Request) { fmt.Fprint(w, "hello from ", q.URL.Path) })
	if status, body := r.call("POST", "/api/network/grant", `{"pack_id":"p","allowed_domains":["127.0.0.1"],"allowed_ports":[0]}`); status != 404 || !strings.Contains(body, "Pack not found") {
		t.Fatalf("a grant for a pack that doesn't exist: %d %s; want 404", status, body)
	}
	r.pack("p", "approved")
	c := r.dial("p")
	if a := r.ask(c, url+"/x"); a.ErrorType != "grant_denied" || a.Error != "Network access denied: No network grant for this pack" {
		t.Fatalf("got %+v without a grant, want grant_denied", a)
	}
	r.grant("p", `"127.0.0.1"`, port)
	if a := r.ask(c, url+"/x"); !a.Success || a.Body != "hello from /x" {
		t.Fatalf("got %+v under a grant, want the server's answer", a)
	}
	if a := r.ask(c, "http://127.0.0.1:1/"); a.Error != "Network access denied: Port 1 not in allowed list" {
		t.Errorf("got %+v for another port, want that it isn't in the list", a)
	}
	if a := r.ask(c, "http://example.com/"); a.Error != "Network access denied: Domain 'example.com' not in allowed list" {
		t.Errorf("got %+v for another host, want that it isn't in the list", a)
	}
	check := func(domain string, port any, allowed bool, reason string) {
		t.Helper()
		got := r.mustCall("POST", "/api/network/check", fmt.Sprintf(`{"pack_id":"p","domain":%q,"port":%v}`, domain, port))
		if want := fmt.Sprintf(`"data":{"allowed":%v,"reason":%q,"pack_id":"p","domain":%q,"port":%v}`, allowed, reason, domain, port); !strings.Contains(got, want) {
			t.Errorf("check: %s, want %s", got, want)
		}
	}
	check("127.0.0.1", port, true, "Access granted")
	check("Other.example", 443, false, "Domain 'Other.example' not in allowed list")
	check("127.0.0.1", 443, false, "Port 443 not in allowed list")

	r.pack("p", "modified")
	r.eventually("modified", func() bool {
		return r.ask(c, url).Error == "Network access denied: Pack is disabled due to modification"
	})
	check("127.0.0.1", port, false, "Pack is disabled due to modification")
	if got := r.mustCall("GET", "/api/network/list", ""); !strings.Contains(got, `"disabled_packs":["p"],"disabled_count":1`) || !strings.Contains(got, `"grant_count":1`) {
		t.Errorf("the list is %s, want p disabled and one grant", got)
	}
	r.pack("p", "approved")
	r.eventually("approved again", func() bool { return r.ask(c, url).Success })

	if got := r.mustCall("POST", "/api/network/revoke", `{"pack_id":"p","reason":"done"}`); !strings.Contains(got, `"data":{"success":true,"pack_id":"p","revoked":true}`) {
		t.Errorf("the revocation says %s, want that p's grant is revoked", got)
	}
	if a := r.ask(c, url); a.Error != "Network access denied: Network grant is disabled" {
		t.Errorf("got %+v after the revoke, want that the grant is disabled", a)
	}
	check("127.0.0.1", port, false, "Network grant is disabled")
	if got := r.mustCall("POST", "/api/network/revoke", `{"pack_id":"p"}`); !strings.Contains(got, `"revoked":false`) {
		t.Errorf("the second revocation says %s, want revoked false", got)
	}
	if status, _ := r.call("POST", "/api/network/revoke", `{"pack_id":"never"}`); status != 404 {
		t.Errorf("revoke of a pack that never was: %d, want 404", status)
	}
	if got := r.mustCall("GET", "/api/network/list", ""); !strings.Contains(got, `"enabled":false`) {
		t.Errorf("the list is %s, want p's grant disabled", got)
	}

	revoked, err := api.NewClient(r.suite.Peer("pack-registry", "egress-proxy")).Remove(t.Context(), "p")
	if err != nil || revoked {
		t.Errorf("the removal: %v, %v; want nothing left to revoke", revoked, err)
	}
	if got := r.mustCall("GET", "/api/network/list", ""); !strings.Contains(got, `"grants":{}`) {
		t.Errorf("the list is %s, want no grants", got)
	}
	if _, err := os.Stat(r.socket("p")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket of a removed pack: %v; want ErrNotExist", err)
	}

	var actions []string
	for _, e := range r.entries("permission") {
		actions = append(actions, fmt.Sprint(e["action"], " ", e["actor"], " ", e["owner_pack"]))
	}
	if got := strings.Join(actions, ", "); got != "permission_grant operator p, permission_revoke operator p" {
		t.Errorf("the entries are %s, want a grant and a revocation of p by the operator", got)
	}
	denials := 0
	for _, e := range r.entries("security") {
		if e["action"] == "network_denied" {
			denials++
		}
	}
	requests := 0
	for _, e := range r.entries("network") {
		if e["success"] == false {
			requests++
		}
		details := e["details"].(map[string]any)
		if details["check_type"] == "proxy_request" && (e["actor"] != "pack:p" || e["request_id"] == "") {
			t.Errorf("the entry is %v, want p as its actor and a request ID", e)
		}
	}
	if denials == 0 || denials != requests {
		t.Errorf("%d denials in security, %d in network", denials, requests)
	}
}

func TestBadRequests(t *testing.T) {
	r := newRig(t, nil)
	r.pack("p", "approved")
	r.dial("p")
	long := strings.Repeat("x", 5000)
	tests := []struct {
		path, body string
		status     int
		text       string
	}{
		{"grant", `{}`, 400, "Missing pack_id"},
		{"grant", ``, 400, "Missing pack_id"},
		{"grant", `{"pack_id":"../x","allowed_domains":["x.com"]}`, 400, "Invalid pack_id"},
		{"grant", `{"pack_id":"p\n","allowed_domains":["x.com"]}`, 400, "Invalid pack_id"},
		{"grant", `{"pack_id":"p"}`, 400, "Must specify allowed_domains or allowed_ports"},
		{"grant", `{"pack_id":"p","allowed_domains":[],"allowed_ports":[]}`, 400, "Must specify allowed_domains or allowed_ports"},
		{"grant", `{"pack_id":"p","allowed_domains":["a..b"]}`, 400, "Invalid domain in allowed_domains"},
		{"grant", `{"pack_id":"p","allowed_domains":["https://x.com"]}`, 400, "Invalid domain in allowed_domains"},
		{"grant", `{"pack_id":"p","allowed_domains":["*.*"]}`, 400, "Invalid domain in allowed_domains"},
		{"grant", `{"pack_id":"p","allowed_domains":["x.com"],"allowed_ports":[65536]}`, 400, "Invalid port in allowed_ports: 65536"},
		{"grant", `{"pack_id":"p","allowed_domains":["x.com"],"allowed_ports":[-1]}`, 400, "Invalid port in allowed_ports: -1"},
		{"grant", `{"pack_id":"p","allowed_domains":["x.com"],"allowed_ports":["443"]}`, 400, "Invalid value for field 'allowed_ports[0]'"},
		{"grant", `{"pack_id":"p","allowed_domains":"x.com"}`, 400, "Invalid value for field 'allowed_domains'"},
		{"grant", `{"pack_id":"p","allowed_domains":["x.com"],"expires":"x"}`, 400, "Unknown field 'expires'"},
		{"grant", `{"pack_id":"p","allowed_domains":["x.com"],"expires_at":"tomorrow"}`, 400, "Invalid value for field 'expires_at'"},
		{"grant", `{"pack_id":"p","allowed_domains":["x.com"],"expires_at":"2001-01-01T00:00:00Z"}`, 400, "expires_at must lie in the future"},
		{"grant", `{"pack_id":"p","allowed_domains":["x.com"],"expires_at":"0001-01-01T00:00:00Z"}`, 400, "expires_at must lie in the future"},
		{"grant", `{"pack_id":"p","allowed_domains":["x.com"],"expires_at":""}`, 400, ""},
		{"grant", `{"pack_id":"p","allowed_domains":["x.com"],"notes":"` + long + `"}`, 400, "notes is too long"},
		{"grant", `[]`, 400, "Invalid JSON in request body"},
		{"grant", `{"pack_id":"never","allowed_domains":["x.com"]}`, 404, "Pack not found"},
		{"revoke", `{"reason":"x"}`, 400, "Missing pack_id"},
		{"revoke", `{"pack_id":"p","reason":"` + long + `"}`, 400, "reason is too long"},
		{"check", `{"domain":"x.com","port":443}`, 400, "Missing pack_id"},
		{"check", `{"pack_id":"p","port":443}`, 400, "Missing domain"},
		{"check", `{"pack_id":"p","domain":"x.com"}`, 400, "Missing port"},
		{"check", `{"pack_id":"p","domain":"x.com","port":"443"}`, 400, "Invalid value for field 'port'"},
		{"check", `{"pack_id":"p","domain":"x.com","port":0}`, 400, "Invalid port: 0"},
		{"check", `{"pack_id":"p","domain":"x.com","port":65536}`, 400, "Invalid port: 65536"},
		{"check", `{"pack_id":"never","domain":"x.com","port":443}`, 200, "No network grant for this pack"},
	}
	for _, tt := range tests {
		status, body := r.call("POST", "/api/network/"+tt.path, tt.body)
		if status != tt.status || !strings.Contains(body, tt.text) {
			t.Errorf("%s %.100s: %d %s, want %d %s", tt.path, tt.body, status, body, tt.status, tt.text)
		}
	}
	if entries := r.entries("permission"); len(entries) != 0 {
		t.Errorf("refused requests left the entries %v, want none", entries)
	}
}

func TestCallers(t *testing.T) {
	r := newRig(t, nil)
	for caller, want := range map[string]int{"pack-registry": 403, "capability-broker": 403, "egress-proxy": 403} {
		response, err := r.suite.Client(caller, "egress-proxy").Post("https://egress-proxy/api/network/grant", "application/json", strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("the grant as %s got %d, want %d", caller, response.StatusCode, want)
		}
	}
	if status, _ := r.call("DELETE", "/internal/packs/p", ""); status != 403 {
		t.Errorf("the gateway may remove: %d, want 403", status)
	}
}

// Whom a caller names as the one who granted is a note. The grant is the actor's.
func TestGrantedByIsTheActor(t *testing.T) {
	r := newRig(t, nil)
	r.pack("p", "approved")
	r.dial("p")
	status, answer := r.as("operator", "POST", "/api/network/grant", `{"pack_id":"p","allowed_domains":["x.com"],"allowed_ports":[443],"granted_by":"the boss"}`)
	if list := r.mustCall("GET", "/api/network/list", ""); status != http.StatusOK || !strings.Contains(answer, `"granted_by":"alice"`) || !strings.Contains(list, `"granted_by":"alice"`) {
		t.Errorf("got %d %s, and the list %s; want granted by alice", status, answer, list)
	}
	e := r.entries("permission")[0]
	details := e["details"].(map[string]any)
	if e["actor"] != "alice" || details["granted_by"] != "alice" || details["granted_by_note"] != "the boss" {
		t.Errorf("the entry is %v, want the actor alice and the boss as a note", e)
	}
}

func TestWideGrantIsAWarning(t *testing.T) {
	r := newRig(t, nil)
	r.pack("p", "approved")
	r.dial("p")
	for i, tt := range []struct{ domains, ports, severity string }{
		{`"x.com"`, `443`, "info"}, {`"*"`, `443`, "warning"}, {`"x.com"`, `0`, "warning"}, {`"*.x.com"`, `443`, "info"},
	} {
		r.grant("p", tt.domains, tt.ports)
		if e := r.entries("permission")[i]; e["severity"] != tt.severity || e["details"].(map[string]any)["permission_type"] != "network" {
			t.Errorf("the grant of %s %s: the entry is %v, want the severity %s", tt.domains, tt.ports, e, tt.severity)
		}
	}
}

// Sockets come with approval and go with it; modified ones stay.
func TestSocketsFollowTheGate(t *testing.T) {
	r := newRig(t, map[string]string{"RUMI_EGRESS_SOCKET_MODE": "0666"})
	there := func(id string) bool { _, err := os.Stat(r.socket(id)); return err == nil }
	r.pack("p", "pending")
	r.pack("q", "approved")
	r.eventually("q's socket", func() bool { return there("q") })
	if there("p") {
		t.Error("a pending pack has a socket")
	}
	for _, step := range []struct {
		status string
		want   bool
	}{{"approved", true}, {"modified", true}, {"running", true}, {"blocked", false}, {"approved", true}, {"error", false}} {
		r.pack("p", step.status)
		r.eventually(step.status, func() bool { return there("p") == step.want })
	}
	r.gates.Remove(t.Context(), "q")
	r.eventually("q is gone", func() bool { return !there("q") })
	info, err := os.Stat(filepath.Dir(r.dir))
	if err != nil || !info.IsDir() {
		t.Error(err)
	}
	r.eventually("nothing but the owner's mark is left", func() bool {
		left, err := os.ReadDir(r.dir)
		return err == nil && len(left) == 1 && left[0].Name() == uds.MarkName
	})
	found := false
	for _, e := range r.entries("security") {
		found = found || e["action"] == "socket_mode_relaxed"
	}
	if !found {
		t.Error("a relaxed socket mode left no entry")
	}
}

// Whatever a payload says, the socket tells who asks.
func TestIdentityIsTheSocket(t *testing.T) {
	r := newRig(t, nil)
	url, port := upstreamServer(t, func(http.ResponseWriter, *http.Request) {})
	r.pack("p", "approved")
	r.pack("q", "approved")
	p, q := r.dial("p"), r.dial("q")
	r.grant("p", `"127.0.0.1"`, port)
	frame := fmt.Sprintf(`{"method":"GET","url":%q,"pack_id":"p","owner_pack":"p","principal_id":"p"}`, url)
	if a, err := ask(p, frame); err != nil || !a.Success {
		t.Errorf("got %+v, %v on p's socket, want success", a, err)
	}
	if a, err := ask(q, frame); err != nil || a.Error != "Network access denied: No network grant for this pack" {
		t.Errorf("got %+v, %v on q's socket, want that q has no grant", a, err)
	}
}

func TestOwnListenersStayClosed(t *testing.T) {
	r := newRig(t, nil)
	r.pack("p", "approved")
	c := r.dial("p")
	r.grant("p", `"*"`, "0")
	for _, at := range []string{r.proxy.Address, r.proxy.Admin} {
		if a := r.ask(c, "http://"+at+"/metrics"); a.ErrorType != "blocked" {
			t.Errorf("%s: got %+v, want blocked", at, a)
		}
	}
	for _, url := range []string{"http://169.254.169.254/", "http://10.0.0.1/", "http://0.0.0.0:9090/", "http://[::ffff:127.0.0.1]/"} {
		if a := r.ask(c, url); a.ErrorType != "blocked" {
			t.Errorf("%s: got %+v, want blocked", url, a)
		}
	}
}

// A revoke ends what is under way and closes what is pooled.
func TestRevokeCuts(t *testing.T) {
	r := newRig(t, nil)
	entered, over := make(chan struct{}, 1), make(chan struct{})
	url, port := upstreamServer(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/wait" {
			entered <- struct{}{}
			select {
			case <-q.Context().Done():
			case <-over:
			}
		}
	})
	defer close(over)
	r.pack("p", "approved")
	c := r.dial("p")
	steps := []struct {
		name   string
		narrow func()
		text   string
	}{
		{"revoke", func() { r.mustCall("POST", "/api/network/revoke", `{"pack_id":"p"}`) }, "Network access denied: Network grant was changed during the request"},
		{"narrower", func() { r.grant("p", `"other.example"`, port) }, "Network access denied: Network grant was changed during the request"},
		{"modified", func() { r.pack("p", "modified") }, "Network access denied: Pack is disabled due to modification"},
	}
	for _, step := range steps {
		r.pack("p", "approved")
		r.grant("p", `"127.0.0.1"`, port)
		r.eventually("granted", func() bool { return r.ask(c, url).Success })
		done := make(chan answer, 1)
		go func() { a, _ := ask(c, fmt.Sprintf(`{"url":"%s/wait"}`, url)); done <- a }()
		<-entered
		step.narrow()
		select {
		case a := <-done:
			if a.ErrorType != "grant_denied" || a.Error != step.text {
				t.Errorf("%s: got %+v, want grant_denied with %q", step.name, a, step.text)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: the request goes on", step.name)
		}
	}
	// More than before cuts nothing.
	r.pack("p", "approved")
	r.grant("p", `"127.0.0.1"`, port)
	r.eventually("granted", func() bool { return r.ask(c, url).Success })
	done := make(chan answer, 1)
	go func() { a, _ := ask(c, fmt.Sprintf(`{"url":"%s/wait"}`, url)); done <- a }()
	<-entered
	r.grant("p", `"127.0.0.1","more.example"`, port+",443")
	time.Sleep(100 * time.Millisecond) // nothing to wait for: it is about what does not happen
	over <- struct{}{}
	if a := <-done; !a.Success {
		t.Errorf("a wider grant cut a request: %+v", a)
	}
}

// What was acknowledged is there after a restart, and a pack's open directory sees the new socket.
func TestRestart(t *testing.T) {
	r := newRig(t, nil)
	url, port := upstreamServer(t, func(http.ResponseWriter, *http.Request) {})
	r.pack("p", "approved")
	r.dial("p")
	r.grant("p", `"127.0.0.1"`, port)
	before, err := os.Stat(filepath.Dir(r.socket("p")))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.proxy.Stop(); err != nil {
		t.Fatal(err)
	}
	r.start()
	c := r.dial("p")
	if a := r.ask(c, url); !a.Success {
		t.Errorf("got %+v, want success", a)
	}
	after, err := os.Stat(filepath.Dir(r.socket("p")))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the directory that containers have mounted was replaced: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	r := newRig(t, nil)
	url, port := upstreamServer(t, func(http.ResponseWriter, *http.Request) {})
	r.pack("p", "approved")
	c := r.dial("p")
	until := time.Now().Add(2 * time.Second).UTC() // long enough for the grant to be kept and used on a slow machine
	r.mustCall("POST", "/api/network/grant", fmt.Sprintf(`{"pack_id":"p","allowed_domains":["127.0.0.1"],"allowed_ports":[%s],"expires_at":%q}`, port, until.Format(time.RFC3339Nano)))
	if a := r.ask(c, url); !a.Success {
		t.Fatalf("got %+v before the grant expires, want success", a)
	}
	r.eventually("expired", func() bool { return r.ask(c, url).Error == "Network access denied: Network grant is disabled" })
	if time.Now().Before(until) {
		t.Error("it expired early")
	}
}

// Another replica works on the same store and the same socket directory.
func TestReplica(t *testing.T) {
	r := newRig(t, nil)
	url, port := upstreamServer(t, func(http.ResponseWriter, *http.Request) {})
	env := map[string]string{}
	for k, v := range r.env {
		env[k] = v
	}
	env["RUMI_EGRESS_SOCK_DIR"] = filepath.Join(t.TempDir(), "other") // both serve, so that both can be asked
	other := secondReplica(r, env)
	r.pack("p", "approved")
	mine := r.dial("p")
	theirs := other.dial("p")
	r.grant("p", `"127.0.0.1"`, port)
	other.eventually("granted there", func() bool { return other.ask(theirs, url).Success })
	var worst time.Duration
	for range 20 {
		r.grant("p", `"127.0.0.1"`, port)
		other.eventually("granted there", func() bool { return other.ask(theirs, url).Success })
		r.mustCall("POST", "/api/network/revoke", `{"pack_id":"p"}`)
		began := time.Now()
		if r.ask(mine, url).Success {
			t.Fatal("still granted here after the answer")
		}
		for other.ask(theirs, url).Success {
		}
		worst = max(worst, time.Since(began))
	}
	t.Logf("revoke → denied on the other replica: at most %v", worst)
	if worst > time.Second {
		t.Errorf("a revoke takes %v to get to the other replica", worst)
	}
}

func TestConfigurationIsStrict(t *testing.T) {
	suite := servicetest.New(t, "egress-proxy")
	suite.Identity("egress-proxy")
	for name, value := range map[string]string{
		"RUMI_EGRESS_SOCKET_MODE": "0777", "RUMI_EGRESS_SOCKET_GID": "staff", "RUMI_EGRESS_RATE_LIMIT": "-1", "RUMI_EGRESS_ALLOW_CIDRS": "10.0.0.1/8",
		"RUMI_EGRESS_CA_FILE": "/nowhere", "RUMI_EGRESS_DAILY_BYTES": "1GB", "RUMI_AUDIT_REFUSALS": "-1", "RUMI_EGRESS_DNS": "192.0.2.1:domain", "RUMI_EGRESS_RATE": "600",
	} {
		listen := func() net.Listener { l, _ := net.Listen("tcp", "127.0.0.1:0"); return l }
		environ := []string{
			"RUMI_USER_DATA=" + suite.UserData(), "RUMI_EGRESS_SOCK_DIR=" + t.TempDir(),
			"RUMI_IDENTITY_DIR=" + filepath.Join(suite.UserData(), "settings", "identity", "egress-proxy"), name + "=" + value,
		}
		rt, err := service.Start(context.Background(), "egress-proxy", builder(noResolvers), service.Options{Environ: environ, API: listen(), Admin: listen(), Logs: io.Discard})
		if err == nil {
			rt.Stop()
			t.Errorf("%s=%s was taken, want an error", name, value)
		} else if !strings.Contains(err.Error(), strings.TrimPrefix(name, "RUMI_EGRESS_SOCKET_")) && !strings.Contains(strings.ToLower(err.Error()), "rate limit") && !strings.Contains(err.Error(), value) {
			t.Errorf("%s=%s: %v; want an error that names the setting or its value", name, value, err)
		}
	}
}

func TestDNSServers(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1":                           "192.0.2.1:53",
		" 192.0.2.1:5353 ,, 2001:db8::1 ,dns": "192.0.2.1:5353 [2001:db8::1]:53 dns:53",
		"[2001:db8::1]:54,[2001:db8::2]":      "[2001:db8::1]:54 [2001:db8::2]:53",
		"dns.example.org:54":                  "dns.example.org:54",
		"":                                    "",
	} {
		var got dnsServers
		if err := got.UnmarshalText([]byte(text)); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: got %v, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"192.0.2.1:0", "192.0.2.1:65536", "192.0.2.300", "a b", ":53", "udp://192.0.2.1", "1.1.1.1;8.8.8.8", "127.1"} {
		var got dnsServers
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was taken as %v, want an error", text, got)
		}
	}
}
