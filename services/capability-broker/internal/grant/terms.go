package grant

import (
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
)

// Bounds of terms.
const (
	maxUses = 1 << 53 // what every reader of JSON can hold
	maxRate = 60_000  // calls a minute; each principal's last so many are remembered
)

// Terms restrict a grant beyond its config. A field that is absent restricts nothing.
type Terms struct {
	MaxUses    *int64         `json:"max_uses,omitzero"`    // calls that may ever start
	RateLimit  *int           `json:"rate_limit,omitzero"`  // calls in a minute
	ArgsSchema jsontext.Value `json:"args_schema,omitzero"` // JSON Schema that a call's args must satisfy
	Handler    *HandlerRef    `json:"handler,omitzero"`     // which one, where several serve the permission
	Limits     *Limits        `json:"limits,omitzero"`      // of the handler's containers
	Mounts     []Mount        `json:"mounts,omitzero"`      // what the handler's containers see of the host
}

// HandlerRef names a handler by its pack and slug: whichever bytes are trusted under them. A new version of a handler needs an approval, but
// no new grants.
type HandlerRef struct {
	PackID string `json:"pack_id"`
	Slug   string `json:"slug"`
}

// String is pack/slug.
func (r HandlerRef) String() string { return r.PackID + "/" + r.Slug }

// check refuses terms that no grant may have. What depends on settings, on handlers or on the host is for Config.Checks.
func (t *Terms) check(permission string) error {
	switch {
	case t.MaxUses != nil && (*t.MaxUses < 1 || *t.MaxUses > maxUses):
		return fault.Invalid("Invalid max_uses: must be an integer of 1 or more").With("invalid_max_uses")
	case t.RateLimit != nil && (*t.RateLimit < 1 || *t.RateLimit > maxRate):
		return fault.Invalid("Invalid rate_limit: must be an integer from 1 to %d, in calls a minute", maxRate).With("invalid_rate_limit")
	}
	if t.Handler != nil {
		if _, err := pack.ParseID(t.Handler.PackID); err != nil || !slug.MatchString(t.Handler.Slug) {
			return fault.Invalid("Invalid handler: must have the 'pack_id' and the 'slug' of a handler").With("invalid_handler")
		}
	}
	if Reserved(permission) && (t.Handler != nil || t.Limits != nil || len(t.Mounts) > 0) {
		return fault.Invalid("Invalid grant: handler, limits and mounts are for permissions that handlers serve, '%s' is the broker's own", permission).With("invalid_grant")
	}
	if err := t.Limits.check(); err != nil {
		return err
	}
	return checkMounts(t.Mounts)
}

// describe adds what an audit entry says of the terms.
func (t *Terms) describe(details map[string]any) {
	if t.MaxUses != nil {
		details["max_uses"] = *t.MaxUses
	}
	if t.RateLimit != nil {
		details["rate_limit"] = *t.RateLimit
	}
	if t.ArgsSchema != nil {
		details["args_schema"] = true
	}
	if t.Handler != nil {
		details["handler"] = t.Handler.String()
	}
	if t.Limits != nil {
		details["limits"] = t.Limits
	}
	if len(t.Mounts) > 0 {
		details["mounts"] = t.Mounts
	}
}
