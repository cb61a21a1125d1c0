// Package oidc admits people whom an OpenID Connect issuer has signed in: the credential is the ID token, or an access token for Rumi's client, as a
// JWT.
//
// A token is checked against cached keys, so an issuer that is down changes nothing for those who hold one. The keys come through egress-proxy,
// because the gateway has no way out. They are fetched every ten minutes, and when a token names a key that isn't known, as after a rotation: at
// most every ten seconds, since anybody can make up the names of keys.
//
// The actor is "oidc:" and the subject, which the issuer never gives to another person (OpenID Connect Core 1.0, section 2). A name or an address
// would be easier to read, but people can change theirs, and get another's. Names of API tokens have no colon, so the two never collide. The
// audit entry oidc_signed_in says which name and address a subject has.
package oidc

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	upstream "github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
)

const (
	maxToken   = 16 << 10 // bytes
	maxSubject = 255      // bytes (OpenID Connect Core 1.0, section 2)
	maxSeen    = 10_000   // tokens and people that are remembered

	// leeway is how far the issuer's clock may be from ours.
	leeway = time.Minute
)

// Config has the settings and the parts of a Verifier.
type Config struct {
	Issuer   string // as the tokens name it
	ClientID string // Rumi's, which the tokens must be for
	Groups   string // the claim with a person's groups
	Roles    Roles

	Fetch func(ctx context.Context) (Fetched, error)
	Path  string // of the file that keeps the keys over a restart
	Audit *audit.Log
	Log   *slog.Logger
}

// Verifier is a principal.Authenticator for tokens of an issuer. Use New and Run. It is safe for concurrent use.
type Verifier struct {
	cfg      Config
	keys     atomic.Pointer[keySet] // nil until there are any
	fetching fetching

	mu     sync.Mutex
	seen   map[[sha256.Size]byte]*admitted // by the token's hash
	people map[string]string               // by actor: what of the person was audited last
}

// admitted is a token that was found right.
type admitted struct {
	principal principal.Principal
	print     string // of the key that has signed it
}

// head is what is read of a token before its signature is known to be right.
type head struct {
	Algorithm jose.SignatureAlgorithm `json:"alg"`
	KeyID     string                  `json:"kid"`
	Type      string                  `json:"typ"`
}

// claims are those that are read beside the groups.
type claims struct {
	Subject   string         `json:"sub"`
	NotBefore *float64       `json:"nbf"`
	Events    map[string]any `json:"events"` // of a logout token, which signs nobody in
	Email     string         `json:"email"`
	Verified  any            `json:"email_verified"` // some issuers write "true"
	Name      string         `json:"preferred_username"`
}

// Authenticate implements principal.Authenticator. A text that is no token of the issuer is unknown. The principal of a person without a role
// has none: the person is known, and may do nothing.
func (v *Verifier) Authenticate(token string) (principal.Principal, error) {
	if len(token) > maxToken || strings.Count(token, ".") != 2 || !strings.HasPrefix(token, "eyJ") {
		return principal.Principal{}, principal.ErrUnknown
	}
	hash := sha256.Sum256([]byte(token))
	if p, ok := v.known(hash); ok {
		return p, nil
	}
	h, ok := v.ours(token)
	if !ok {
		return principal.Principal{}, principal.ErrUnknown
	}
	keys := v.keysFor(h.KeyID)
	if keys == nil {
		return principal.Principal{}, fault.Unavailable("Sign-ins can't be checked: the keys of the issuer are not known yet. See GET /api/health with an API token").
			With("oidc_unavailable").After(minInterval)
	}
	return v.admit(token, hash, &signature{keys: keys.candidates(h.KeyID)})
}

// known is the principal of a token that was found right before.
func (v *Verifier) known(hash [sha256.Size]byte) (principal.Principal, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	a := v.seen[hash]
	if a == nil || a.principal.Session.Ended() {
		return principal.Principal{}, false
	}
	return a.principal, true
}

// ours reads a token's header, and whether it says that it is of our issuer. Others must not cause a fetch of keys.
func (v *Verifier) ours(token string) (head, bool) {
	first, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	var h head
	var said struct {
		Issuer string `json:"iss"`
	}
	if decode(first, &h) != nil || decode(payload, &said) != nil || said.Issuer != v.cfg.Issuer {
		return h, false
	}
	for _, a := range algorithms {
		if a == h.Algorithm {
			return h, accessOrID(h.Type)
		}
	}
	return h, false
}

// accessOrID says whether a token's type is that of an ID token or an access token (RFC 9068).
func accessOrID(kind string) bool {
	switch strings.ToLower(strings.TrimPrefix(strings.ToLower(kind), "application/")) {
	case "", "jwt", "at+jwt":
		return true
	}
	return false
}

