package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

// as sends a request with another token.
func (w *world) as(t testing.TB, token, method, target, body string) *reply {
	t.Helper()
	return w.do(t, method, target, strings.NewReader(body), map[string]string{"Authorization": "Bearer " + token})
}

// issue makes a token with init's, or another one's (by).
func (w *world) issue(t testing.TB, body string, by ...string) api.IssuedToken {
	t.Helper()
	got := w.as(t, append(by, apiToken)[0], "POST", "/api/tokens", body)
	var issued api.IssuedToken
	if err := json.Unmarshal(got.Data, &issued); err != nil || got.status != 200 || !issued.Success {
		t.Fatalf("POST /api/tokens %s: %d %s, %v; want 200 and a token", body, got.status, got.raw, err)
	}
	return issued
}

func decoded[T any](t testing.TB, got *reply) T {
	t.Helper()
	var data T
	if err := json.Unmarshal(got.Data, &data); err != nil || got.status != 200 {
		t.Fatalf("%d %s: %v; want 200", got.status, got.raw, err)
	}
	return data
}

func (w *world) listed(t testing.TB) map[string]api.Token {
	t.Helper()
	byName := map[string]api.Token{}
	for _, one := range decoded[api.TokensResponse](t, w.do(t, "GET", "/api/tokens", nil, nil)).Tokens {
		byName[one.Name] = one
	}
	return byName
}

