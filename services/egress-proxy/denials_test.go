package main

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	api "github.com/rumi-ai/rumi/api/egress"
)

// data is what an answer's envelope holds.
func data(t *testing.T, answer string) string {
	t.Helper()
	var envelope struct {
		Data jsontext.Value `json:"data"`
	}
	if err := json.Unmarshal([]byte(answer), &envelope); err != nil {
		t.Fatal(err)
	}
	return string(envelope.Data)
}

// What was refused makes the grant that opens it, and no more. The steps build on each other.
func TestFromDenialToGrant(t *testing.T) {
	r := newRig(t, nil)
	url, port := upstreamServer(t, func(http.ResponseWriter, *http.Request) {})
	r.pack("p", "approved")
	c := r.dial("p")
	denialsAreCounted(t, r, c, url, port)
	proposalOpensWhatCanBeOpened(t, r, c, url, port)
	rulesAreOpenedPathByPath(t, r, c, url, port)
	tokensAreMasked(t, r, c, url)
	denialsOutliveARestart(t, r, c)

	for _, tt := range []struct {
		path   string
		status int
		text   string
	}{
		{"proposal", 400, "Missing pack_id"},
		{"proposal?pack_id=../x", 400, "Invalid pack_id"},
		{"proposal?pack_id=never", 404, "Pack not found"},
		{"proposal?pack_id=p&since=yesterday", 400, "Invalid since"},
		{"denials?pack_id=../x", 400, "Invalid pack_id"},
	} {
		if status, body := r.call("GET", "/api/network/"+tt.path, ""); status != tt.status || !strings.Contains(body, tt.text) {
			t.Errorf("%s: got %d %s, want %d and %q", tt.path, status, body, tt.status, tt.text)
		}
	}
}

func denialsAreCounted(t *testing.T, r *rig, c net.Conn, url, port string) {
	t.Helper()
	if got := data(t, r.mustCall("GET", "/api/network/denials?pack_id=p", "")); got != `{"denials":[],"count":0}` {
		t.Errorf("got %s at first, want no denials", got)
	}
	for _, u := range []string{
		url, url, "http://169.254.169.254/latest/meta-data", "http://gateway:8080/", "http://metadata.google.internal/",
		"http://10.0.0.1/", "http://[fd00:ec2::254]/", "http://0x7f.1/", "http://x.localhost:" + port + "/",
	} {
		if a := r.ask(c, u); a.ErrorType != "grant_denied" {
			t.Fatalf("%s: got %+v, want grant_denied", u, a)
		}
	}
	var list struct {
		Denials []struct {
			PackID    string    `json:"pack_id"`
			Host      string    `json:"host"`
			Port      int       `json:"port"`
			Method    string    `json:"method"`
			Reason    string    `json:"reason"`
			Count     int       `json:"count"`
			FirstSeen time.Time `json:"first_seen"`
			LastSeen  time.Time `json:"last_seen"`
		} `json:"denials"`
		Count int `json:"count"`
	}
	answer := data(t, r.mustCall("GET", "/api/network/denials?pack_id=p", ""))
	if err := json.Unmarshal([]byte(answer), &list, json.RejectUnknownMembers(true)); err != nil {
		t.Fatal(err)
	}
	if list.Count != 8 || len(list.Denials) != 8 || !strings.Contains(answer, `"host":"numeric form of 127.0.0.1","port":80`) {
		t.Fatalf("got %s, want 8 denials, the numeric form of 127.0.0.1 among them", answer)
	}
	first := list.Denials[7] // the least recent
	if first.PackID != "p" || first.Host != "127.0.0.1" || fmt.Sprint(first.Port) != port || first.Method != "GET" || first.Count != 2 ||
		first.Reason != "grant_denied" || first.LastSeen.Before(first.FirstSeen) || time.Since(first.FirstSeen) > time.Minute {
		t.Errorf("got %+v as the least recent, want 2 refusals of p, just now", first)
	}
}

// 127.0.0.0/8 is opened in this rig, nothing else internal is.
func proposalOpensWhatCanBeOpened(t *testing.T, r *rig, c net.Conn, url, port string) {
	t.Helper()
	proposal := data(t, r.mustCall("GET", "/api/network/proposal?pack_id=p", ""))
	granted, left, _ := strings.Cut(proposal, `,"left_out":`)
	if want := fmt.Sprintf(`{"pack_id":"p","allowed_domains":["127.0.0.1","x.localhost"],"allowed_ports":[%s]`, port); granted != want {
		t.Fatalf("got the proposal %s, want %s", proposal, want)
	}
	for _, want := range []string{
		`"host":"gateway","port":8080,"method":"GET","why":"one of Rumi's own services: never reached"}`,
		`"host":"169.254.169.254","port":80,"method":"GET","why":"an address that is never reached (metadata)"}`,
		`"host":"10.0.0.1","port":80,"method":"GET","why":"an internal address (private): name it in RUMI_EGRESS_ALLOW_CIDRS","setting":"RUMI_EGRESS_ALLOW_CIDRS"}`,
		`"host":"numeric form of 127.0.0.1","port":80,"method":"GET","why":"not a host that a grant can name"}`,
	} {
		if !strings.Contains(left, want) {
			t.Errorf("got %s left out, want %s in it", left, want)
		}
	}
	r.mustCall("POST", "/api/network/grant", proposal)
	if a := r.ask(c, url); !a.Success {
		t.Errorf("got %+v under the proposed grant, want success", a)
	}
	later := time.Now().Add(time.Second).UTC().Format(time.RFC3339)
	if got := data(t, r.mustCall("GET", "/api/network/proposal?pack_id=p&since="+later, "")); got != granted+"}" {
		t.Errorf("got %s with nothing refused since, want what is granted", got)
	}
}

