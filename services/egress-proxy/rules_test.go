package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// A grant's rules hold for each request and each hop. A path that isn't in its one form is under no prefix: it would be sent as it is.
func TestRules(t *testing.T) {
	r := newRig(t, nil)
	var mu sync.Mutex
	var seen []string
	url, port := upstreamServer(t, func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		seen = append(seen, q.Method+" "+q.RequestURI)
		mu.Unlock()
		if to := q.URL.Query().Get("to"); to != "" {
			http.Redirect(w, q, to, http.StatusFound)
		}
	})
	r.pack("p", "approved")
	c := r.dial("p")
	got := r.mustCall("POST", "/api/network/grant", fmt.Sprintf(
		`{"pack_id":"p","allowed_domains":["127.0.0.1"],"allowed_ports":[%s],"rules":[{"methods":["GET"],"path_prefixes":["/v1"]},{"methods":["POST"],"path_prefixes":["/in/"]}]}`, port))
	want := `"rules":[{"domains":[],"methods":["GET"],"path_prefixes":["/v1"]},{"domains":[],"methods":["POST"],"path_prefixes":["/in/"]}],"allow_tunnel":false`
	if list := r.mustCall("GET", "/api/network/list", ""); !strings.Contains(got, want) || !strings.Contains(list, want) {
		t.Errorf("granted %s, listed %s; want in both %s", got, list, want)
	}
	denied := "Network access denied: Request is not covered by the rules of the grant"
	for _, tt := range []struct{ method, path, sent string }{
		{"GET", "/v1", "/v1"},
		{"GET", "/v1/mod%20els?x=%41", "/v1/mod%20els?x=%41"},
		{"GET", "/v1/%6dodels?x=1", ""},
		{"GET", "/v1/a/../b", ""},
		{"GET", "/v1/%2e%2e/v1/x", ""},
		{"GET", "/v1/%zz", ""},
		{"GET", "/v1/a|b", ""},
		{"POST", "/in/x", "/in/x"},
		{"POST", "/v1", ""},
		{"GET", "/", ""},
		{"GET", "/v1x", ""},
		{"GET", "/v1/../admin", ""},
		{"GET", "/v1/%2e%2e/admin", ""},
		{"GET", "/v1/.%2E/admin", ""},
		{"GET", "/v1/..%2fadmin", ""},
		{"GET", "/v1/%2e%2e%2fadmin", ""},
		{"GET", "/v1//../../admin", ""},
		{"GET", "//v1/x", ""},
		{"GET", "/v1/..;/admin", ""},
		{"GET", `/v1/..\\admin`, ""},
		{"GET", "/v1/%252e%252e/admin", ""},
		{"GET", "/v1/?to=/v1/b", "/v1/?to=/v1/b, GET /v1/b"},
		{"GET", "/v1/?to=/admin", "/v1/?to=/admin"}, // and no further
	} {
		seen = nil
		a, err := ask(c, fmt.Sprintf(`{"method":%q,"url":"%s%s"}`, tt.method, url, tt.path))
		if err != nil {
			t.Fatal(err)
		}
		want := ""
		if tt.sent != "" {
			want = tt.method + " " + tt.sent
		}
		if got := strings.Join(seen, ", "); got != want || a.Success == (tt.sent == "" || strings.HasSuffix(tt.sent, "=/admin")) || !a.Success && a.Error != denied {
			t.Errorf("%s %s: sent %q, want %q; answered %+v", tt.method, tt.path, got, want, a)
		}
	}
	reasons := map[any]int{}
	for _, e := range r.entries("security") {
		if e["action"] == "network_denied" {
			reasons[e["details"].(map[string]any)["blocked_reason"]]++
		}
	}
	if len(reasons) != 1 || reasons["rule_denied"] != 19 {
		t.Errorf("audited %v, want 19 of rule_denied", reasons)
	}
	if status, body := r.call("POST", "/api/network/grant", `{"pack_id":"p","allowed_domains":["x.com"],"rules":[{"method":["GET"]}]}`); status != 400 || !strings.Contains(body, "Unknown field") {
		t.Errorf("a misspelt field of a rule: %d %s; want 400 that says so", status, body)
	}
	if status, body := r.call("POST", "/api/network/grant", `{"pack_id":"p","allowed_domains":["x.com"],"rules":[{"methods":"GET"}]}`); status != 400 || !strings.Contains(body, "rules[0].methods") {
		t.Errorf("a wrong type in a rule: %d %s; want 400 that names it", status, body)
	}
}
