// Package grant decides which principal may use which permission.
//
// A principal is an approved pack, known by its socket. Decisions are made from an immutable snapshot in memory; the
// store behind it is the truth, and a change is answered only after both have it.
package grant

import (
	"regexp"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/fault"
)

// SecretsGet is the one permission that the broker serves itself so far.
const SecretsGet = "secrets.get"

const maxPermissionID = 128

// Bounds of a grant's config, which is copied into every call of a handler.
const maxConfigBytes = 64 << 10

var (
	permissionID = regexp.MustCompile(`\A[a-z0-9_]+(\.[a-z0-9_]+)*\z`)
	secretKey    = regexp.MustCompile(`\A[A-Z0-9_]{1,64}\z`)
)

// ValidPermission says whether s may name a permission.
func ValidPermission(s string) bool { return len(s) <= maxPermissionID && permissionID.MatchString(s) }

// ValidSecretKey says whether s may name a secret.
func ValidSecretKey(s string) bool { return secretKey.MatchString(s) }

// Reserved says whether a permission belongs to the broker itself, so that no pack's handler may claim it.
func Reserved(permission string) bool {
	for _, prefix := range []string{"secrets.", "store."} {
		if len(permission) > len(prefix) && permission[:len(prefix)] == prefix {
			return true
		}
	}
	return false
}

// Grant is the right of one principal to use one permission. A revoked one stays, not enabled.
type Grant struct {
	PrincipalID  string
	PermissionID string
	Enabled      bool
	Config       jsontext.Value // an object; handed to the handler as context.grant_config
	ExpiresAt    time.Time      // zero: never
	GrantedAt    time.Time
	UpdatedAt    time.Time
	GrantedBy    string

	secretKeys map[string]bool // of SecretsGet, parsed once
}

// Reason is why a principal may not use a permission, for the audit log and the operator; "" means it may.
type Reason string

// The reasons.
const (
	Allowed  Reason = ""
	None     Reason = "No capability grant for this permission"
	Disabled Reason = "Capability grant is disabled"
	Expired  Reason = "Capability grant has expired"
)

// Judge says whether the grant allows its permission at the time now.
func (g *Grant) Judge(now time.Time) Reason {
	switch {
	case g == nil:
		return None
	case !g.Enabled:
		return Disabled
	case g.expired(now):
		return Expired
	}
	return Allowed
}

func (g *Grant) expired(now time.Time) bool { return !g.ExpiresAt.IsZero() && !now.Before(g.ExpiresAt) }

// AllowsSecret says whether a grant of secrets.get names the key. An empty or absent list names none.
func (g *Grant) AllowsSecret(key string) bool { return g.secretKeys[key] }

// secretsConfig is the config of secrets.get.
type secretsConfig struct {
	AllowedKeys []string `json:"allowed_keys"`
}

// parseConfig checks a config and prepares what decisions need of it. An empty raw is {}.
func (g *Grant) parseConfig(raw jsontext.Value) error {
	if len(raw) == 0 || raw.Kind() == 'n' {
		raw = jsontext.Value("{}")
	}
	if raw.Kind() != '{' {
		return fault.Invalid("'config' must be an object")
	}
	if len(raw) > maxConfigBytes {
		return fault.Invalid("Grant config too large (max: %d bytes)", maxConfigBytes)
	}
	g.Config = raw.Clone()
	g.secretKeys = nil
	if err := g.Config.Compact(); err != nil {
		return fault.Invalid("'config' must be an object").Because(err)
	}
	if g.PermissionID != SecretsGet {
		return nil
	}
	var c secretsConfig
	if err := json.Unmarshal(g.Config, &c, json.RejectUnknownMembers(true)); err != nil {
		return fault.Invalid("Invalid config for secrets.get: only 'allowed_keys', a list of strings, is known").Because(err)
	}
	g.secretKeys = make(map[string]bool, len(c.AllowedKeys))
	for _, key := range c.AllowedKeys {
		if !secretKey.MatchString(key) {
			return fault.Invalid("Invalid config for secrets.get: every key in 'allowed_keys' must match ^[A-Z0-9_]{1,64}$")
		}
		g.secretKeys[key] = true
	}
	return nil
}
