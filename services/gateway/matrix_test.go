package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
)

// table is the table of access, written a second time by hand: the least role that may call a route, and where a request names its pack: in the
// path, the query or the body, or nowhere (""). Of narrowed ones it is the query, and each caller is shown what his scopes cover where it names none.
var table = map[string]struct {
	role  access.Role
	place string
}{
	"GET /api/packs":                               {"viewer", ""},
	"GET /api/packs/pending":                       {"viewer", ""},
	"GET /api/packs/{pack_id}":                     {"viewer", "path"},
	"GET /api/packs/{pack_id}/status":              {"viewer", "path"},
	"GET /api/packs/{pack_id}/review":              {"viewer", "path"},
	"GET /api/packs/{pack_id}/review/file":         {"viewer", "path"},
	"GET /api/packs/{pack_id}/backups":             {"viewer", "path"},
	"GET /api/packs/staging":                       {"viewer", ""},
	"GET /api/packs/staging/{staging_id}":          {"viewer", ""},
	"POST /api/packs/scan":                         {"operator", ""},
	"POST /api/packs/import":                       {"operator", ""},
	"POST /api/packs/apply":                        {"operator", ""},
	"POST /api/packs/{pack_id}/approve":            {"operator", "path"},
	"POST /api/packs/{pack_id}/reject":             {"operator", "path"},
	"POST /api/packs/{pack_id}/rollback":           {"operator", "path"},
	"DELETE /api/packs/{pack_id}":                  {"operator", "path"},
	"DELETE /api/packs/staging/{staging_id}":       {"operator", ""},
	"DELETE /api/packs/{pack_id}/backups/{backup}": {"operator", "path"},

	"GET /api/policy":        {"viewer", ""},
	"POST /api/policy/check": {"viewer", ""},

	"GET /api/audit":  {"viewer", "narrowed"},
	"GET /api/events": {"viewer", "narrowed"},

	"GET /api/network/list":     {"viewer", ""},
	"GET /api/network/denials":  {"viewer", "query"},
	"GET /api/network/proposal": {"viewer", "query"},
	"POST /api/network/check":   {"viewer", "body"},
	"POST /api/network/grant":   {"operator", "body"},
	"POST /api/network/revoke":  {"operator", "body"},

	"GET /api/capability/requests":                          {"viewer", ""},
	"GET /api/capability/blocked":                           {"viewer", ""},
	"GET /api/capability/grants":                            {"viewer", "query"},
	"GET /api/capability/handlers":                          {"viewer", "query"},
	"GET /api/capability/handlers/{pack_id}/{slug}/logs":    {"viewer", "path"},
	"POST /api/capability/candidates/scan":                  {"operator", ""},
	"POST /api/capability/requests/{candidate_key}/approve": {"operator", "path"},
	"POST /api/capability/requests/{candidate_key}/reject":  {"operator", "path"},
	"POST /api/capability/requests/{candidate_key}/revoke":  {"operator", "path"},
	"POST /api/capability/blocked/{candidate_key}/unblock":  {"operator", "path"},
	"POST /api/capability/grants/grant":                     {"operator", "body"},
	"POST /api/capability/grants/revoke":                    {"operator", "body"},

	"GET /api/docker/status":               {"viewer", ""},
	"GET /api/containers":                  {"viewer", ""},
	"GET /api/containers/{pack_id}/stats":  {"viewer", "path"},
	"GET /api/containers/{pack_id}/logs":   {"viewer", "path"},
	"POST /api/containers/{pack_id}/start": {"operator", "path"},
	"POST /api/containers/{pack_id}/stop":  {"operator", "path"},
	"DELETE /api/containers/{pack_id}":     {"operator", "path"},

	"GET /api/pip/requests":                          {"viewer", ""},
	"GET /api/pip/blocked":                           {"viewer", ""},
	"POST /api/pip/candidates/scan":                  {"operator", ""},
	"POST /api/pip/requests/{candidate_key}/approve": {"operator", "path"},
	"POST /api/pip/requests/{candidate_key}/reject":  {"operator", "path"},
	"POST /api/pip/blocked/{candidate_key}/unblock":  {"operator", "path"},

	"GET /api/secrets":         {"viewer", ""},
	"POST /api/secrets/set":    {"operator", ""},
	"POST /api/secrets/delete": {"operator", ""},

	"GET /api/health":  {"viewer", ""},
	"GET /api/metrics": {"viewer", ""},
	"GET /api/pending": {"viewer", ""},
	"GET /api/storage": {"viewer", ""},

	"GET /api/tokens":                    {"viewer", ""},
	"GET /api/tokens/self":               {"viewer", "any"}, // every token may ask who it is
	"POST /api/tokens":                   {"admin", ""},
	"DELETE /api/tokens/{token_id}":      {"admin", ""},
	"POST /api/tokens/{token_id}/rotate": {"admin", ""},
}

