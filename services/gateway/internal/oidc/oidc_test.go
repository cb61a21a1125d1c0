package oidc

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/gateway/internal/oidc/oidctest"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
)

// rig is a verifier over a real issuer.
type rig struct {
	*oidctest.Issuer
	*Verifier
	t   *testing.T
	dir string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{Issuer: oidctest.New(t), t: t, dir: t.TempDir()}
	log, err := audit.Open(filepath.Join(r.dir, "audit"), "gateway", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	r.Verifier = r.verifier(log)
	return r
}

func (r *rig) verifier(log *audit.Log) *Verifier {
	roles, err := ParseRoles("rumi-admins=admin,ops=operator")
	if err != nil {
		r.t.Fatal(err)
	}
	return New(Config{
		Issuer: r.URL, ClientID: oidctest.ClientID, Groups: "groups", Roles: roles, Path: filepath.Join(r.dir, "oidc.json"),
		Audit: log, Log: slog.New(slog.DiscardHandler),
		Fetch: func(context.Context) (Fetched, error) {
			keys, err := r.Keys()
			return Fetched{r.URL, keys}, err
		},
	})
}

// run runs the verifier until the test ends, and waits for its first keys.
func (r *rig) run() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	r.t.Cleanup(func() { cancel(); <-done })
	for deadline := time.Now().Add(30 * time.Second); r.Ready() != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatal(r.Ready())
		}
	}
}

// outcome is what became of a token, for comparison.
func outcome(p principal.Principal, err error) string {
	var refused *principal.RefusedError
	switch {
	case err == nil:
		return fmt.Sprintf("%s is %q", p.Name, p.Role)
	case errors.Is(err, principal.ErrUnknown):
		return "unknown"
	case errors.As(err, &refused):
		return refused.Name + " refused: " + refused.Reason
	}
	return fault.Of(err).Message
}

