// Package grant decides which principal may use which permission.
//
// A principal is an approved pack, known by its socket. Decisions are made from an immutable snapshot in memory; the
// store behind it is the truth, and a change is answered only after both have it.
package grant

import (
	"regexp"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/schema"
)

const maxPermissionID = 128

// Bounds of a grant's config, which is copied into every call of a handler.
const maxConfigBytes = 64 << 10

var (
	permissionID = regexp.MustCompile(`\A[a-z0-9_]+(\.[a-z0-9_]+)*\z`)
	slug         = regexp.MustCompile(`\A[a-zA-Z0-9_-]{1,64}\z`)
)

// ValidPermission says whether s may name a permission.
func ValidPermission(s string) bool { return len(s) <= maxPermissionID && permissionID.MatchString(s) }

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
	Terms        Terms
	Uses         int64 // calls that have started since GrantedAt, counted where Terms has MaxUses

	// What decisions need of Config, prepared once.
	settings Settings
	sorted   jsontext.Value // Config with its names in order
	args     *schema.Schema // of Terms.ArgsSchema
	usedUp   *atomic.Bool   // all uses are known to have been made; they never come back
	unusable Reason         // why nothing is allowed, whatever the rest says
}

// Permissions are those that the broker serves itself.
type Permissions interface {
	// Parse reads the config of a permission's grant, a compact object. It is nil for a permission that handlers serve. A
	// config that the permission doesn't know is a fault of KindInvalid.
	Parse(permission string, config jsontext.Value) (Settings, error)
}

// Settings are the config of a grant of one of the broker's own permissions, as its parser understands it.
type Settings interface {
	// Details is what an audit entry of the grant says of it.
	Details() map[string]any
	// Warning says why every call is refused, "" where that isn't so.
	Warning() string
}

// Settings are nil for a permission that handlers serve.
func (g *Grant) Settings() Settings { return g.settings }

// Reason is why a principal may not use a permission, for the audit log and the operator; "" means it may.
type Reason string

// The reasons.
const (
	Allowed    Reason = ""
	None       Reason = "No capability grant for this permission"
	Disabled   Reason = "Capability grant is disabled"
	Expired    Reason = "Capability grant has expired"
	UsedUp     Reason = "Capability grant is used up"
	Unknown    Reason = "Capability grants can't be confirmed at the moment"
	Unreadable Reason = "Capability grant can't be read; grant it again"
)

// Decide says whether the grant allows its permission at the time now.
func (g *Grant) Decide(now time.Time) Reason {
	if reason := g.inForce(now); reason != Allowed {
		return reason
	}
	if g.usedUp != nil && g.usedUp.Load() {
		return UsedUp
	}
	return Allowed
}

// inForce is Decide for a call that has started: whether another may start is no matter.
func (g *Grant) inForce(now time.Time) Reason {
	switch {
	case g.unusable != "":
		return g.unusable
	case !g.Enabled:
		return Disabled
	case g.expired(now):
		return Expired
	}
	return Allowed
}

func (g *Grant) expired(now time.Time) bool { return !g.ExpiresAt.IsZero() && !now.Before(g.ExpiresAt) }

// ReadTerms takes over terms as they were stored. What this version doesn't understand narrows all the same: the grant
// allows nothing.
func (g *Grant) ReadTerms(raw []byte) {
	if err := json.Unmarshal(raw, &g.Terms, json.RejectUnknownMembers(true)); err != nil {
		g.unusable = Unreadable
	}
}

// prepare checks a grant's config and terms and keeps what decisions need of them. An empty config is {}.
func (g *Grant) prepare(own Permissions, compile func(jsontext.Value) (*schema.Schema, error)) (err error) {
	if g.Config, g.sorted, err = object("config", g.Config, maxConfigBytes); err != nil {
		return err
	}
	if g.settings, err = own.Parse(g.PermissionID, g.Config); err != nil {
		return err
	}
	if err := g.Terms.check(g.PermissionID); err != nil {
		return err
	}
	if g.Terms.MaxUses != nil {
		g.usedUp = new(atomic.Bool)
		g.usedUp.Store(g.Uses >= *g.Terms.MaxUses)
	}
	if len(g.Terms.ArgsSchema) == 0 || g.Terms.ArgsSchema.Kind() == 'n' {
		g.Terms.ArgsSchema = nil
		return nil
	}
	if g.Terms.ArgsSchema, _, err = object("args_schema", g.Terms.ArgsSchema, schema.MaxBytes); err != nil {
		return err
	}
	if g.args, err = compile(g.Terms.ArgsSchema); err != nil {
		return fault.Invalid("Invalid args_schema: %v", err).With("invalid_args_schema")
	}
	return nil
}

// object gives an object as it is kept, and with its names in order. An absent one is {}.
func object(field string, raw jsontext.Value, limit int) (compact, sorted jsontext.Value, err error) {
	if len(raw) == 0 || raw.Kind() == 'n' {
		raw = jsontext.Value("{}")
	}
	if raw.Kind() != '{' {
		return nil, nil, fault.Invalid("'%s' must be an object", field).With("invalid_field")
	}
	if len(raw) > limit {
		return nil, nil, fault.Invalid("Grant %s too large (max: %d bytes)", field, limit).With("grant_too_large")
	}
	compact = raw.Clone()
	if err := compact.Compact(); err != nil {
		return nil, nil, fault.Invalid("'%s' must be an object", field).With("invalid_field").Because(err)
	}
	sorted = compact.Clone()
	if err := sorted.Format(jsontext.ReorderRawObjects(true)); err != nil {
		return nil, nil, fault.Invalid("'%s' must be an object", field).With("invalid_field").Because(err)
	}
	return compact, sorted, nil
}