// call is a request of a route, about a pack; pack is "" for one that names none, where a request can be without.
func call(name, place, pack string) (method, target, body string) {
	method, target, _ = strings.Cut(name, " ")
	for variable, value := range map[string]string{
		"pack_id": pack, "candidate_key": pack + "%3Aslug%3Ahandler%3A" + strings.Repeat("0", 64), "staging_id": "0123456789abcdef", "backup": "b",
		"slug": "s", "token_id": "zzzzzzzzzzzz",
	} {
		target = strings.ReplaceAll(target, "{"+variable+"}", value)
	}
	if method == "POST" {
		body = "{}"
	}
	field := "pack_id"
	if strings.HasPrefix(target, "/api/capability/grants") {
		field = "principal_id"
	}
	switch {
	case (place == "query" || place == "narrowed") && pack != "":
		target += "?" + field + "=" + pack
	case place == "body" && pack != "":
		body = `{"` + field + `": "` + pack + `"}`
	}
	return method, target, body
}

// newMatrix starts a gateway before stubs of all services. They answer every path.
func newMatrix(t *testing.T) *world {
	t.Helper()
	owners := roster.Where(func(s roster.Service) bool { return s.Name != roster.Gateway })
	suite := servicetest.New(t, append(owners, roster.Gateway)...)
	w := &world{Suite: suite, t: t, servers: map[string]*servicetest.Server{}}
	w.setToken(apiToken)
	for _, name := range owners {
		w.servers[name] = servicetest.Start(suite, name, service.Build[struct{}](func(_ context.Context, rt *service.Runtime, _ struct{}) error {
			rt.Mux().Route("/api/", rpc.Raw(echo), roster.Gateway)
			return nil
		}), map[string]string{"RUMI_LOG_LEVEL": "error"})
	}
	w.servers["gateway"] = servicetest.Start(suite, "gateway", build, map[string]string{"RUMI_LOG_LEVEL": "error", "RUMI_API_RATE_LIMIT": "0"})
	w.address = w.servers["gateway"].Address
	return w
}

// from sends requests from one of many addresses, so that no rate of one counts.
func from(n int) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(n>>8), byte(n))}}
	return &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
}

// TestMatrix asks for every public route with every kind of token.
func TestMatrix(t *testing.T) {
	w := newMatrix(t)
	soon := time.Now().Add(time.Second).UTC().Format(time.RFC3339Nano)
	revoked := w.issue(t, `{"name": "revoked", "role": "admin"}`)
	w.do(t, "DELETE", "/api/tokens/"+revoked.Metadata.ID, nil, nil)
	tokens := map[string]string{
		"viewer":   w.issue(t, `{"name": "viewer", "role": "viewer"}`).Token,
		"operator": w.issue(t, `{"name": "op", "role": "operator"}`).Token,
		"admin":    w.issue(t, `{"name": "admin", "role": "admin"}`).Token,
		"init":     apiToken,
		"expired":  w.issue(t, `{"name": "expired", "role": "admin", "expires_at": "`+soon+`"}`).Token,
		"revoked":  revoked.Token,
		"scoped":   w.issue(t, `{"name": "scoped", "role": "admin", "scopes": [{"verbs": ["*"], "packs": ["x"]}]}`).Token,
		"unknown":  "rumi_0123456789ab_0123456789ABCDEFGHIJKLMNOPQRST0eEfeW",
	}
	time.Sleep(time.Second)
	requests := 0
	ask := func(token, name, place, pack string) (status int, code string) {
		method, target, body := call(name, place, pack)
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.address+target, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+tokens[token])
		requests++
		response, err := from(requests).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode < 400 {
			defer response.Body.Close()
			if response.Header.Get("Content-Type") != "text/event-stream" { // which doesn't end
				_, _ = io.Copy(io.Discard, response.Body)
			}
			return response.StatusCode, ""
		}
		got := readReply(t, response)
		return got.status, got.Code
	}
	var routes []string
	for i := range route.Routes {
		r := &route.Routes[i]
		routes = append(routes, r.Name())
		entry, ok := table[r.Name()]
		if !ok {
			t.Errorf("%s is not in the table, want each public route there", r.Name())
			continue
		}
		for _, c := range []struct {
			token, pack string
			want        string // allowed, denied or unauthorized
		}{
			{"viewer", "x", allowedIf(entry.role == "viewer")},
			{"operator", "x", allowedIf(entry.role != "admin")},
			{"admin", "x", "allowed"},
			{"init", "x", "allowed"},
			{"expired", "x", "unauthorized"},
			{"revoked", "x", "unauthorized"},
			{"unknown", "x", "unauthorized"},
			{"scoped", "x", allowedIf(entry.place != "")},
			{"scoped", "y", allowedIf(entry.place == "any")},
			{"scoped", "x__y", allowedIf(entry.place == "any")},
			{"scoped", "", allowedIf(entry.place == "any" || entry.place == "narrowed")},
		} {
			if c.pack == "" && strings.Contains(r.Pattern, "{pack_id}") { // there is no such request
				continue
			}
			status, code := ask(c.token, r.Name(), entry.place, c.pack)
			got := "allowed"
			switch {
			case status == 401 && code == "unauthorized":
				got = "unauthorized"
			case status == 403 && code == "not_allowed":
				got = "denied"
			case r.Owner != roster.Gateway && status != 200: // what the gateway itself answers may lack things here
				t.Errorf("%s, %s on %q: %d %s, want 200, 401 or 403", c.token, r.Name(), c.pack, status, code)
			}
			if got != c.want {
				t.Errorf("%s, %s on %q: %s (%d %s), want %s", c.token, r.Name(), c.pack, got, status, code, c.want)
			}
		}
	}
	for name := range table {
		if !slices.Contains(routes, name) {
			t.Errorf("the table has %s, which no service has", name)
		}
	}
}

