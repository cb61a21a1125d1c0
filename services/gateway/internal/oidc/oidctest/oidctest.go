// Package oidctest is an OpenID Connect issuer for tests: an HTTPS server with a discovery document and keys that rotate, which signs tokens.
package oidctest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ClientID is the client that tokens are for.
const ClientID = "rumi"

// Issuer is a running issuer.
type Issuer struct {
	*httptest.Server
	Fetches atomic.Int64 // of its keys

	t    testing.TB
	mu   sync.Mutex
	keys []Key // the first signs
	down bool
	more []any // further entries of the JWK set
}

// Key is a signing key.
type Key struct {
	ID        string
	Algorithm jose.SignatureAlgorithm
	Private   crypto.Signer
}

// NewKey makes a key for an algorithm.
func NewKey(t testing.TB, id string, algorithm jose.SignatureAlgorithm) Key {
	t.Helper()
	k := Key{ID: id, Algorithm: algorithm}
	var err error
	switch algorithm {
	case jose.ES256:
		k.Private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.EdDSA:
		_, k.Private, err = ed25519.GenerateKey(rand.Reader)
	default:
		k.Private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// New starts an issuer with one key, "one", for ES256.
func New(t testing.TB) *Issuer {
	i := &Issuer{t: t, keys: []Key{NewKey(t, "one", jose.ES256)}}
	i.Server = httptest.NewTLSServer(http.HandlerFunc(i.serve))
	t.Cleanup(i.Close)
	return i
}

func (i *Issuer) serve(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.down:
		w.WriteHeader(http.StatusBadGateway)
	case r.URL.Path == "/.well-known/openid-configuration":
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["RS256","ES256"]}`, i.URL, i.URL+"/keys")
	case r.URL.Path == "/keys":
		i.Fetches.Add(1)
		set := append([]any{}, i.more...)
		for _, k := range i.keys {
			set = append(set, jose.JSONWebKey{Key: k.Private.Public(), KeyID: k.ID, Algorithm: string(k.Algorithm), Use: "sig"})
		}
		var listed []jsontext.Value
		for _, entry := range set {
			raw, ok := entry.(jsontext.Value)
			if k, isKey := entry.(jose.JSONWebKey); isKey {
				data, err := k.MarshalJSON()
				if err != nil {
					i.t.Error(err)
				}
				raw, ok = data, true
			}
			if ok {
				listed = append(listed, raw)
			}
		}
		if err := json.MarshalWrite(w, map[string]any{"keys": listed}); err != nil {
			i.t.Error(err)
		}
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// Keys fetches the issuer's keys, as egress-proxy does.
func (i *Issuer) Keys() (jsontext.Value, error) {
	response, err := i.Client().Get(i.URL + "/keys")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the issuer answers %d", response.StatusCode)
	}
	return io.ReadAll(response.Body)
}

// Rotate replaces the keys.
func (i *Issuer) Rotate(keys ...Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// Publish adds entries to the JWK set: jose.JSONWebKey or JSON.
func (i *Issuer) Publish(more ...any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.more = more
}

// SetDown has the issuer answer nothing but 502.
func (i *Issuer) SetDown(down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = down
}

// First is the key that signs.
func (i *Issuer) First() Key {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys[0]
}

// Claims are those of a person for five minutes, changed by change; a nil value takes a claim out.
func (i *Issuer) Claims(subject string, groups []string, change map[string]any) map[string]any {
	now := time.Now()
	claims := map[string]any{"iss": i.URL, "aud": ClientID, "sub": subject, "groups": groups, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	maps.Copy(claims, change)
	for name, value := range claims {
		if value == nil {
			delete(claims, name)
		}
	}
	return claims
}

// Token is a token of Claims, signed by the first key.
func (i *Issuer) Token(subject string, groups []string, change map[string]any) string {
	i.t.Helper()
	return Sign(i.t, i.First(), "JWT", i.Claims(subject, groups, change))
}

// Sign signs claims.
func Sign(t testing.TB, k Key, kind string, claims map[string]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType(jose.ContentType(kind))
	if k.ID != "" {
		options = options.WithHeader("kid", k.ID)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.Algorithm, Key: k.Private}, options)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
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