// A token is made, used, listed, rotated and revoked.
func TestLifeOfAToken(t *testing.T) {
	w := newWorld(t, nil)
	ci := w.issue(t, `{"name": "ci", "role": "operator", "notes": "nightly", "expires_at": "2099-01-01T00:00:00+02:00"}`)
	if !regexp.MustCompile(`^rumi_[a-z0-9]{12}_[0-9A-Za-z]{36}$`).MatchString(ci.Token) || !strings.Contains(ci.Token, ci.Metadata.ID) {
		t.Errorf("the token is %q with the id %q, want the documented form", ci.Token, ci.Metadata.ID)
	}
	if seen := w.as(t, ci.Token, "GET", "/api/packs", "").seen(t); seen.Actor != "ci" || seen.Header.Get("X-Rumi-Role") != "operator" || seen.Header.Get("X-Rumi-Lineage") != "init" {
		t.Errorf("the owner sees the actor %q and the headers %v, want ci, operator, of the lineage init", seen.Actor, seen.Header)
	}
	self := decoded[api.SelfResponse](t, w.as(t, ci.Token, "GET", "/api/tokens/self", ""))
	if self.Name != "ci" || self.Role != access.Operator || self.TokenID != ci.Metadata.ID || self.ExpiresAt == nil || !slices.Contains(self.Verbs, access.ApprovePacks) ||
		slices.Contains(self.Verbs, access.CreateTokens) {
		t.Errorf("self is %+v, want ci, an operator, with its id, verbs and expiry", self)
	}
	list := w.listed(t)
	if one := list["ci"]; one.State != "active" || one.LastUsedAt == nil || one.LastUsedFrom != "127.0.0.1" || one.CreatedBy != "init" || one.Notes != "nightly" ||
		!slices.Equal(one.Lineage, []string{"init"}) || one.ExpiresAt.Format(time.RFC3339) != "2098-12-31T22:00:00Z" {
		t.Errorf("the list has %+v, want ci with its last use, maker, notes and expiry", one)
	}
	if one := list["init"]; one.State != "active" || one.Role != access.Admin || one.ID != "init" || one.LastUsedAt == nil {
		t.Errorf("the list has %+v, want init, an admin that was used", one)
	}

	rotated := decoded[api.IssuedToken](t, w.do(t, "POST", "/api/tokens/"+ci.Metadata.ID+"/rotate", nil, nil))
	if rotated.Metadata.ID != ci.Metadata.ID || rotated.Metadata.Name != "ci" || rotated.Token == ci.Token {
		t.Errorf("the rotated token is %+v, want the same with another secret", rotated.Metadata)
	}
	wantFailure(t, w.as(t, ci.Token, "GET", "/api/packs", ""), 401, "Unauthorized")
	overlapping := decoded[api.IssuedToken](t, w.do(t, "POST", "/api/tokens/"+ci.Metadata.ID+"/rotate", strings.NewReader(`{"overlap_seconds": 1}`), nil))
	if overlapping.Metadata.OldUntil == nil {
		t.Error("old_secret_until is null, want when the old secret ends")
	}
	for _, text := range []string{rotated.Token, overlapping.Token} {
		if got := w.as(t, text, "GET", "/api/packs", ""); got.status != 200 {
			t.Errorf("during the overlap: %d %s; want 200", got.status, got.raw)
		}
	}
	time.Sleep(1100 * time.Millisecond)
	wantFailure(t, w.as(t, rotated.Token, "GET", "/api/packs", ""), 401, "Unauthorized")

	for i, want := range []bool{true, false} {
		got := decoded[api.RevokeTokenResponse](t, w.do(t, "DELETE", "/api/tokens/"+ci.Metadata.ID, nil, nil))
		if got.Revoked != want || got.Name != "ci" {
			t.Errorf("revoke %d: %+v, want ci, revoked %v", i+1, got, want)
		}
	}
	got := w.as(t, overlapping.Token, "GET", "/api/packs", "")
	wantFailure(t, got, 401, "Unauthorized")
	if said := got.header.Get("WWW-Authenticate"); !strings.Contains(said, "the token was revoked") {
		t.Errorf("the challenge is %q, want it to say that the token was revoked", said)
	}
	if one := w.listed(t)["ci"]; one.State != "revoked" || one.RevokedBy != "init" || one.RevokedAt == nil {
		t.Errorf("the list has %+v, want ci, revoked by init", one)
	}
	wantFailure(t, w.do(t, "POST", "/api/tokens/"+ci.Metadata.ID+"/rotate", nil, nil), 409, "Token 'ci' is revoked: make another one")
	if got := w.do(t, "POST", "/api/tokens", strings.NewReader(`{"name": "ci", "role": "viewer"}`), nil); got.status != 409 || got.Code != "token_name_taken" {
		t.Errorf("a name that was used: %d %s; want 409 token_name_taken", got.status, got.raw)
	}

	entries := w.audit("security")
	for _, want := range []string{`"action":"token_created"`, `"action":"token_rotated"`, `"action":"token_revoked"`, `"rejection_reason":"the token was revoked"`} {
		if !strings.Contains(entries, want) {
			t.Errorf("the audit log lacks %s: %s", want, entries)
		}
	}
	if n := strings.Count(entries, `"token_revoked"`); n != 1 {
		t.Errorf("%d entries of token_revoked, want 1: the second revoke changed nothing", n)
	}
	for _, text := range []string{ci.Token, rotated.Token, overlapping.Token} {
		if secret := text[len("rumi_")+13 : len(text)-6]; strings.Contains(entries+w.audit("system"), secret) || strings.Contains(fmt.Sprint(list), secret) {
			t.Error("a secret is in the audit log or in the list, want it nowhere")
		}
	}
}