// What rules refuse is opened path by path.
func rulesAreOpenedPathByPath(t *testing.T, r *rig, c net.Conn, url, port string) {
	t.Helper()
	r.mustCall("POST", "/api/network/grant", fmt.Sprintf(`{"pack_id":"p","allowed_domains":["127.0.0.1"],"allowed_ports":[%s],"rules":[{"path_prefixes":["/v1"]}]}`, port))
	if a := r.ask(c, url+"/v2/x?token=secret"); a.ErrorType != "grant_denied" {
		t.Errorf("got %+v, want grant_denied by the path rules", a)
	}
	if answer := r.mustCall("GET", "/api/network/denials", ""); !strings.Contains(answer, `"path":"/v2/x","reason":"rule_denied"`) || strings.Contains(answer, "secret") {
		t.Errorf("got %s, want /v2/x refused by rules, without the query", answer)
	}
	proposal := data(t, r.mustCall("GET", "/api/network/proposal?pack_id=p", ""))
	if !strings.Contains(proposal, `{"domains":["127.0.0.1"],"methods":["GET"],"path_prefixes":["/v2/x"]}`) {
		t.Errorf("got %s, want a rule for GET and /v2/x in it", proposal)
	}
	r.mustCall("POST", "/api/network/grant", proposal)
	if a := r.ask(c, url+"/v2/x"); !a.Success {
		t.Errorf("got %+v under the proposed grant, want success", a)
	}
}

// A segment that looks like a credential is shown nowhere, and is in no proposal.
func tokensAreMasked(t *testing.T, r *rig, c net.Conn, url string) {
	t.Helper()
	const token = "bot123456789:AAH-canary-Zx81kQ"
	if a := r.ask(c, url+"/"+token+"/send"); a.ErrorType != "grant_denied" {
		t.Errorf("got %+v, want grant_denied by the path rules", a)
	}
	for _, path := range []string{"denials", "proposal?pack_id=p"} {
		if answer := r.mustCall("GET", "/api/network/"+path, ""); strings.Contains(answer, "canary") {
			t.Errorf("%s shows the token: %s", path, answer)
		}
	}
	if answer := r.mustCall("GET", "/api/network/denials", ""); !strings.Contains(answer, `"path":"/***/send"`) {
		t.Errorf("got %s, want the path without the token", answer)
	}
}

// A restart loses no denials; the removal of the pack deletes them.
func denialsOutliveARestart(t *testing.T, r *rig, c net.Conn) {
	t.Helper()
	r.ask(c, "http://last.example.com/")
	if err := r.proxy.Stop(); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.dial("p")
	if answer := r.mustCall("GET", "/api/network/denials?pack_id=p", ""); !strings.Contains(answer, `"count":11`) || !strings.Contains(answer, "last.example.com") {
		t.Errorf("got %s after a restart, want all denials of before", answer)
	}
	if _, err := api.NewClient(r.suite.Peer("pack-registry", "egress-proxy")).Remove(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	if got := data(t, r.mustCall("GET", "/api/network/denials?pack_id=p", "")); got != `{"denials":[],"count":0}` {
		t.Errorf("got %s of a removed pack, want no denials", got)
	}
}

func TestDailyBytes(t *testing.T) {
	r := newRig(t, map[string]string{"RUMI_EGRESS_DAILY_BYTES": "1000"})
	got := 0
	url, port := upstreamServer(t, func(_ http.ResponseWriter, q *http.Request) { got += int(q.ContentLength) })
	r.pack("p", "approved")
	c := r.dial("p")
	r.grant("p", `"127.0.0.1"`, port)
	send := func(n int) answer {
		t.Helper()
		a, err := ask(c, fmt.Sprintf(`{"method":"POST","url":%q,"body":%q}`, url, strings.Repeat("x", n)))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if time.Now().UTC().Add(time.Minute).Day() != time.Now().UTC().Day() {
		time.Sleep(time.Minute) // or the day would end in the middle
	}
	for n, want := range map[int]bool{600: true, 1001: false} {
		if a := send(n); a.Success != want {
			t.Errorf("%d bytes: got %+v, want success %v", n, a, want)
		}
	}
	if a := send(401); a.ErrorType != "rate_limited" || a.Error != "Daily egress budget exceeded" {
		t.Errorf("got %+v, want the daily budget exceeded", a)
	}
	if err := r.proxy.Stop(); err != nil {
		t.Fatal(err)
	}
	r.start()
	c = r.dial("p")
	if a := send(401); a.Error != "Daily egress budget exceeded" {
		t.Errorf("after a restart: got %+v, want the daily budget to be spent still", a)
	}
	if a := send(400); !a.Success || got != 1000 {
		t.Errorf("%+v; the server got %d bytes", a, got)
	}
	if a := r.ask(c, url); !a.Success {
		t.Errorf("a request without a body: got %+v, want success", a)
	}
	if answer := r.mustCall("GET", "/api/network/denials?pack_id=p", ""); !strings.Contains(answer, `"reason":"budget_exceeded"`) {
		t.Errorf("got %s, want a denial by the daily budget in it", answer)
	}
}
