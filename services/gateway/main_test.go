package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

// TestHTTPTable is the table of contract.md, "HTTP", line by line; what needs time or traffic has tests of its own below.
func TestHTTPTable(t *testing.T) {
	w := newWorld(t, nil)
	t.Run("right token", func(t *testing.T) {
		if got := w.do(t, "GET", "/api/packs", nil, nil); got.status != 200 || got.seen(t).Actor != "init" || got.seen(t).Address != "127.0.0.1" {
			t.Errorf("got %d %s, want 200, and the operator's actor and address passed on", got.status, got.raw)
		}
	})
	for _, c := range []struct {
		name, method, target, body string
		header                     map[string]string
		status                     int
		message                    string
	}{
		{"body no JSON", "POST", "/api/packs/x/reject", "{", nil, 400, "Invalid JSON in request body: line 1, column 2: it ends too early"},
		{"body not UTF-8", "POST", "/api/packs/x/reject", "{\"reason\":\"\xff\"}", nil, 400, "Invalid JSON in request body: line 1, column 12: not UTF-8"},
		{"array", "POST", "/api/packs/x/reject", "[]", nil, 400, "Invalid JSON in request body" + `: want an object, such as {"name": "value"}`},
		{"null", "POST", "/api/packs/x/reject", "null", nil, 400, "Invalid JSON in request body" + `: want an object, such as {"name": "value"}`},
		{"duplicate keys", "POST", "/api/packs/x/reject", `{"reason":"a","reason":"b"}`, nil, 400, "Invalid JSON in request body: line 1, column 15: a name stands twice in one object"},
		{"wrong type", "POST", "/api/packs/x/reject", `{"port":"443"}`, nil, 400, "Invalid value for field 'port': want a whole number in range"},
		{"unknown field", "POST", "/api/packs/x/reject", `{"reasn":"x"}`, nil, 400, "Unknown field 'reasn' (known: reason, port)"},
		{"unknown path", "GET", "/api/nothing", "", nil, 404, "Not found"},
		{"unknown path, with a body", "POST", "/api/nothing", "{}", nil, 404, "Not found"},
		{"internal path", "POST", "/internal/secrets/value", `{"key":"X"}`, nil, 404, "Not found"},
		{"method", "PUT", "/api/packs", "{}", nil, 405, "Method not allowed"},
		{"method made up", "FOO", "/api/packs", "", nil, 405, "Method not allowed"},
		{"owner that is down", "GET", "/api/secrets", "", nil, 503, "Service unavailable: secrets"},
		{"owner that is down, changing", "POST", "/api/secrets/set", `{"key":"K","value":"v"}`, nil, 503, "Service unavailable: secrets"},
		{"owner's own fault", "GET", "/api/containers", "", nil, 503, "Docker is required but not available"},
		{"unforeseen", "POST", "/api/packs/x/approve", "", nil, 500, "Internal server error"},
		{"answer without an envelope", "GET", "/api/packs/pending", "", nil, 500, "Internal server error"},
		{"foreign origin", "POST", "/api/packs/x/reject", "{}", map[string]string{"Origin": "https://evil.example", "Content-Type": "text/plain"}, 403, "Origin not allowed: https://evil.example; name it in RUMI_ALLOWED_ORIGINS"},
		{"unknown host", "POST", "/api/packs/x/reject", "{}", map[string]string{"Host": "evil.example"}, 403, "Host not allowed: evil.example; name it in RUMI_ALLOWED_HOSTS, or call localhost (reads are answered under any name, changes aren't)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			got := w.do(t, c.method, c.target, strings.NewReader(c.body), c.header)
			wantFailure(t, got, c.status, c.message)
			if c.status == 503 && got.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			if c.status == 405 && got.header.Get("Allow") == "" {
				t.Error("no Allow")
			}
			if strings.Contains(got.raw, "disk on fire") {
				t.Error("the answer shows the cause")
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("the answer came after %v, want within 3s", took)
			}
		})
	}
	if got := w.do(t, "GET", "/api/containers", nil, nil); got.header.Get("Retry-After") != "7" || got.Code != "docker_unavailable" {
		t.Errorf("an owner's Retry-After and code became %q, %q", got.header.Get("Retry-After"), got.Code)
	}
	if got := w.audit("security"); strings.Count(got, `"origin_refused"`) != 2 || !strings.Contains(got, "evil.example") {
		t.Errorf("the security entries are %s, want two of origin_refused", got)
	}
}