// What can't be asked for, with the code that says why.
func TestTokensThatAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	limited := w.issue(t, `{"name": "limited", "role": "admin", "scopes": [{"verbs": ["tokens.*", "packs.*"]}], "expires_at": "2099-01-01T00:00:00Z"}`)
	wide := w.issue(t, `{"name": "wide", "role": "admin"}`)
	for _, c := range []struct {
		token, method, target, body string
		status                      int
		code                        string
	}{
		{apiToken, "POST", "/api/tokens", `{}`, 400, "missing_name"},
		{apiToken, "POST", "/api/tokens", `{"name": "a"}`, 400, "missing_role"},
		{apiToken, "POST", "/api/tokens", `{"name": "a", "role": "root"}`, 400, "invalid_field"},
		{apiToken, "POST", "/api/tokens", `{"name": "A", "role": "viewer"}`, 400, "invalid_token_name"},
		{apiToken, "POST", "/api/tokens", `{"name": "pack:x", "role": "viewer"}`, 400, "invalid_token_name"},
		{apiToken, "POST", "/api/tokens", `{"name": "a,b", "role": "viewer"}`, 400, "invalid_token_name"},
		{apiToken, "POST", "/api/tokens", `{"name": "a\n", "role": "viewer"}`, 400, "invalid_token_name"},
		{apiToken, "POST", "/api/tokens", `{"name": "system", "role": "viewer"}`, 400, "token_name_reserved"},
		{apiToken, "POST", "/api/tokens", `{"name": "init", "role": "viewer"}`, 400, "token_name_reserved"},
		{apiToken, "POST", "/api/tokens", `{"name": "a", "role": "viewer", "expires_at": "2020-01-01T00:00:00Z"}`, 400, "invalid_expires_at"},
		{apiToken, "POST", "/api/tokens", `{"name": "a", "role": "viewer", "scopes": []}`, 400, "invalid_scopes"},
		{apiToken, "POST", "/api/tokens", `{"name": "a", "role": "viewer", "scopes": [{"verbs": ["*"], "packs": []}]}`, 400, "invalid_scopes"},
		{apiToken, "POST", "/api/tokens", `{"name": "a", "role": "viewer", "scopes": [{"verbs": ["packs.sell"]}]}`, 400, "unknown_verb"},
		{apiToken, "POST", "/api/tokens", `{"name": "a", "role": "viewer", "scopes": [{"verbs": ["*"], "packs": ["*"]}]}`, 400, "invalid_pack_id"},
		{apiToken, "POST", "/api/tokens", `{"name": "a", "role": "viewer", "scopes": [{"verbs": ["*"], "pack": ["x"]}]}`, 400, "unknown_field"},
		{apiToken, "POST", "/api/tokens", `{"name": "a", "role": "viewer", "notes": "` + strings.Repeat("x", 4097) + `"}`, 400, "value_too_long"},
		{apiToken, "DELETE", "/api/tokens/init", "", 409, "init_token"},
		{apiToken, "POST", "/api/tokens/init/rotate", "", 409, "init_token"},
		{apiToken, "DELETE", "/api/tokens/aaaaaaaaaaaa", "", 404, "token_not_found"},
		{apiToken, "DELETE", "/api/tokens/nonsense", "", 400, "invalid_token_id"},
		{apiToken, "POST", "/api/tokens/" + limited.Metadata.ID + "/rotate", `{"overlap_seconds": 86401}`, 400, "invalid_field"},
		{apiToken, "POST", "/api/tokens/" + limited.Metadata.ID + "/rotate", `{"overlap_seconds": -1}`, 400, "invalid_field"},
		{apiToken, "POST", "/api/tokens/" + limited.Metadata.ID + "/rotate", `{"overlap_seconds": 18446744074}`, 400, "invalid_field"},
		{limited.Token, "POST", "/api/tokens", `{"name": "a", "role": "admin", "expires_at": "2098-01-01T00:00:00Z"}`, 403, "token_too_wide"},
		{limited.Token, "POST", "/api/tokens", `{"name": "a", "role": "viewer", "scopes": [{"verbs": ["network.read"]}], "expires_at": "2098-01-01T00:00:00Z"}`, 403, "token_too_wide"},
		{limited.Token, "POST", "/api/tokens", `{"name": "a", "role": "viewer", "scopes": [{"verbs": ["packs.read"]}]}`, 403, "token_too_wide"},
		{limited.Token, "POST", "/api/tokens", `{"name": "a", "role": "viewer", "scopes": [{"verbs": ["packs.read"]}], "expires_at": "2099-01-01T00:00:01Z"}`, 403, "token_too_wide"},
		{limited.Token, "POST", "/api/tokens/" + wide.Metadata.ID + "/rotate", "", 403, "token_too_wide"},
	} {
		if got := w.as(t, c.token, c.method, c.target, c.body); got.status != c.status || got.Code != c.code {
			t.Errorf("%s %s %.100s: %d %s; want %d %s", c.method, c.target, c.body, got.status, got.raw, c.status, c.code)
		}
	}
	if list := w.listed(t); len(list) != 3 {
		t.Errorf("the list has %d tokens, want init and the two that were made", len(list))
	}
	narrower := w.issue(t, `{"name": "narrower", "role": "operator", "scopes": [{"verbs": ["packs.approve"], "packs": ["x"]}], "expires_at": "2099-01-01T00:00:00Z"}`, limited.Token)
	if !slices.Equal(narrower.Metadata.Lineage, []string{"limited", "init"}) {
		t.Errorf("the lineage is %v, want limited, init", narrower.Metadata.Lineage)
	}
	// Who rotates a token holds it, and is of its lineage from then on.
	again := decoded[api.IssuedToken](t, w.as(t, wide.Token, "POST", "/api/tokens/"+narrower.Metadata.ID+"/rotate", ""))
	if !slices.Equal(again.Metadata.Lineage, []string{"wide", "init", "limited"}) {
		t.Errorf("the lineage is %v, want wide, init, limited", again.Metadata.Lineage)
	}
}

