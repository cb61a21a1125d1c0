package builtin

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
)

var secretKey = regexp.MustCompile(`\A[A-Z0-9_]{1,64}\z`)

// Secrets are the values that the service secrets has; peers.Secrets is them.
type Secrets interface {
	// Value returns a secret's value; a missing one is a not-found fault. It calls asked, at most once, when the request is sent and the answer
	// is still to come.
	Value(ctx context.Context, key string, asked func()) (string, error)
}

// secretKeys are the keys that a grant of secrets.get names. An empty set allows none.
type secretKeys map[string]bool

// Details implements grant.Settings. The names of secrets may be in the audit log; their values never are.
func (k secretKeys) Details() map[string]any {
	return map[string]any{"allowed_keys": slices.Sorted(maps.Keys(k))}
}

// Warning implements grant.Settings.
func (k secretKeys) Warning() string {
	if len(k) == 0 {
		return "config names no allowed_keys: every call is refused"
	}
	return ""
}

func parseSecretKeys(config jsontext.Value) (grant.Settings, error) {
	var c struct {
		AllowedKeys []string `json:"allowed_keys"`
	}
	if err := json.Unmarshal(config, &c, json.RejectUnknownMembers(true)); err != nil {
		return nil, fault.Invalid("Invalid config for secrets.get: only 'allowed_keys', a list of strings, is known").With("invalid_config").Because(err)
	}
	keys := make(secretKeys, len(c.AllowedKeys))
	for _, key := range c.AllowedKeys {
		if !secretKey.MatchString(key) {
			return nil, fault.Invalid("Invalid config for secrets.get: every key in 'allowed_keys' must match ^[A-Z0-9_]{1,64}$").With("invalid_config")
		}
		keys[key] = true
	}
	return keys, nil
}

// SecretsGet is secrets.get: it returns the value of a secret that the grants name, at most rate times a minute. Denied calls count, too: the
// rate is also what keeps a pack from trying names.
func SecretsGet(secrets Secrets, rate int, log *slog.Logger) *Permission {
	// served has the keys that had a value when they were last asked for. Only for these is a success likely enough to write its audit entry
	// ahead. It can't grow without bounds: keys are named by grants.
	var served sync.Map
	return &Permission{
		ID: "secrets.get", Action: "permission_secrets_get", Rate: rate, Parse: parseSecretKeys,
		Decide: func(c Call) (Act, *Refusal) {
			var args struct {
				Key string `json:"key"`
			}
			if err := json.Unmarshal(c.Args, &args); err != nil {
				return nil, &Refusal{Kind: Invalid, Text: "'key' must be a string", Reason: "args can't be read"}
			}
			if !secretKey.MatchString(args.Key) {
				return nil, withheld("The key is not a valid name")
			}
			c.Details["key"] = args.Key
			for i, g := range c.Grants {
				switch {
				case g.Settings().(secretKeys)[args.Key]:
				case i == 0:
					return nil, withheld("Key is not in allowed_keys")
				default:
					return nil, withheld("Key is not in allowed_keys of the parent " + g.PrincipalID)
				}
			}
			return func(ctx context.Context) (jsontext.Value, *Refusal) {
				_, likely := served.Load(args.Key)
				output, no := secret(ctx, secrets, args.Key, func() {
					if likely {
						c.Prewrite(ctx)
					}
				}, log)
				switch {
				case no != nil:
					served.Delete(args.Key)
				case !likely:
					served.Store(args.Key, nil)
				}
				return output, no
			}, nil
		},
	}
}

// withheld is the answer without a value. A key that isn't granted and one that doesn't exist have the same answer, so that a pack can't find
// out which secrets there are.
func withheld(reason string) *Refusal {
	return &Refusal{Kind: Denied, Reason: reason,
		Output: jsontext.Value(`{"success":false,"error":"Access denied or secret not found","error_type":"access_denied"}`)}
}

type secretOutput struct {
	Success bool   `json:"success"`
	Value   string `json:"value"`
}

func secret(ctx context.Context, secrets Secrets, key string, asked func(), log *slog.Logger) (jsontext.Value, *Refusal) {
	value, err := secrets.Value(ctx, key, asked)
	switch {
	case fault.Is(err, fault.KindNotFound):
		return nil, withheld("No such secret")
	case errors.Is(err, context.DeadlineExceeded):
		return nil, &Refusal{Kind: TimedOut, Reason: "secrets did not answer in time"}
	case errors.Is(err, context.Canceled):
		return nil, &Refusal{Kind: Failed, Reason: "The call was cancelled"}
	case err != nil:
		log.ErrorContext(ctx, "a secret could not be fetched from the service secrets, so a pack's call has failed", "key", key, "error", err)
		return nil, &Refusal{Kind: Failed, Reason: "secrets did not answer"}
	}
	output, err := json.Marshal(secretOutput{Success: true, Value: value}, jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil, &Refusal{Kind: Failed, Reason: "The value can't be encoded"}
	}
	return output, nil
}