func TestTokens(t *testing.T) {
	r := newRig(t)
	rsaKey := oidctest.NewKey(t, "rsa", jose.RS256)
	edKey := oidctest.NewKey(t, "ed", jose.EdDSA)
	r.Rotate(r.First(), rsaKey, edKey)
	r.Publish(jose.JSONWebKey{Key: []byte("a secret of 32 bytes, for certain"), KeyID: "secret", Algorithm: "HS256"}, jsontext.Value(`{"kty":"new"}`),
		jose.JSONWebKey{Key: rsaKey.Private.Public(), KeyID: "enc", Use: "enc"})
	r.run()
	now := time.Now()
	stranger := oidctest.NewKey(t, "one", jose.ES256) // of the id that is known
	spki, err := x509.MarshalPKIXPublicKey(rsaKey.Private.Public())
	if err != nil {
		t.Fatal(err)
	}
	hmac := func(id string, secret []byte) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: secret}, (&jose.SignerOptions{}).WithHeader("kid", id))
		if err != nil {
			t.Fatal(err)
		}
		payload, err := json.Marshal(r.Claims("u", []string{"ops"}, nil))
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(payload)
		if err != nil {
			t.Fatal(err)
		}
		token, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	good := r.Token("u", []string{"ops"}, nil)
	parts := strings.Split(good, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	other, err := json.Marshal(r.Claims("root", []string{"rumi-admins"}, nil))
	if err != nil {
		t.Fatal(err)
	}
	sign := func(k oidctest.Key, kind string, change map[string]any) string {
		return oidctest.Sign(t, k, kind, r.Claims("u", []string{"ops"}, change))
	}
	for name, c := range map[string]struct{ token, want string }{
		"a right one":                 {good, `oidc:u is "operator"`},
		"RSA":                         {sign(rsaKey, "JWT", nil), `oidc:u is "operator"`},
		"RSA, PSS under a key of RS":  {sign(oidctest.Key{ID: "rsa", Algorithm: jose.PS256, Private: rsaKey.Private}, "JWT", nil), "unknown"},
		"Ed25519":                     {sign(edKey, "JWT", nil), `oidc:u is "operator"`},
		"without the key's id":        {sign(oidctest.Key{Algorithm: jose.EdDSA, Private: edKey.Private}, "JWT", nil), `oidc:u is "operator"`},
		"an access token":             {sign(edKey, "at+jwt", map[string]any{"aud": []string{"account", oidctest.ClientID}}), `oidc:u is "operator"`},
		"the highest of two roles":    {r.Token("u", []string{"ops", "rumi-admins", "x"}, nil), `oidc:u is "admin"`},
		"no group with a role":        {r.Token("u", []string{"OPS", "x"}, nil), `oidc:u is ""`},
		"no groups":                   {r.Token("u", nil, map[string]any{"groups": nil}), `oidc:u is ""`},
		"one group as a text":         {r.Token("u", nil, map[string]any{"groups": "ops"}), `oidc:u is "operator"`},
		"groups that are none":        {r.Token("u", nil, map[string]any{"groups": []any{"ops", 1}}), "oidc:u refused: the claim of groups is no list of texts"},
		"a subject with signs":        {r.Token("a,b\nc%é 1", []string{"ops"}, nil), `oidc:a%2Cb%0Ac%25%C3%A9%201 is "operator"`},
		"a subject of two parts":      {r.Token("google-oauth2|12", []string{"ops"}, nil), `oidc:google-oauth2|12 is "operator"`},
		"no subject":                  {r.Token("", []string{"ops"}, nil), "oidc: refused: the token has no subject, or claims of another form"},
		"a subject that is too long":  {r.Token(strings.Repeat("u", 256), []string{"ops"}, nil), "oidc: refused: the token has no subject, or claims of another form"},
		"expired":                     {r.Token("u", nil, map[string]any{"exp": now.Add(-2 * time.Minute).Unix()}), "oidc:u refused: the token has expired"},
		"expired, within the leeway":  {r.Token("u", []string{"ops"}, map[string]any{"exp": now.Add(-30 * time.Second).Unix()}), `oidc:u is "operator"`},
		"for ever":                    {r.Token("u", nil, map[string]any{"exp": nil}), "oidc:u refused: the token never expires"},
		"not yet":                     {r.Token("u", nil, map[string]any{"nbf": now.Add(2 * time.Minute).Unix()}), "oidc:u refused: the token is not valid yet; is the clock right?"},
		"not yet, within the leeway":  {r.Token("u", []string{"ops"}, map[string]any{"nbf": now.Add(30 * time.Second).Unix()}), `oidc:u is "operator"`},
		"another client":              {r.Token("u", nil, map[string]any{"aud": "other"}), "oidc:u refused: the token is for another client than RUMI_OIDC_CLIENT_ID"},
		"no client":                   {r.Token("u", nil, map[string]any{"aud": nil}), "oidc:u refused: the token is for another client than RUMI_OIDC_CLIENT_ID"},
		"another issuer":              {r.Token("u", nil, map[string]any{"iss": "https://evil.example"}), "unknown"},
		"the issuer with a slash":     {r.Token("u", nil, map[string]any{"iss": r.URL + "/"}), "unknown"},
		"a logout token":              {r.Token("u", nil, map[string]any{"events": map[string]any{"x": map[string]any{}}}), "oidc:u refused: the token is not an ID token or an access token"},
		"a logout token by its type":  {sign(edKey, "logout+jwt", nil), "unknown"},
		"another key of that id":      {sign(stranger, "JWT", nil), "unknown"},
		"another payload":             {parts[0] + "." + b64(other) + "." + parts[2], "unknown"},
		"no signature":                {parts[0] + "." + parts[1] + ".", "unknown"},
		"alg none":                    {b64([]byte(`{"alg":"none"}`)) + "." + b64(other) + ".", "unknown"},
		"alg None":                    {b64([]byte(`{"alg":"None","kid":"one"}`)) + "." + b64(other) + "." + parts[2], "unknown"},
		"HS256 with the public key":   {hmac("rsa", spki), "unknown"},
		"HS256 with a published key":  {hmac("secret", []byte("a secret of 32 bytes, for certain")), "unknown"},
		"a critical header":           {b64([]byte(`{"alg":"ES256","kid":"one","crit":["x"],"x":1}`)) + "." + parts[1] + "." + parts[2], "unknown"},
		"no token":                    {"eyJ.eyJ.x", "unknown"},
		"an API token":                {"rumi_abc_def", "unknown"},
		"empty":                       {"", "unknown"},
		"a token that is far too big": {r.Token("u", nil, map[string]any{"x": strings.Repeat("x", maxToken)}), "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second answer may come from memory
				if got := outcome(r.Authenticate(c.token)); got != c.want {
					t.Errorf("got %s, want %s", got, c.want)
				}
			}
		})
	}
	entries := audittest.Text(t, filepath.Join(r.dir, "audit"), "security")
	for _, want := range []string{`"oidc_signed_in"`, `"actor":"oidc:u"`, `"role":"operator"`, `"role":"admin"`, "none of the groups is in RUMI_OIDC_ROLES"} {
		if !strings.Contains(entries, want) {
			t.Errorf("the audit log lacks %s:\n%s", want, entries)
		}
	}
	for _, part := range strings.Split(good, ".")[1:] {
		if strings.Contains(entries, part) {
			t.Error("a token is in the audit log")
		}
	}
}