// secondGateway starts another gateway on the same home, and returns the address of its API.
func (w *world) secondGateway(t testing.TB) string {
	t.Helper()
	var listeners []net.Listener
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	rt, err := service.Start(context.Background(), "gateway", build, service.Options{
		Environ: append(w.Environ("gateway"), "RUMI_API_RATE_LIMIT=0", "RUMI_LOG_LEVEL=error"), API: listeners[0], Admin: listeners[1], Logs: t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.Stop(); err != nil {
			t.Error(err)
		}
	})
	return listeners[0].Addr().String()
}

// openStream begins to follow a log at a gateway, and returns a channel that is closed when it has ended.
func openStream(t testing.TB, address, token string) <-chan struct{} {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+address+"/api/containers/x/logs?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 200 {
		t.Fatalf("the stream answers %d, want 200", response.StatusCode)
	}
	if _, err := io.ReadFull(response.Body, make([]byte, len("data: 1"))); err != nil {
		t.Fatalf("read the stream's first event: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer response.Body.Close()
		_, _ = io.Copy(io.Discard, response.Body)
	}()
	return ended
}

// within fails the test unless a stream ends within a second.
func within(t testing.TB, what string, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(time.Second):
		t.Errorf("%s: the stream has not ended after a second", what)
	}
}

// A token that ends at one gateway is refused at another within a second, and its streams end at both.
func TestTokensEndAtEveryGateway(t *testing.T) {
	w := newWorld(t, nil)
	other := *w
	other.address = w.secondGateway(t)
	other.servers = map[string]*servicetest.Server{}
	for what, end := range map[string]func(api.IssuedToken){
		"revoked": func(of api.IssuedToken) { w.do(t, "DELETE", "/api/tokens/"+of.Metadata.ID, nil, nil) },
		"rotated": func(of api.IssuedToken) { w.do(t, "POST", "/api/tokens/"+of.Metadata.ID+"/rotate", nil, nil) },
		"expired": func(of api.IssuedToken) { time.Sleep(time.Until(*of.Metadata.ExpiresAt)) },
	} {
		t.Run(what, func(t *testing.T) {
			expires := ""
			if what == "expired" {
				expires = `, "expires_at": "` + time.Now().Add(1500*time.Millisecond).UTC().Format(time.RFC3339Nano) + `"`
			}
			one := w.issue(t, `{"name": "`+what+`", "role": "viewer"`+expires+`}`)
			stays := w.issue(t, `{"name": "stays-`+what+`", "role": "viewer"}`)
			time.Sleep(200 * time.Millisecond) // until the other gateway knows them
			here, there, kept := openStream(t, w.address, one.Token), openStream(t, other.address, one.Token), openStream(t, other.address, stays.Token)
			end(one)
			within(t, "at the same gateway", here)
			within(t, "at the other gateway", there)
			wantFailure(t, w.as(t, one.Token, "GET", "/api/packs", ""), 401, "Unauthorized")
			wantFailure(t, other.as(t, one.Token, "GET", "/api/packs", ""), 401, "Unauthorized")
			if got := other.as(t, stays.Token, "GET", "/api/packs", ""); got.status != 200 {
				t.Errorf("another token: %d %s; want 200", got.status, got.raw)
			}
			select {
			case <-kept:
				t.Error("the stream of another token has ended, want it to go on")
			default:
			}
		})
	}
}

