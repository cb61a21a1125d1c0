package grant_test

import (
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
)

// request is one for terms as they come in a body.
func request(t *testing.T, permission, terms string) grant.Request {
	t.Helper()
	r := grant.Request{PrincipalID: "p", PermissionID: permission}
	if err := json.Unmarshal([]byte(terms), &r.Terms); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTerms(t *testing.T) {
	l := &log{}
	b := openCache(t, open(t), packs{"p": true}, l)
	for _, c := range []struct{ permission, terms, want string }{ // want is part of the error, "" for none
		{"fs.read", `{}`, ""},
		{"fs.read", `{"max_uses": null, "rate_limit": null, "args_schema": null, "handler": null, "limits": null, "mounts": null}`, ""},
		{"fs.read", `{"max_uses": 1, "rate_limit": 60000}`, ""},
		{"fs.read", `{"max_uses": 0}`, "Invalid max_uses: must be an integer of 1 or more"},
		{"fs.read", `{"max_uses": -1}`, "Invalid max_uses"},
		{"fs.read", `{"max_uses": 9223372036854775807}`, "Invalid max_uses"},
		{"fs.read", `{"rate_limit": 0}`, "Invalid rate_limit: must be an integer from 1 to 60000"},
		{"fs.read", `{"rate_limit": 60001}`, "Invalid rate_limit"},
		{"fs.read", `{"args_schema": {"type": "object"}}`, ""},
		{"fs.read", `{"args_schema": true}`, "'args_schema' must be an object"},
		{"fs.read", `{"args_schema": {"properties": {"a": {"type": "text"}}}}`, "Invalid args_schema: at '/properties/a/type'"},
		{"fs.read", `{"args_schema": {"$ref": "http://127.0.0.1/"}}`, "Invalid args_schema: at '/$ref': a reference must be"},
		{"fs.read", `{"args_schema": {"title": "` + strings.Repeat("x", 64<<10) + `"}}`, "Grant args_schema too large"},
		{"fs.read", `{"handler": {"pack_id": "q", "slug": "h"}}`, ""},
		{"fs.read", `{"handler": {"pack_id": "q"}}`, "Invalid handler"},
		{"fs.read", `{"handler": {"pack_id": "../q", "slug": "h"}}`, "Invalid handler"},
		{"fs.read", `{"handler": {"pack_id": "q", "slug": "h\n"}}`, "Invalid handler"},
		{"secrets.get", `{"max_uses": 3, "rate_limit": 3, "args_schema": {}}`, ""},
		{"secrets.get", `{"handler": {"pack_id": "q", "slug": "h"}}`, "the broker's own"},
		{"secrets.get", `{"limits": {"memory_mb": 64}}`, "the broker's own"},
		{"secrets.get", `{"mounts": [{"source": "/srv"}]}`, "the broker's own"},
		{"fs.read", `{"mounts": [{"source": "` + strings.Repeat("n", 255) + `"}]}`, ""},
		{"fs.read", `{"mounts": [{"source": "` + strings.Repeat("n", 256) + `"}]}`, "'source' must be"},
		{"fs.read", `{"mounts": [{"source": "/srv", "target": "/mnt/` + strings.Repeat("n", 256) + `"}]}`, "'target' must be"},
		{"secrets.list", `{}`, "Unknown permission_id: 'secrets.list' is none of the broker's own"},
		{"store.frobnicate", `{}`, "Unknown permission_id"},
	} {
		_, err := b.Grant(t.Context(), request(t, c.permission, c.terms))
		if c.want == "" && err != nil || c.want != "" && (!fault.Is(err, fault.KindInvalid) || !strings.Contains(fault.Of(err).Message, c.want)) {
			t.Errorf("%s %.80s: %v, want %q", c.permission, c.terms, err, c.want)
		}
	}
}

// An entry says what was granted on which terms, and nothing of a schema or a handler's config.
func TestTermsInEntries(t *testing.T) {
	l := &log{}
	b := openCache(t, open(t), packs{"p": true}, l)
	r := request(t, "fs.read", `{"max_uses": 3, "rate_limit": 5, "args_schema": {"const": "SECRET"}, "handler": {"pack_id": "q", "slug": "h"}}`)
	r.Config = jsontext.Value(`{"token": "SECRET"}`)
	if _, err := b.Grant(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Revoke(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for _, e := range l.entries {
		raw, err := json.Marshal(e.Details, json.Deterministic(true))
		if err != nil {
			t.Fatal(err)
		}
		if want := `{"args_schema":true,"handler":"q/h","max_uses":3,"permission_id":"fs.read","permission_type":"capability_grant","principal_id":"p","rate_limit":5}`; e.Action == "permission_grant" && string(raw) != want {
			t.Errorf("entry %s, want %s", raw, want)
		}
		if strings.Contains(string(raw), "SECRET") {
			t.Errorf("the entry has the config's secret: %s; want it without", raw)
		}
	}
}

// A grant that this version doesn't understand allows nothing, and keeps no other grant from working. A newer version may
// have narrowed it by terms that this one doesn't know.
func TestGrantsThatCannotBeRead(t *testing.T) {
	s := open(t)
	now := time.Now()
	for permission, g := range map[string]grant.Grant{
		"fs.read":      {},
		"secrets.get":  {Config: jsontext.Value(`{"newer": true}`)},
		"store.newer":  {},
		"fs.write":     {Terms: grant.Terms{ArgsSchema: jsontext.Value(`{"newer": true}`)}},
		"fs.unlimited": {Terms: grant.Terms{MaxUses: new(int64)}},
	} {
		g.PrincipalID, g.PermissionID, g.Enabled, g.GrantedAt = "p", permission, true, now
		if g.Config == nil {
			g.Config = jsontext.Value(`{}`)
		}
		if err := s.Apply(t.Context(), "p", permission, func(*grant.Grant) (*grant.Grant, error) { return &g, nil }); err != nil {
			t.Fatal(err)
		}
	}
	b := openCache(t, s, packs{"p": true}, &log{})
	list, err := b.List(t.Context(), "")
	if err != nil || len(list["p"]) != 5 {
		t.Fatalf("the list is %v, %v; want five grants of p", list, err)
	}
	for _, g := range list["p"] {
		want := grant.Unreadable
		if g.PermissionID == "fs.read" {
			want = grant.Allowed
		}
		if got := decide(b, "p", g.PermissionID); got != want || g.Decide(now) != want {
			t.Errorf("%s: %q and %q, want %q", g.PermissionID, got, g.Decide(now), want)
		}
	}
	// What can't be read can be taken away, and granted again.
	if revoked, err := b.Revoke(t.Context(), grant.Request{PrincipalID: "p", PermissionID: "fs.write"}); err != nil || !revoked {
		t.Errorf("the revocation of what can't be read: %v, %v; want true", revoked, err)
	}
	if _, err := b.Grant(t.Context(), grant.Request{PrincipalID: "p", PermissionID: "secrets.get"}); err != nil || decide(b, "p", "secrets.get") != grant.Allowed {
		t.Errorf("the grant after the revocation: %v; want it allowed", err)
	}

	var g grant.Grant
	if g.ReadTerms([]byte(`{"max_uses": 1, "newer": true}`)); g.Decide(now) != grant.Unreadable {
		t.Errorf("newer terms: got %q, want them unreadable", g.Decide(now))
	}
}