// TestRotation: a token of a new key is admitted at once; those of a key that the issuer took back are refused, and their streams end.
func TestRotation(t *testing.T) {
	r := newRig(t)
	r.run()
	first := r.First()
	before, err := r.Authenticate(r.Token("u", []string{"ops"}, nil))
	if err != nil {
		t.Fatal(err)
	}
	old := r.Token("u", []string{"ops"}, map[string]any{"n": 1})
	second := oidctest.NewKey(t, "two", jose.RS256)
	r.Rotate(second, first)
	r.longAgo()
	if got := outcome(r.Authenticate(r.Token("v", []string{"ops"}, nil))); got != `oidc:v is "operator"` {
		t.Errorf("a token of the new key: %s, want it admitted", got)
	}
	if got := outcome(r.Authenticate(old)); got != `oidc:u is "operator"` || before.Session.Ended() {
		t.Errorf("a token of the old key, which is published on: %s, want it admitted", got)
	}
	r.Rotate(second)
	r.longAgo()
	r.Authenticate(oidctest.Sign(t, oidctest.NewKey(t, "three", jose.ES256), "JWT", r.Claims("u", nil, nil))) // causes a fetch
	if got := outcome(r.Authenticate(old)); got != "unknown" || !before.Session.Ended() {
		t.Errorf("a token of a key that was taken back: %s, its session ended: %v; want it unknown and ended", got, before.Session.Ended())
	}
}

// longAgo has the last fetch be so long ago that the next token of an unknown key causes one.
func (r *rig) longAgo() {
	r.fetching.mu.Lock()
	defer r.fetching.mu.Unlock()
	r.fetching.tried = time.Now().Add(-minInterval)
}

// TestUnknownKeys: whoever makes up keys causes no traffic, and nobody waits for it.
func TestUnknownKeys(t *testing.T) {
	r := newRig(t)
	r.run()
	fetched, began := r.Fetches.Load(), time.Now()
	for i := range 200 {
		if got := outcome(r.Authenticate(oidctest.Sign(t, oidctest.Key{ID: fmt.Sprint("made-up-", i), Algorithm: jose.ES256, Private: r.First().Private}, "JWT", r.Claims("u", nil, nil)))); got != "unknown" {
			t.Fatalf("got %s, want unknown", got)
		}
	}
	if more, took := r.Fetches.Load()-fetched, time.Since(began); more > 1 || took > 30*time.Second {
		t.Errorf("200 tokens of made-up keys caused %d fetches in %v, want 1 at most, at once", more, took)
	}
	r.longAgo()
	fetched = r.Fetches.Load()
	foreign := r.Claims("u", nil, map[string]any{"iss": "https://evil.example"})
	r.Authenticate(oidctest.Sign(t, oidctest.NewKey(t, "x", jose.ES256), "JWT", foreign))
	if more := r.Fetches.Load() - fetched; more != 0 {
		t.Errorf("a token of another issuer caused %d fetches, want none", more)
	}
}