// Replacing the file of init's token ends that token's streams, without a request that would notice it.
func TestReplacedFileEndsStreams(t *testing.T) {
	w := newWorld(t, nil)
	ended := openStream(t, w.address, apiToken)
	w.setToken("another-token")
	within(t, "replaced", ended)
	w.setToken(apiToken)
}

// The last use survives the gateway.
func TestLastUseSurvivesARestart(t *testing.T) {
	w := newWorld(t, nil)
	ci := w.issue(t, `{"name": "ci", "role": "viewer"}`)
	w.as(t, ci.Token, "GET", "/api/packs", "")
	if err := w.servers["gateway"].Stop(); err != nil {
		t.Fatal(err)
	}
	servicetest.Start(w.Suite, "gateway", build, map[string]string{"RUMI_LOG_LEVEL": "error"})
	if one := w.listed(t)["ci"]; one.LastUsedAt == nil || one.LastUsedFrom != "127.0.0.1" {
		t.Errorf("after a restart the list has %+v, want the last use", one)
	}
	if got := w.as(t, ci.Token, "GET", "/api/packs", ""); got.status != 200 {
		t.Errorf("after a restart the token answers %d %s, want 200", got.status, got.raw)
	}
	if matches, err := filepath.Glob(filepath.Join(w.UserData(), "state", "gateway.db*")); err != nil || len(matches) == 0 {
		t.Errorf("the database is %v, %v; want files in the state folder", matches, err)
	}
}

// An upload whose token is revoked before it has arrived whole is broken off: the owner must not stage it.
func TestRevokedUpload(t *testing.T) {
	w := newWorld(t, nil)
	one := w.issue(t, `{"name": "uploader", "role": "operator"}`)
	piped, out := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+w.address+"/api/packs/import", piped)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+one.Token)
	r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	answered := make(chan int, 1)
	go func() {
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			answered <- 0 // the gateway has closed the connection
			return
		}
		defer response.Body.Close()
		answered <- response.StatusCode
	}()
	if _, err := io.WriteString(out, "--b\r\n"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // until the owner reads it
	w.do(t, "DELETE", "/api/tokens/"+one.Metadata.ID, nil, nil)
	select {
	case status := <-answered:
		if status != 401 && status != 0 {
			t.Errorf("the upload is answered %d, want 401 or a closed connection", status)
		}
	case <-time.After(time.Second):
		t.Error("the upload goes on a second after its token was revoked")
	}
	out.Close()
}