func TestOpenPaths(t *testing.T) {
	w := newWorld(t, nil)
	none := map[string]string{"Authorization": "-"}
	if got := w.do(t, "GET", "/healthz", nil, none); got.status != 200 || string(got.Data) != `{"status":"ok"}` {
		t.Errorf("/healthz answered %d %s, want 200 ok", got.status, got.raw)
	}
	wantFailure(t, w.do(t, "POST", "/healthz", nil, none), 405, "Method not allowed")
	if got := w.do(t, "GET", "/", nil, none); got.status != 200 || !strings.Contains(got.raw, "docs/api.md") {
		t.Errorf("/ answered %d %s, want 200 that names docs/api.md", got.status, got.raw)
	}
	wantFailure(t, w.do(t, "GET", "/console", nil, none), 404, "Not found")
	wantFailure(t, w.do(t, "GET", "/API/packs", nil, none), 404, "Not found")
	wantFailure(t, w.do(t, "GET", "/api/health", nil, none), 401, "Unauthorized")
	got := w.do(t, "GET", "/api/health", nil, nil)
	var health healthAnswer
	if err := json.Unmarshal(got.Data, &health); err != nil || got.status != 200 {
		t.Fatalf("the health answers %d %s: %v; want 200", got.status, got.raw, err)
	}
	if health.Status != "degraded" || len(health.Services) != 7 || !health.Services["gateway"].Ready || !health.Services["approval"].Ready ||
		health.Services["secrets"].Ready {
		t.Errorf("the health is %s, want degraded with seven services, secrets not ready", got.raw)
	}
	if down := health.Services["secrets"].Error; !strings.HasPrefix(down, "Service unavailable: secrets: it has not answered since the gateway started ") ||
		!strings.HasSuffix(down, "; see docker compose logs secrets") {
		t.Errorf("a service that is down: %q; want an error that says where to look", down)
	}
	if g := health.Services["gateway"]; len(g.Checks) == 0 || g.Version == "" || g.Uptime <= 0 {
		t.Errorf("the gateway's own health is %+v, want its checks, version and uptime", g)
	}
}

type healthAnswer struct {
	Status   string `json:"status"`
	Services map[string]struct {
		Ready   bool            `json:"ready"`
		Error   string          `json:"error"`
		Version string          `json:"version"`
		Uptime  float64         `json:"uptime_seconds"`
		Checks  []service.Check `json:"checks"`
	} `json:"services"`
}

func (w *world) health(t *testing.T) (healthAnswer, string) {
	t.Helper()
	got := w.do(t, "GET", "/api/health", nil, nil)
	var health healthAnswer
	if err := json.Unmarshal(got.Data, &health); err != nil || got.status != 200 {
		t.Fatalf("the health answers %d %s: %v; want 200", got.status, got.raw, err)
	}
	return health, got.raw
}