// TestIssuerDown: who holds a token isn't concerned, also after a restart of the gateway; without keys, nobody can tell.
func TestIssuerDown(t *testing.T) {
	r := newRig(t)
	token := r.Token("u", []string{"ops"}, nil)
	r.SetDown(true)
	if got := outcome(r.Authenticate(token)); !strings.HasPrefix(got, "Sign-ins can't be checked") {
		t.Errorf("without keys: %s, want that it can't be told", got)
	}
	r.SetDown(false)
	r.run()
	r.SetDown(true)
	if r.fetch(t.Context()) {
		t.Fatal("a fetch from an issuer that is down succeeded")
	}
	if got := outcome(r.Authenticate(token)); got != `oidc:u is "operator"` {
		t.Errorf("while the issuer is down: %s, want the token admitted", got)
	}
	again := r.verifier(r.cfg.Audit) // reads the file
	if got := outcome(again.Authenticate(token)); got != `oidc:u is "operator"` {
		t.Errorf("after a restart while the issuer is down: %s, want the token admitted", got)
	}
	keys := *r.keys.Load()
	keys.at = time.Now().Add(-2 * staleAfter)
	r.keys.Store(&keys)
	if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "are used until") {
		t.Errorf("readiness with old keys: %v, want until when they are used", err)
	}
	keys.at = time.Now().Add(-maxAge - time.Second)
	r.keys.Store(&keys)
	if got := outcome(r.Authenticate(r.Token("u", []string{"ops"}, map[string]any{"n": 1}))); !strings.HasPrefix(got, "Sign-ins can't be checked") {
		t.Errorf("with keys of a week ago: %s, want that it can't be told", got)
	}
}

// TestSessionEndsWithToken: streams don't outlive the token.
func TestSessionEndsWithToken(t *testing.T) {
	r := newRig(t)
	r.run()
	soon := time.Now().Add(-leeway).Add(1500 * time.Millisecond)
	p, err := r.Authenticate(r.Token("u", []string{"ops"}, map[string]any{"exp": float64(soon.UnixMilli()) / 1000}))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	p.Session.OnEnd(func() { close(ended) })
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("the session of an expired token goes on")
	}
}

func TestParseRoles(t *testing.T) {
	got, err := ParseRoles(" rumi-admins=admin, /a/b c=operator ,x=y=viewer,*=viewer")
	want := Roles{"rumi-admins": access.Admin, "/a/b c": access.Operator, "x=y": access.Viewer, "*": access.Viewer}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	for groups, role := range map[string]access.Role{"": access.Viewer, "other": access.Viewer, "*": access.Viewer, "rumi-admins": access.Admin, "x=y,/a/b c": access.Operator} {
		if is := got.of(strings.Split(groups, ",")); is != role {
			t.Errorf("the role of %q is %q, want %q", groups, is, role)
		}
	}
	for bad, want := range map[string]string{"": "want group=role", "admin": "want group=role", "=admin": "want group=role", "a=root": `"root" is no role (known: viewer, operator, admin)`, "a=admin,,b=viewer": "want group=role", "a=admin,a=viewer": "twice"} {
		if _, err := ParseRoles(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", bad, err, want)
		}
	}
}

func TestGroupsIn(t *testing.T) {
	claims := map[string]any{
		"groups": []any{"b", "a", "b"}, "https://example.com/groups": []any{"c"}, "realm_access": map[string]any{"roles": []any{"d"}}, "number": 1.0,
	}
	for name, want := range map[string]string{"groups": "[a b]", "https://example.com/groups": "[c]", "realm_access.roles": "[d]", "none": "[]", "groups.x": "[]", "realm_access.none": "[]"} {
		if got, err := groupsIn(claims, name); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v; want %s", name, got, err, want)
		}
	}
	if _, err := groupsIn(claims, "number"); err == nil {
		t.Error("a number was taken for groups")
	}
}
