// Package builtin has the permissions that the broker serves itself, secrets.get and store.*. A call of one needs a grant, but no handler.
//
// A permission is data: its name, how the config of its grants is read, how a call is decided about and carried out. Nothing outside this
// package knows any of them by name.
package builtin

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
)

// Permission is a permission that the broker serves itself.
type Permission struct {
	ID     string
	Action string // of the audit entries of its calls
	Rate   int    // calls a minute of one principal, denied ones included; 0 for any number

	// Parse reads the config of a grant, a compact object, strictly. What it doesn't know is a fault of KindInvalid that names it: a member
	// that was ignored might have been meant to restrict the grant.
	Parse func(config jsontext.Value) (grant.Settings, error)
	// Decide says whether every grant of the call allows its arguments. It has no effect yet: the Act that it returns carries the call out,
	// once a use is counted.
	Decide func(c Call) (Act, *Refusal)
}

// Call is a call that gate, grants and rates allow.
type Call struct {
	Principal string
	RequestID string
	Args      jsontext.Value // an object
	// Grants are the principal's own and those of its parents, nearest first. Each has the Settings that Parse returned,
	// and each must allow the call.
	Grants grant.Chain
	// Details are those of the call's audit entry. Decide and Act may add names to them, such as of a key, never values.
	Details map[string]any
	// Prewrite may be called by Act, once, while another service does what takes long and will hardly fail. It writes the audit entry of a
	// success and returns when that is on the disk. Nothing may be added to Details from then on: the entry has them.
	Prewrite func(ctx context.Context)
}

// Act carries a call out. Its output is a JSON value.
type Act func(ctx context.Context) (jsontext.Value, *Refusal)

// Kind is the error_type of a call's answer.
type Kind string

// The kinds of refusals, without an Output.
const (
	Invalid    Kind = "validation_error"
	NotGranted Kind = "grant_denied"
	Failed     Kind = "execution_error"
	TimedOut   Kind = "timeout"
)

// The kinds of refusals with an Output, which has the kind as its error_type, and of outputs that say what was found instead.
const (
	Denied   Kind = "access_denied"
	TooLarge Kind = "payload_too_large"
	Full     Kind = "quota_exceeded"
	NoKey    Kind = "key_not_found"
	Conflict Kind = "conflict"
)

// Refusal is a call that was not carried out or did not succeed.
type Refusal struct {
	Kind   Kind
	Text   string         // what the pack reads, "" for the kind's own text
	Reason string         // for the audit log; the pack never sees it, and no argument's value is in it
	Output jsontext.Value // not nil: the pack reads a success with this output, which tells what is refused

	err error // for the service's log
}

// Table has the broker's own permissions by name. It implements grant.Permissions.
type Table map[string]*Permission

// NewTable makes a table of permissions with different names.
func NewTable(list ...*Permission) Table {
	t := make(Table, len(list))
	for _, p := range list {
		t[p.ID] = p
	}
	return t
}

// Parse implements grant.Permissions. The settings are nil for a permission that handlers serve.
func (t Table) Parse(permission string, config jsontext.Value) (grant.Settings, error) {
	if p := t[permission]; p != nil {
		return p.Parse(config)
	}
	if grant.Reserved(permission) {
		known := strings.Join(slices.Sorted(maps.Keys(t)), ", ")
		return nil, fault.Invalid("Unknown permission_id: '%s' is none of the broker's own (%s)", permission, known).With("unknown_permission_id")
	}
	return nil, nil
}