func decode(part string, into any) error {
	data, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// admit checks a token's signature and what it claims.
func (v *Verifier) admit(token string, hash [sha256.Size]byte, keys *signature) (principal.Principal, error) {
	// The client and the times are checked below, after the signature: who made a token up learns nothing.
	verifier := upstream.NewVerifier(v.cfg.Issuer, keys, &upstream.Config{
		SkipClientIDCheck: true, SkipExpiryCheck: true, SupportedSigningAlgs: algorithmNames(),
	})
	verified, err := verifier.Verify(context.Background(), token)
	if err != nil {
		v.cfg.Log.Debug("refused a token of the issuer", "error", err)
		return principal.Principal{}, principal.ErrUnknown
	}
	var c claims
	var all map[string]any
	if verified.Claims(&c) != nil || verified.Claims(&all) != nil || c.Subject == "" || len(c.Subject) > maxSubject {
		return principal.Principal{}, &principal.RefusedError{Name: anonymous, Reason: "the token has no subject, or claims of another form"}
	}
	name := actor(c.Subject)
	if why := v.refusal(verified, &c, time.Now()); why != "" {
		return principal.Principal{}, &principal.RefusedError{Name: name, Reason: why}
	}
	groups, err := groupsIn(all, v.cfg.Groups)
	if err != nil {
		return principal.Principal{}, &principal.RefusedError{Name: name, Reason: err.Error()}
	}
	p := principal.Principal{Name: name, Role: v.cfg.Roles.of(groups), Expires: verified.Expiry.Add(leeway), Session: principal.NewSession()}
	if err := v.note(&p, &c, groups); err != nil {
		return principal.Principal{}, err
	}
	return v.remember(hash, &admitted{p, keys.print}), nil
}

// anonymous is the name in audit entries of a right token that names nobody.
const anonymous = "oidc:"

func algorithmNames() []string {
	names := make([]string, len(algorithms))
	for i, a := range algorithms {
		names[i] = string(a)
	}
	return names
}

// refusal is why a token with a right signature is not good, "" where it is.
func (v *Verifier) refusal(t *upstream.IDToken, c *claims, now time.Time) string {
	switch {
	case !contains(t.Audience, v.cfg.ClientID):
		return "the token is for another client than RUMI_OIDC_CLIENT_ID"
	case c.Events != nil:
		return "the token is not an ID token or an access token"
	case t.Expiry.Unix() <= 0:
		return "the token never expires"
	case !now.Before(t.Expiry.Add(leeway)):
		return "the token has expired"
	case c.NotBefore != nil && *c.NotBefore > float64(now.Add(leeway).Unix()):
		return "the token is not valid yet; is the clock right?"
	}
	return ""
}

func contains(list []string, s string) bool {
	for _, one := range list {
		if one == s {
			return true
		}
	}
	return false
}

// actor is a person's name in the audit log. What isn't plain is escaped: the name goes into headers, and into lists with commas.
func actor(subject string) string {
	var b strings.Builder
	b.WriteString("oidc:")
	for _, c := range []byte(subject) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~@|:/+=", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// note audits who a subject is, when it is seen for the first time, and when its role, name, address or groups have changed. What can't be audited
// isn't admitted.
func (v *Verifier) note(p *principal.Principal, c *claims, groups []string) error {
	const clip = 200
	details := map[string]any{"subject": c.Subject, "role": p.Role, "issuer": v.cfg.Issuer, "groups": text.Clip(strings.Join(groups, ","), 4*clip)}
	if c.Name != "" {
		details["name"] = text.Clip(c.Name, clip)
	}
	if c.Email != "" {
		details["email"], details["email_verified"] = text.Clip(c.Email, clip), c.Verified == true || c.Verified == "true"
	}
	is := fmt.Sprint(details)
	v.mu.Lock()
	before, seen := v.people[p.Name]
	v.mu.Unlock()
	if seen && before == is {
		return nil
	}
	entry := audit.Entry{Category: audit.Security, Severity: audit.Info, Action: "oidc_signed_in", Success: p.Role != "", Details: details}
	if p.Role == "" {
		entry.Severity, entry.RejectionReason = audit.Warning, "none of the groups is in RUMI_OIDC_ROLES"
	}
	if err := v.cfg.Audit.Write(origin.With(context.Background(), origin.Origin{Actor: p.Name, Role: p.Role}), entry); err != nil {
		return fault.Unavailable("The sign-in can't be audited").With("oidc_unavailable").Because(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.people) >= maxSeen {
		clear(v.people)
	}
	v.people[p.Name] = is
	return nil
}

// remember keeps a token that was found right until it expires. Its session ends then, too, and with it the streams under way.
func (v *Verifier) remember(hash [sha256.Size]byte, a *admitted) principal.Principal {
	v.mu.Lock()
	defer v.mu.Unlock()
	if other := v.seen[hash]; other != nil && !other.principal.Session.Ended() {
		return other.principal // of a request at the same time
	}
	if len(v.seen) < maxSeen {
		v.seen[hash] = a
	}
	time.AfterFunc(time.Until(a.principal.Expires), func() {
		a.principal.Session.End()
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.seen[hash] == a {
			delete(v.seen, hash)
		}
	})
	return a.principal
}

// sweep ends the sessions of tokens whose key the issuer has taken back.
func (v *Verifier) sweep(keys *keySet) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for hash, a := range v.seen {
		if !keys.has(a.print) {
			a.principal.Session.End()
			delete(v.seen, hash)
		}
	}
}

func thumbprint(k jose.JSONWebKey) (string, error) {
	sum, err := k.Thumbprint(crypto.SHA256)
	return string(sum), err
}

// errNoKeys is the readiness before the first fetch has succeeded.
var errNoKeys = errors.New("the issuer's keys were never fetched")