// A service that answers and lacks what it is for is not ready, and health says what and how to mend it.
func TestHealthIsNotOKWhileACheckFails(t *testing.T) {
	w := newWorld(t, nil)
	sick.Store(true)
	t.Cleanup(func() { sick.Store(false) })
	health, raw := w.health(t)
	a := health.Services["approval"]
	i := slices.IndexFunc(a.Checks, func(c service.Check) bool { return c.Name == "sockets" })
	if health.Status != "degraded" || a.Ready || a.Error != "Not ready: sockets" || a.Version == "" || i < 0 {
		t.Fatalf("the health is %s, want approval not ready for its check \"sockets\"", raw)
	}
	if c := a.Checks[i]; c.OK || c.Detail != "/run/rumi can't be written" || c.Fix != "run: docker compose up --detach" {
		t.Errorf("the check is %+v, want it failed, with its detail and its fix", c)
	}
	if err := w.servers["approval"].Stop(); err != nil {
		t.Fatal(err)
	}
	health, raw = w.health(t)
	if got := health.Services["approval"].Error; !strings.HasPrefix(got, "Service unavailable: approval: it has not answered for ") ||
		!strings.HasSuffix(got, "s; see docker compose logs approval") {
		t.Errorf("a service that went away: %s; want how long ago, and where to look", raw)
	}
}

func TestAuthentication(t *testing.T) {
	w := newWorld(t, nil)
	for i, value := range []string{
		"-", "", "Bearer", "Bearer ", "Bearer wrong", "Bearer " + apiToken + "x", "Bearer " + apiToken[1:], "Basic " + apiToken, apiToken, "Token " + apiToken,
	} {
		got := w.do(t, "GET", "/api/packs?token="+apiToken, nil, map[string]string{"Authorization": value})
		wantFailure(t, got, 401, "Unauthorized")
		if t.Failed() {
			t.Fatalf("attempt %d with %q", i+1, value)
		}
	}
	for range 3 { // ten were answered 401
		got := w.do(t, "POST", "/api/packs/scan", strings.NewReader("{}"), map[string]string{"Authorization": "Bearer wrong"})
		wantFailure(t, got, 429, "Too many failed authentications")
		if wait := got.header.Get("Retry-After"); wait == "" || wait == "0" {
			t.Errorf("Retry-After is %q, want a number of seconds", wait)
		}
	}
	if got := w.do(t, "GET", "/api/packs", nil, nil); got.status != 200 {
		t.Errorf("the right token was refused for others' failures: %d", got.status)
	}
	if got := w.do(t, "GET", "/api/packs", nil, map[string]string{"Authorization": "bearer " + apiToken}); got.status != 200 {
		t.Errorf("the scheme's name in small letters: %d (RFC 9110, 11.1)", got.status)
	}
	if got := w.do(t, "GET", "/api/packs", nil, map[string]string{"Authorization": "Bearer   " + apiToken}); got.status != 200 {
		t.Errorf("several spaces behind the scheme: %d (RFC 9110, 11.4: 1*SP)", got.status)
	}
	entries := w.audit("security")
	if n := strings.Count(entries, `"authentication_failed"`); n != 11 {
		t.Errorf("%d entries, want ten and one that says that the rest is not audited", n)
	}
	if strings.Contains(entries, apiToken) || !strings.Contains(entries, `"actor":"anonymous"`) || !strings.Contains(entries, `"address":"127.0.0.1"`) {
		t.Errorf("the entries are %s, want the anonymous actor with its address, and no token", entries)
	}

	w.setToken("another-token-0123456789")
	if got := w.do(t, "GET", "/api/packs", nil, map[string]string{"Authorization": "Bearer another-token-0123456789"}); got.status != 200 {
		t.Errorf("a new token is not good at once: %d", got.status)
	}
	if entries := w.audit("security"); strings.Count(entries, `"api_token_changed"`) != 1 || strings.Contains(entries, "another-token") {
		t.Errorf("want one entry api_token_changed without the token in\n%s", entries)
	}
	wantFailure(t, w.do(t, "GET", "/api/packs", nil, nil), 429, "Too many failed authentications")
}

func TestTwoAuthorizationHeaders(t *testing.T) {
	w := newWorld(t, nil)
	wantFailure(t, w.raw(t, "GET", head("GET /api/packs", "Authorization: Bearer "+apiToken)), 401, "Unauthorized")
}