// A body that was still coming when its token was revoked is not handed on.
func TestRevokedWhileTheBodyCame(t *testing.T) {
	w := newWorld(t, nil)
	one := w.issue(t, `{"name": "slow", "role": "operator"}`)
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"reason": "x"}`
	fmt.Fprintf(conn, "POST /api/packs/x/reject HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", one.Token, len(body), body[:5])
	time.Sleep(100 * time.Millisecond)
	w.do(t, "DELETE", "/api/tokens/"+one.Metadata.ID, nil, nil)
	fmt.Fprint(conn, body[5:])
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFailure(t, readReply(t, response), 401, "Unauthorized")
}

// A gateway without its database serves init's token, and says what is wrong.
func TestGatewayWithoutADatabase(t *testing.T) {
	w := newWorld(t, map[string]string{"RUMI_DATABASE_URL": "postgres://rumi:none@127.0.0.1:1/rumi?sslmode=disable"})
	const good = "rumi_0123456789ab_0123456789ABCDEFGHIJKLMNOPQRST0eEfeW"
	got := w.as(t, good, "GET", "/api/packs", "")
	if got.status != 503 || got.Code != "tokens_unavailable" || got.header.Get("Retry-After") == "" {
		t.Errorf("a token: %d %s; want 503 tokens_unavailable with Retry-After", got.status, got.raw)
	}
	if got := w.do(t, "GET", "/api/packs", nil, nil); got.status != 200 {
		t.Errorf("init's token: %d %s; want 200", got.status, got.raw)
	}
	wantFailure(t, w.do(t, "GET", "/api/tokens", nil, nil), 503, "Database of gateway is not available")
	wantFailure(t, w.do(t, "POST", "/api/tokens", strings.NewReader(`{"name": "a", "role": "viewer"}`), nil), 503, "Database of gateway is not available")
	if self := decoded[api.SelfResponse](t, w.do(t, "GET", "/api/tokens/self", nil, nil)); self.Name != "init" || self.Role != access.Admin {
		t.Errorf("self is %+v, want init, an admin", self)
	}
	health, raw := w.health(t)
	if i := slices.IndexFunc(health.Services["gateway"].Checks, func(c service.Check) bool { return c.Name == "store" && !c.OK }); i < 0 || health.Services["gateway"].Ready {
		t.Errorf("the health is %s, want the gateway not ready, and its check store failing", raw)
	}
}

// A caller can't say who it is, which role it has, or who made its token.
func TestCallersCannotNameThemselves(t *testing.T) {
	w := newWorld(t, nil)
	viewer := w.issue(t, `{"name": "viewer", "role": "viewer"}`)
	got := w.do(t, "GET", "/api/packs", nil, map[string]string{
		"Authorization": "Bearer " + viewer.Token, "X-Rumi-Actor": "init", "X-Rumi-Role": "admin", "X-Rumi-Lineage": "nobody", "X-Rumi-Address": "192.0.2.1",
	}).seen(t)
	if got.Actor != "viewer" || got.Address != "127.0.0.1" || got.Header.Get("X-Rumi-Role") != "viewer" || got.Header.Get("X-Rumi-Lineage") != "init" {
		t.Errorf("the owner sees %+v, want the viewer, whatever it says of itself", got)
	}
}

// Calls that are refused for want of a right leave a bounded number of audit entries.
func TestDenialsAreBounded(t *testing.T) {
	w := newWorld(t, nil)
	viewer := w.issue(t, `{"name": "viewer", "role": "viewer"}`)
	for range 50 {
		got := w.as(t, viewer.Token, "POST", "/api/packs/x/approve", "")
		wantFailure(t, got, 403, "Not allowed: POST /api/packs/{pack_id}/approve needs packs.approve and the role operator or more; 'viewer' has the role viewer")
		if want := `{"verb":"packs.approve","role":"operator"}`; string(got.Data) != want {
			t.Fatalf("the data is %s, want %s", got.Data, want)
		}
	}
	entries := w.audit("security")
	if n := strings.Count(entries, `"access_denied"`); n != 31 || strings.Count(entries, "further ones are not audited for a minute") != 1 {
		t.Errorf("%d entries of access_denied, want 30 and one that says that there were more: %s", n, entries)
	}
}

// The answer to a read that its token has not outlived is withheld.
func TestRevokedWhileTheAnswerCame(t *testing.T) {
	w := newWorld(t, nil)
	one := w.issue(t, `{"name": "slow", "role": "viewer"}`)
	answered := make(chan *reply)
	go func() { answered <- w.as(t, one.Token, "GET", "/api/docker/status", "") }()
	time.Sleep(100 * time.Millisecond)
	w.do(t, "DELETE", "/api/tokens/"+one.Metadata.ID, nil, nil)
	wantFailure(t, <-answered, 401, "Unauthorized")
}
