// Package grant decides which principal may use which permission, and on which terms.
//
// A principal is an approved pack, known by its socket. Grants are rows of the database; each replica decides by a copy of them in memory
// (Cache), which follows the database. A change is answered only after the database and this replica's copy have it; other replicas have it
// within 100 ms, or decide that nothing is allowed once they can't follow.
//
// A child of a pack (parent__child) has at most what its parents have. So a decision is always about a Chain: the grant of the principal and
// those of its parents. What no decision in memory can tell is whether a use is left, since replicas share the count: Cache.Use asks the
// database.
package grant

import (
	"regexp"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/schema"
)

const maxPermissionID = 128

// maxConfigBytes bounds a grant's config, which is copied into every call of a handler.
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
	Role         access.Role // of the person who granted it, by which the policy is applied; "" where it isn't known
	Terms        Terms
	Uses         int64 // calls that have started since GrantedAt, counted where Terms has MaxUses

	// What prepare computes.
	settings Settings
	sorted   jsontext.Value // Config with its names in order
	args     *schema.Schema // of Terms.ArgsSchema, nil for none
	usedUp   *atomic.Bool   // true once no use is left: uses never come back; nil where they have no bound
	unusable Reason         // not Allowed: why the grant allows nothing, whatever the rest says

	// What judge computes of the policy in force.
	suspended       *policy.Violation // the rule that the grant breaks; nil for none
	suspendedReason Reason            // for that rule; Allowed for none
	unasked         *Limits           // the most memory of a call whose grant names none, where that is less than the default; nil elsewhere
}

// Permissions are the permissions that the broker serves itself; builtin.Table is them.
type Permissions interface {
	// Parse reads the config of a permission's grant, a compact JSON object. The result is nil for a permission that handlers serve: only the
	// handler knows what its config means. A config that a permission of the broker's doesn't understand is a fault of KindInvalid.
	Parse(permission string, config jsontext.Value) (Settings, error)
}

// Settings are the config of a grant of one of the broker's own permissions, as Permissions.Parse has read it.
type Settings interface {
	// Details are the settings as the audit entry of the grant shows them. No secret may be among them.
	Details() map[string]any
	// Warning says why every call will be refused, such as for an empty list of keys; "" where some may be allowed.
	Warning() string
}

// Settings returns the grant's settings, nil for a permission that handlers serve.
func (g *Grant) Settings() Settings { return g.settings }

// Reason is why a principal may not use a permission, for the audit log and the operator; "" means it may.
type Reason string

// The reasons of a single grant. Chain adds to them the parent that they are about.
const (
	Allowed    Reason = ""
	None       Reason = "No capability grant for this permission"
	Disabled   Reason = "Capability grant is disabled"
	Expired    Reason = "Capability grant has expired"
	UsedUp     Reason = "Capability grant is used up"
	Unknown    Reason = "Capability grants can't be confirmed at the moment"
	Unreadable Reason = "Capability grant can't be read; grant it again"
	Suspended  Reason = "Capability grant is suspended by the policy" // followed by the rule
)

// Decide says whether the grant allows a call to start at the time now, as far as memory can tell: Cache.Use has the last word on uses.
func (g *Grant) Decide(now time.Time) Reason {
	if reason := g.inForce(now); reason != Allowed {
		return reason
	}
	if g.usedUp != nil && g.usedUp.Load() {
		return UsedUp
	}
	return Allowed
}

// inForce says whether the grant allows a call that has started to go on. That it is used up doesn't matter: this call may be its last use.
func (g *Grant) inForce(now time.Time) Reason {
	switch {
	case g.unusable != "":
		return g.unusable
	case !g.Enabled:
		return Disabled
	case g.expired(now):
		return Expired
	}
	return g.suspendedReason
}

func (g *Grant) expired(now time.Time) bool { return !g.ExpiresAt.IsZero() && !now.Before(g.ExpiresAt) }

// ReadTerms reads terms as they are stored. Unknown members were written by a newer version, and each may narrow the grant: ignoring one
// could allow what its operator forbade. So a grant with unknown members allows nothing.
func (g *Grant) ReadTerms(raw []byte) {
	if err := json.Unmarshal(raw, &g.Terms, json.RejectUnknownMembers(true)); err != nil {
		g.unusable = Unreadable
	}
}

// prepare checks a grant's config and terms, and computes what decisions need of them, so that a call doesn't have to. An empty config is {}.
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

// object returns a JSON object as it is stored, and with its names in order, which can be compared. An absent one is {}.
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