func allowedIf(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "denied"
}

// A body can't name one pack to the gateway and another one to the owner.
func TestBodiesThatNameAPack(t *testing.T) {
	w := newMatrix(t)
	scoped := w.issue(t, `{"name": "scoped", "role": "operator", "scopes": [{"verbs": ["network.*", "capability.*"], "packs": ["x"]}]}`).Token
	for _, c := range []struct {
		target, body string
		status       int
		code         string
	}{
		{"/api/network/grant", `{"pack_id": "x", "allowed_domains": ["a.example"]}`, 200, ""},
		{"/api/network/grant", `{"pack_id": "y"}`, 403, "not_allowed"},
		{"/api/network/grant", `{}`, 403, "not_allowed"},
		{"/api/network/grant", ``, 403, "not_allowed"},
		{"/api/network/grant", `{"pack_id": null}`, 403, "not_allowed"},
		{"/api/network/grant", `{"pack_id": "x", "pack_id": "y"}`, 400, "invalid_json"},
		{"/api/network/grant", `{"pack_id": "y", "pack_id": "x"}`, 400, "invalid_json"},
		{"/api/network/grant", `{"pack_id": "x", "Pack_id": "y"}`, 400, "unknown_field"},
		{"/api/network/grant", `{"pack_id": "y", "rules": [{"pack_id": "x"}]}`, 400, "unknown_field"},
		{"/api/network/grant", `{"rules": [{"pack_id": "x"}]}`, 400, "unknown_field"},
		{"/api/network/grant", `{"pack_id": "y"} {"pack_id": "x"}`, 400, "invalid_json"},
		{"/api/network/grant", `[{"pack_id": "x"}]`, 400, "invalid_json"},
		{"/api/network/grant", `{"pack_\u0069d": "y"}`, 403, "not_allowed"},
		{"/api/network/grant", `{"pack_\u0069d": "x"}`, 200, ""},
		{"/api/network/grant", `{"pack_id": "x "}`, 403, "not_allowed"},
		{"/api/network/grant?pack_id=x", `{"pack_id": "y"}`, 403, "not_allowed"},
		{"/api/capability/grants/revoke", `{"principal_id": "x", "permission_id": "a"}`, 200, ""},
		{"/api/capability/grants/revoke", `{"principal_id": "y", "permission_id": "a"}`, 403, "not_allowed"},
		{"/api/capability/grants/grant", `{"principal_id": "x__child", "permission_id": "a"}`, 403, "not_allowed"},
	} {
		got := w.as(t, scoped, "POST", c.target, c.body)
		if got.status != c.status || got.Code != c.code {
			t.Errorf("%s %s: %d %s; want %d %s", c.target, c.body, got.status, got.raw, c.status, c.code)
		}
		if got.status == 200 && got.seen(t).Body != c.body {
			t.Errorf("%s %s: the owner gets %q, want the same bytes", c.target, c.body, got.seen(t).Body)
		}
	}
	for target, want := range map[string]int{
		"/api/network/denials?pack_id=x": 200, "/api/network/denials?pack_id=y": 403, "/api/network/denials": 403, "/api/network/denials?pack_id=x&pack_id=y": 403,
		"/api/network/denials?pack_id=x;pack_id=y": 403, "/api/network/denials?pack%5Fid=x": 200, "/api/network/denials?pack_id=x&pack_id=x": 403,
		"/api/capability/handlers/x/s/logs": 200, "/api/capability/handlers/%78/s/logs": 200, "/api/capability/handlers/y/s/logs?pack_id=x": 403,
	} {
		if got := w.as(t, scoped, "GET", target, ""); got.status != want {
			t.Errorf("GET %s: %d %s; want %d", target, got.status, got.raw, want)
		}
	}
	denied := w.as(t, scoped, "GET", "/api/network/list", "")
	if want := "Not allowed: GET /api/network/list needs network.read and a scope for all packs, because the call is not about one pack; " +
		"'scoped' is limited to: network.*, capability.* on x"; denied.message() != want {
		t.Errorf("got %q, want %q", denied.message(), want)
	}
	if entries := w.audit("security"); !strings.Contains(entries, `"action":"access_denied"`) || !strings.Contains(entries, `"actor":"scoped"`) {
		t.Errorf("the security entries are %s, want access_denied by scoped", entries)
	}
}