func TestRate(t *testing.T) {
	w := newWorld(t, map[string]string{"RUMI_API_RATE_LIMIT": "5", "RUMI_API_RATE_WINDOW": "3600"})
	for range 8 { // must not use up the operator's share
		w.do(t, "GET", "/api/packs", nil, map[string]string{"Authorization": "Bearer wrong"})
	}
	for i := range 5 {
		if got := w.do(t, "GET", "/api/packs", nil, nil); got.status != 200 {
			t.Fatalf("request %d: got %d, want 200", i+1, got.status)
		}
	}
	got := w.do(t, "GET", "/api/packs", nil, nil)
	wantFailure(t, got, 429, "Rate limit exceeded")
	if wait := got.header.Get("Retry-After"); wait != "3600" {
		t.Errorf("Retry-After is %q, want 3600", wait)
	}
	if got := w.do(t, "GET", "/healthz", nil, nil); got.status != 200 {
		t.Errorf("/healthz is limited: got %d, want 200", got.status)
	}
}

func TestIdsAsPaths(t *testing.T) {
	w := newWorld(t, nil)
	long := strings.Repeat("a", 65)
	for _, c := range []struct {
		target, message string
		status          int
	}{
		{"/api/packs/./status", "Invalid pack_id", 400},
		{"/api/packs/../status", "Invalid pack_id", 400},
		{"/api/packs//status", "Invalid pack_id", 400},
		{"/api/packs/%2e%2e/status", "Invalid pack_id", 400},
		{"/api/packs/%252e%252e/status", "Invalid pack_id", 400},
		{"/api/packs/a%00/status", "Invalid pack_id", 400},
		{"/api/packs/a%0a/status", "Invalid pack_id", 400},
		{"/api/packs/..%2f..%2fx/status", "Invalid pack_id", 400},
		{"/api/packs/..%5cx/status", "Invalid pack_id", 400},
		{"/api/packs/../../x", "Not found", 404},
		{"/api/packs/../../x/status", "Not found", 404},
		{"/api/packs/a/b/status", "Not found", 404},
		{"//api/packs", "Not found", 404},
		{"/api/../internal/ready", "Not found", 404},
		{"/api/packs/x/../../../internal/ready", "Not found", 404},
	} {
		t.Run(c.target, func(t *testing.T) { wantFailure(t, w.raw(t, "GET", head("GET "+c.target)), c.status, c.message) })
	}
	// What is for the owner to judge arrives as it was sent.
	for _, c := range []struct{ method, target, name, value string }{
		{"GET", "/api/packs/my_pack/status?x=1&y=%2F", "pack_id", "my_pack"},
		{"GET", "/api/packs/" + long + "/status", "pack_id", long},
		{"GET", "/api/packs/a%2Fb/status", "pack_id", "a/b"},
		{"GET", "/api/packs/%E3%81%82/status", "pack_id", "あ"},
		{"DELETE", "/api/packs/scan", "pack_id", "scan"},
		{"POST", "/api/capability/requests/my_pack%3Aslug%3Ahandler%3Aabc/approve", "candidate_key", "my_pack:slug:handler:abc"},
		{"POST", "/api/capability/requests/my_pack:slug:handler:abc/approve", "candidate_key", "my_pack:slug:handler:abc"},
		{"POST", "/api/capability/requests/my_pack%3abackend%2frequirements.lock%3aabc/approve", "candidate_key", "my_pack:backend/requirements.lock:abc"},
	} {
		t.Run(c.target, func(t *testing.T) {
			got := w.raw(t, c.method, head(c.method+" "+c.target)).seen(t)
			if got.URI != c.target || got.Values[c.name] != c.value {
				t.Errorf("arrived as %q with %q, want %q with %q", got.URI, got.Values, c.target, c.value)
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	w := newWorld(t, nil)
	got := w.do(t, "GET", "/api/packs", nil, map[string]string{
		"X-Rumi-Actor": "root", "X-Rumi-Address": "6.6.6.6", "X-Rumi-Anything": "x", "X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6",
		"Cookie": "a=b", "X-Request-Id": "my-id.1_2", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Accept": "a/b",
		"Connection": "Upgrade, X-Hop", "Upgrade": "websocket", "X-Hop": "1", "Baggage": "user=a",
	})
	s := got.seen(t)
	if s.Actor != "init" || s.Address != "127.0.0.1" || s.Request != "my-id.1_2" || got.header.Get("X-Request-Id") != "my-id.1_2" {
		t.Errorf("the origin is %+v, the request ID %q; want the operator's, with the ID that was sent", s, got.header.Get("X-Request-Id"))
	}
	if trace := s.Header.Get("Traceparent"); !strings.HasPrefix(trace, "00-0af7651916cd43dd8448eb211c80319c-") {
		t.Errorf("the traceparent is %q, want the caller's trace", trace)
	}
	for _, gone := range []string{"Authorization", "Cookie", "X-Rumi-Anything", "X-Forwarded-For", "Forwarded", "Upgrade", "X-Hop", "Baggage"} {
		if v, ok := s.Header[gone]; ok {
			t.Errorf("%s reached the owner: %q; want it removed", gone, v)
		}
	}
	if s.Header.Get("Accept") != "a/b" || s.Host != "approval" {
		t.Errorf("accept is %q, host %q; want a/b and approval", s.Header.Get("Accept"), s.Host)
	}
	for name, id := range map[string]string{"none": "-", "too long": strings.Repeat("a", 129), "other characters": "a b", "quote": `a"`} {
		got := w.do(t, "GET", "/api/packs", nil, map[string]string{"X-Request-Id": id})
		fresh := got.header.Get("X-Request-Id")
		if fresh == id || fresh != got.seen(t).Request {
			t.Errorf("%s: answered %q, the owner saw %q", name, fresh, got.seen(t).Request)
		}
	}
	if trace := w.do(t, "GET", "/api/packs", nil, nil).seen(t).Header.Get("Traceparent"); len(trace) != 55 {
		t.Errorf("no trace was started: %q", trace)
	}
	kept := w.do(t, "GET", "/api/nothing", nil, map[string]string{"X-Request-Id": "kept", "Authorization": "-"})
	if kept.header.Get("X-Request-Id") != "kept" {
		t.Error("a refusal lost the request id")
	}
}

// TestStrangersTrace: a request without a good token is in a trace of its own, whatever trace it names.
func TestStrangersTrace(t *testing.T) {
	w := newWorld(t, nil)
	const stolen = "0af7651916cd43dd8448eb211c80319c"
	header := map[string]string{"Traceparent": "00-" + stolen + "-b7ad6b7169203331-01", "Authorization": "Bearer wrong"}
	w.do(t, "GET", "/api/packs", nil, header)
	if entries := w.audit("security"); !strings.Contains(entries, `"trace_id":"`) || strings.Contains(entries, stolen) {
		t.Errorf("the audit entry is %s, want a trace id other than %s", entries, stolen)
	}
}

func TestHead(t *testing.T) {
	w := newWorld(t, nil)
	r, err := http.NewRequestWithContext(t.Context(), "HEAD", "http://"+w.address+"/api/packs", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+apiToken)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 200 || response.Header.Get("X-Request-Id") == "" {
		t.Errorf("got %d with the request ID %q, want 200 with one", response.StatusCode, response.Header.Get("X-Request-Id"))
	}
}

func TestBodies(t *testing.T) {
	const limit = 10 << 20
	w := newWorld(t, nil)
	fits := `{"reason":"` + strings.Repeat("x", limit-len(`{"reason":""}`)) + `"}`
	if got := w.do(t, "POST", "/api/packs/x/reject", strings.NewReader(fits), nil); got.status != 200 {
		t.Errorf("a body of 10 MiB: got %d, want 200", got.status)
	}
	if got := w.do(t, "POST", "/api/packs/x/reject", io.MultiReader(strings.NewReader(fits)), nil); got.status != 200 {
		t.Errorf("10 MiB in chunks: got %d, want 200", got.status)
	}
	for name, body := range map[string]io.Reader{
		"10 MiB + 1":           strings.NewReader(fits + " "),
		"10 MiB + 1 in chunks": io.MultiReader(strings.NewReader(fits + " ")),
		"much more in chunks":  io.LimitReader(endless{}, 64<<20),
	} {
		t.Run(name, func(t *testing.T) {
			wantFailure(t, w.do(t, "POST", "/api/packs/x/reject", body, nil), 413, "Request body too large")
		})
	}
	t.Run("a length that nothing follows", func(t *testing.T) {
		got := w.raw(t, "POST", head("POST /api/packs/x/reject", "Content-Length: 10485761"))
		wantFailure(t, got, 413, "Request body too large")
	})
	t.Run("multipart doesn't lift the limit elsewhere", func(t *testing.T) {
		got := w.do(t, "POST", "/api/packs/x/reject", strings.NewReader(fits+" "), map[string]string{"Content-Type": "multipart/form-data; boundary=x"})
		wantFailure(t, got, 413, "Request body too large")
	})
	t.Run("JSON to import has the limit of JSON", func(t *testing.T) {
		wantFailure(t, w.do(t, "POST", "/api/packs/import", strings.NewReader(fits+" "), nil), 413,
			"Request body too large: an archive is sent as the field 'file' of a form (curl -F file=@my_pack.zip)")
	})
	t.Run("a body that breaks off", func(t *testing.T) {
		conn, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(append(head("POST /api/packs/x/reject", "Content-Length: 100"), `{"reason":`...)); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		wantFailure(t, readReply(t, response), 400, "Request body could not be read")
	})
	t.Run("a body without the token is not waited for", func(t *testing.T) {
		got := w.raw(t, "POST", []byte("POST /api/packs/import HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000000\r\n\r\n"))
		wantFailure(t, got, 401, "Unauthorized")
	})
	t.Run("both Content-Length and Transfer-Encoding", func(t *testing.T) {
		got := w.raw(t, "POST", head("POST /api/packs/x/reject", "Content-Length: 3", "Transfer-Encoding: chunked"), []byte("2\r\n{}\r\n0\r\n\r\n"))
		if got.status != 200 {
			t.Errorf("got %d %s, want 200", got.status, got.raw)
		}
	})
	t.Run("expecting 100-continue", func(t *testing.T) {
		got := w.do(t, "POST", "/api/packs/x/reject", strings.NewReader(`{"reason":"y"}`), map[string]string{"Expect": "100-continue"})
		if got.status != 200 {
			t.Errorf("got %d %s, want 200", got.status, got.raw)
		}
	})
}

func TestUploads(t *testing.T) {
	w := newWorld(t, nil)
	multipart := map[string]string{"Content-Type": "multipart/form-data; boundary=x"}
	const fits = 64 << 20
	got := w.do(t, "POST", "/api/packs/import", io.LimitReader(endless{}, fits), multipart)
	if got.status != 200 || string(got.Data) != fmt.Sprint(fits) {
		t.Errorf("an upload of 64 MiB: %d %s; want 200 and its length", got.status, got.raw)
	}
	t.Run("500 MiB + 1 by its length", func(t *testing.T) {
		got := w.raw(t, "POST", head("POST /api/packs/import", "Content-Type: multipart/form-data; boundary=x", fmt.Sprintf("Content-Length: %d", 500<<20+1)))
		wantFailure(t, got, 413, "Request body too large")
	})
	t.Run("500 MiB + 1 in chunks", func(t *testing.T) {
		wantFailure(t, w.do(t, "POST", "/api/packs/import", io.LimitReader(endless{}, 500<<20+1), multipart), 413, "Request body too large")
	})
	for range 6 { // more than open a breaker
		breakOff(t, w)
	}
	if got := w.do(t, "DELETE", "/api/packs/x", nil, nil); got.status != 200 {
		t.Errorf("clients' broken uploads closed the way to the owner: %d %s", got.status, got.raw)
	}
	for range 6 { // from clients that stay, so that only the body says whose fault it was
		garbled := append(head("POST /api/packs/import", "Content-Type: multipart/form-data; boundary=x", "Transfer-Encoding: chunked"), "no chunk\r\n"...)
		wantFailure(t, w.raw(t, "POST", garbled), 400, "Request body could not be read")
	}
	if got := w.do(t, "DELETE", "/api/packs/x", nil, nil); got.status != 200 {
		t.Errorf("clients' garbled uploads closed the way to the owner: %d %s", got.status, got.raw)
	}
}

// breakOff sends an upload that ends too early.
func breakOff(t *testing.T, w *world) {
	t.Helper()
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	request := append(head("POST /api/packs/import", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 1000000"), bytes.Repeat([]byte("x"), 1000)...)
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFailure(t, readReply(t, response), 400, "Request body could not be read")
}

// endless is spaces for ever.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestFollow(t *testing.T) {
	w := newWorld(t, nil)
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+w.address+"/api/containers/x/logs?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+apiToken)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if kind := response.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Fatalf("the Content-Type is %q, want text/event-stream", kind)
	}
	lines := bufio.NewScanner(response.Body)
	for i := 1; i <= 2; i++ {
		// Each event is here before the next exists: nothing on the way keeps it back.
		if !lines.Scan() || lines.Text() != fmt.Sprintf("data: %d", i) || !lines.Scan() {
			t.Fatalf("event %[1]d is %[2]q, %[3]v; want data: %[1]d", i, lines.Text(), lines.Err())
		}
		more <- struct{}{}
	}
	if lines.Scan() {
		t.Fatalf("one line more: %q; want the end", lines.Text())
	}
}

// TestOwnerComesBack: an owner that dies is reported at once, and used again soon after it is back.
func TestOwnerComesBack(t *testing.T) {
	w := newWorld(t, nil)
	if got := w.do(t, "GET", "/api/packs", nil, nil); got.status != 200 {
		t.Fatalf("got %d %s, want 200", got.status, got.raw)
	}
	if err := w.servers["approval"].Stop(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		began := time.Now()
		got := w.do(t, "GET", "/api/packs", nil, nil)
		wantFailure(t, got, 503, "Service unavailable: approval")
		if took := time.Since(began); took > time.Second {
			t.Fatalf("the refusal came after %v, want within 1s", took)
		}
	}
	servicetest.Start(w.Suite, "approval", owners["approval"], nil)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if got := w.do(t, "GET", "/api/packs", nil, nil); got.status == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the owner is back and not used")
		}
	}
}

func TestSettings(t *testing.T) {
	suite := servicetest.New(t, "gateway")
	suite.SetToken(apiToken)
	server := servicetest.Start(suite, "gateway", build, map[string]string{"RUMI_ALLOWED_HOSTS": "rumi.example", "RUMI_ALLOWED_ORIGINS": "https://console.example"})
	w := &world{Suite: suite, t: t, address: server.Address}
	got := w.do(t, "POST", "/api/secrets/set", strings.NewReader("{}"), map[string]string{"Host": "rumi.example:8765", "Origin": "https://console.example"})
	wantFailure(t, got, 503, "Service unavailable: secrets") // admitted
	for _, bad := range []config{
		{RateLimit: -1, RateWindow: 60}, {RateLimit: 120}, {RateWindow: 60, AllowedHosts: []string{"http://x"}}, {RateWindow: 60, AllowedOrigins: []string{"x"}},
	} {
		if err := build(t.Context(), server.Runtime, bad); err == nil {
			t.Errorf("%+v was taken, want an error", bad)
		}
	}
}
