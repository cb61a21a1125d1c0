package oidc

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	maxKeys = 100  // of an issuer; further ones are ignored
	minRSA  = 2048 // bits
)

// algorithms are those that a signature may have: with none, or with a secret that both sides know, whoever has the public key could sign.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// keySet is the keys of an issuer at a time. It is never changed.
type keySet struct {
	set  jsontext.Value // as it came
	at   time.Time      // when it was fetched
	keys []key
}

type key struct {
	jose.JSONWebKey
	print string // its thumbprint, by which it is known again whatever its id is
}

// parseKeys reads a JWK set. Keys that can't check a signature are left out: secret ones, those for encryption, kinds that aren't known.
func parseKeys(set jsontext.Value, at time.Time) (*keySet, error) {
	var listed struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(set, &listed); err != nil {
		return nil, errors.New("the issuer's keys are no JWK set")
	}
	parsed := &keySet{set: set, at: at}
	for _, raw := range listed.Keys {
		var k jose.JSONWebKey
		if len(parsed.keys) == maxKeys || k.UnmarshalJSON(raw) != nil || !k.Valid() || !k.IsPublic() || k.Use != "" && k.Use != "sig" {
			continue
		}
		if public, ok := k.Key.(*rsa.PublicKey); ok && public.N.BitLen() < minRSA {
			continue
		}
		print, err := thumbprint(k)
		if err != nil {
			continue
		}
		parsed.keys = append(parsed.keys, key{k, print})
	}
	if len(parsed.keys) == 0 {
		return nil, errors.New("the issuer's JWK set has no key for signatures (RSA of 2048 bits or more, EC or Ed25519)")
	}
	return parsed, nil
}

// candidates are the keys that a header may mean: those of its id, or all where it has none.
func (s *keySet) candidates(id string) []key {
	if s == nil {
		return nil
	}
	if id == "" {
		return s.keys
	}
	var found []key
	for _, k := range s.keys {
		if k.KeyID == id {
			found = append(found, k)
		}
	}
	return found
}

// has says whether a key is still among them.
func (s *keySet) has(print string) bool {
	for _, k := range s.keys {
		if k.print == print {
			return true
		}
	}
	return false
}

// signature is a go-oidc KeySet over cached keys: it asks nobody. It is for one token.
type signature struct {
	keys  []key
	print string // of the key that fitted
}

// VerifySignature implements go-oidc's KeySet.
func (s *signature) VerifySignature(_ context.Context, token string) ([]byte, error) {
	signed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return nil, fmt.Errorf("read token: %w", err)
	}
	for _, k := range s.keys {
		if k.Algorithm != "" && k.Algorithm != signed.Signatures[0].Header.Algorithm {
			continue
		}
		if payload, err := signed.Verify(k.JSONWebKey.Key); err == nil {
			s.print = k.print
			return payload, nil
		}
	}
	return nil, errors.New("no key of the issuer fits the signature")
}
