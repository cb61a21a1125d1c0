package builtin

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/kv"
)

// Bounds of store.*. An answer has 1 MiB in all (contract.md, "Sockets"): what may be written can also be read.
const (
	maxValueBytes = 1 << 20   // what a grant may say
	answerRest    = 1 << 10   // of an answer, beside its value
	maxBatchKeys  = 100       // keys of a store.batch_get
	maxBatchBytes = 900 << 10 // values of a store.batch_get together; the rest is for keys
	maxListKeys   = 1000      // keys of a page: with maxStoreKey, half of what an answer has
	maxStoreKey   = 512       // bytes
)

var (
	storeID  = regexp.MustCompile(`\A[a-zA-Z0-9_.:-]{1,128}\z`)
	storeKey = regexp.MustCompile(`\A[a-zA-Z0-9_/.:-]*\z`)
)

// Values are the values of all stores; *store.Values is them.
type Values interface {
	// Get returns a value; found says whether there is one.
	Get(ctx context.Context, key kv.Key) (value jsontext.Value, found bool, err error)
	// Set writes a value for the pack by, and says whether its key is new. kv.ErrFull: nothing was written.
	Set(ctx context.Context, key kv.Key, value jsontext.Value, by string) (created bool, err error)
	// Swap writes value if the present one is the same as expected (kv.Same), where null is also the same as none. Otherwise current is the
	// present one, nil for none.
	Swap(ctx context.Context, key kv.Key, expected, value jsontext.Value, by string) (swapped bool, current jsontext.Value, err error)
	// Delete deletes a value and says whether there was one.
	Delete(ctx context.Context, key kv.Key) (deleted bool, err error)
	// List returns up to limit names of a store that begin with prefix and come after the name after, "" for the first ones.
	List(ctx context.Context, storeID, prefix, after string, limit int) (kv.Page, error)
	// Batch returns the values of several keys, as of one moment, as long as they are at most budget bytes together; left are the keys of
	// the values beyond that.
	Batch(ctx context.Context, storeID string, keys []string, budget int) (found map[string]jsontext.Value, left []string, err error)
}

// storeTerms is the config of a grant of store.*. An empty list of stores allows none.
type storeTerms struct {
	stores   map[string]bool
	maxValue int // bytes
}

// Warning implements grant.Settings.
func (t storeTerms) Warning() string {
	if len(t.stores) == 0 {
		return "config names no allowed_store_ids: every call is refused"
	}
	return ""
}

// Details implements grant.Settings.
func (t storeTerms) Details() map[string]any {
	return map[string]any{"allowed_store_ids": slices.Sorted(maps.Keys(t.stores)), "max_value_bytes": t.maxValue}
}

func parseStoreTerms(permission string) func(jsontext.Value) (grant.Settings, error) {
	return func(config jsontext.Value) (grant.Settings, error) {
		c := struct {
			AllowedStoreIDs []string `json:"allowed_store_ids"`
			MaxValueBytes   int      `json:"max_value_bytes"`
		}{MaxValueBytes: maxValueBytes}
		if err := json.Unmarshal(config, &c, json.RejectUnknownMembers(true)); err != nil {
			return nil, fault.Invalid("Invalid config for %s: only 'allowed_store_ids', a list of strings, and 'max_value_bytes', an integer, are known", permission).With("invalid_config").Because(err)
		}
		if c.MaxValueBytes < 1 || c.MaxValueBytes > maxValueBytes {
			return nil, fault.Invalid("Invalid config for %s: 'max_value_bytes' must be from 1 to %d", permission, maxValueBytes).With("invalid_config")
		}
		terms := storeTerms{stores: make(map[string]bool, len(c.AllowedStoreIDs)), maxValue: min(c.MaxValueBytes, maxValueBytes-answerRest)}
		for _, id := range c.AllowedStoreIDs {
			if !storeID.MatchString(id) {
				return nil, fault.Invalid("Invalid config for %s: every id in 'allowed_store_ids' must match ^[a-zA-Z0-9_.:-]{1,128}$", permission).With("invalid_config")
			}
			terms.stores[id] = true
		}
		return terms, nil
	}
}

// storeArgs are the arguments of all permissions of store.*; each reads those that it has.
type storeArgs struct {
	StoreID  string         `json:"store_id"`
	Key      string         `json:"key"`
	Value    jsontext.Value `json:"value"`
	Expected jsontext.Value `json:"expected_value"`
	New      jsontext.Value `json:"new_value"`
	Keys     []string       `json:"keys"`
	Prefix   string         `json:"prefix"`
	Limit    *int           `json:"limit"`
	Cursor   string         `json:"cursor"`
}

func (a *storeArgs) key() kv.Key { return kv.Key{StoreID: a.StoreID, Name: a.Key} }

// storeCall is a call of store.* whose grants allow its store.
type storeCall struct {
	Call
	args     storeArgs
	maxValue int // bytes, the least of the grants'
	values   Values
}

// Stores are store.get, set, delete, list, batch_get and cas.
func Stores(values Values, log *slog.Logger) []*Permission {
	var list []*Permission
	for id, prepare := range map[string]func(*storeCall) (Act, *Refusal){
		"store.get": (*storeCall).get, "store.set": (*storeCall).set, "store.delete": (*storeCall).delete,
		"store.list": (*storeCall).list, "store.batch_get": (*storeCall).batchGet, "store.cas": (*storeCall).cas,
	} {
		list = append(list, &Permission{
			ID: id, Action: "permission_execute", Parse: parseStoreTerms(id),
			Decide: func(c Call) (Act, *Refusal) {
				s, no := newStoreCall(c, values)
				if no != nil {
					return nil, no
				}
				act, no := prepare(s)
				if no != nil {
					return nil, no
				}
				return func(ctx context.Context) (jsontext.Value, *Refusal) {
					output, no := act(ctx)
					if no != nil && no.err != nil {
						log.ErrorContext(ctx, "values of store.* could not be read or written, so a pack's call has failed", "permission_id", id, "error", no.err)
					}
					return output, no
				}, nil
			},
		})
	}
	return list
}

func newStoreCall(c Call, values Values) (*storeCall, *Refusal) {
	s := &storeCall{Call: c, maxValue: maxValueBytes, values: values}
	if err := json.Unmarshal(c.Args, &s.args); err != nil {
		if wrong, ok := errors.AsType[*json.SemanticError](err); ok {
			field, _, _ := strings.Cut(strings.TrimPrefix(string(wrong.JSONPointer), "/"), "/")
			return nil, invalid("Invalid value for '%s'", field)
		}
		return nil, invalid("Invalid args")
	}
	if !storeID.MatchString(s.args.StoreID) {
		return nil, invalid("Missing or invalid store_id")
	}
	for i, g := range c.Grants {
		terms := g.Settings().(storeTerms)
		s.maxValue = min(s.maxValue, terms.maxValue)
		switch {
		case terms.stores[s.args.StoreID]:
		case i == 0:
			return nil, &Refusal{Kind: NotGranted, Reason: "Store is not in allowed_store_ids"}
		default:
			return nil, &Refusal{Kind: NotGranted, Reason: "Store is not in allowed_store_ids of the parent " + g.PrincipalID}
		}
	}
	c.Details["store_id"] = s.args.StoreID // a grant names it, so it is no text of the pack's
	return s, nil
}

func invalid(format string, args ...any) *Refusal {
	text := fmt.Sprintf(format, args...)
	return &Refusal{Kind: Invalid, Text: text, Reason: text}
}

// validKey says whether a key may name a value: it must be what could be a path within a folder, so that it is safe wherever it is used.
func validKey(key string) bool {
	return key != "" && len(key) <= maxStoreKey && storeKey.MatchString(key) && key[0] != '/' && key[len(key)-1] != '/' &&
		!slices.Contains(strings.Split(key, "/"), "..")
}

func (s *storeCall) checkKey() *Refusal {
	if !validKey(s.args.Key) {
		return invalid("Missing or invalid key")
	}
	return nil
}

// compact returns a value as it is stored, or refuses one that is larger than the grants allow.
func (s *storeCall) compact(field string, v jsontext.Value) (jsontext.Value, *Refusal) {
	if len(v) == 0 {
		return nil, invalid("Missing '%s'", field)
	}
	v = v.Clone()
	if err := v.Compact(); err != nil {
		return nil, invalid("Invalid value for '%s'", field)
	}
	s.Details["bytes"] = len(v)
	if len(v) > s.maxValue {
		return nil, &Refusal{Kind: TooLarge, Reason: "The value is too large",
			Output: failure(TooLarge, fmt.Sprintf("Value too large (max %d bytes)", s.maxValue), nil)}
	}
	return v, nil
}

// storeOutput is the output of a call of store.*, whether it succeeded or not.
type storeOutput struct {
	Success bool   `json:"success"`
	Error   string `json:"error,omitzero"`
	Type    Kind   `json:"error_type,omitzero"`

	StoreID string         `json:"store_id,omitzero"`
	Key     string         `json:"key,omitzero"`
	Value   jsontext.Value `json:"value,omitzero"`
	Current jsontext.Value `json:"current_value,omitzero"`
	Created *bool          `json:"created,omitzero"`
	Deleted *bool          `json:"deleted,omitzero"`

	Keys       []string                  `json:"keys,omitzero"`
	NextCursor jsontext.Value            `json:"next_cursor,omitzero"`
	HasMore    *bool                     `json:"has_more,omitzero"`
	Total      *int64                    `json:"total_estimate,omitzero"`
	Results    map[string]jsontext.Value `json:"results,omitzero"`
	Found      *int                      `json:"found,omitzero"`
	NotFound   *int                      `json:"not_found,omitzero"`
	Truncated  *bool                     `json:"truncated,omitzero"`
	Remaining  []string                  `json:"remaining,omitzero"`
}

// failure is the output of a call that did not succeed.
func failure(kind Kind, text string, current jsontext.Value) jsontext.Value {
	output, _ := encodeOutput(storeOutput{Error: text, Type: kind, Current: current})
	return output
}

func encodeOutput(o storeOutput) (jsontext.Value, *Refusal) {
	output, err := json.Marshal(o)
	if err != nil {
		return nil, &Refusal{Kind: Failed, Reason: "The store's value can't be encoded", err: err}
	}
	return output, nil
}

// refusalOf turns an error of Values into what the pack and the log read.
func refusalOf(err error) *Refusal {
	switch {
	case errors.Is(err, kv.ErrFull):
		return &Refusal{Kind: Full, Reason: "The store is full", Output: failure(Full, "The store is full", nil)}
	case errors.Is(err, context.DeadlineExceeded):
		return &Refusal{Kind: TimedOut, Reason: "The store did not answer in time"}
	case errors.Is(err, context.Canceled):
		return &Refusal{Kind: Failed, Reason: "The call was cancelled"}
	}
	return &Refusal{Kind: Failed, Reason: "The store could not be used", err: err}
}

// result is the output of a call that was carried out, but found no value or another one. The audit entry has the result.
func (s *storeCall) result(kind Kind, text string, current jsontext.Value) (jsontext.Value, *Refusal) {
	s.Details["result"] = string(kind)
	return failure(kind, text, current), nil
}

func (s *storeCall) get() (Act, *Refusal) {
	if no := s.checkKey(); no != nil {
		return nil, no
	}
	return func(ctx context.Context) (jsontext.Value, *Refusal) {
		value, found, err := s.values.Get(ctx, s.args.key())
		switch {
		case err != nil:
			return nil, refusalOf(err)
		case !found:
			return s.result(NoKey, "Key not found", nil)
		}
		return encodeOutput(storeOutput{Success: true, Value: value})
	}, nil
}

func (s *storeCall) set() (Act, *Refusal) {
	if no := s.checkKey(); no != nil {
		return nil, no
	}
	value, no := s.compact("value", s.args.Value)
	if no != nil {
		return nil, no
	}
	return func(ctx context.Context) (jsontext.Value, *Refusal) {
		created, err := s.values.Set(ctx, s.args.key(), value, s.Principal)
		if err != nil {
			return nil, refusalOf(err)
		}
		return encodeOutput(storeOutput{Success: true, StoreID: s.args.StoreID, Key: s.args.Key, Created: &created})
	}, nil
}

func (s *storeCall) delete() (Act, *Refusal) {
	if no := s.checkKey(); no != nil {
		return nil, no
	}
	return func(ctx context.Context) (jsontext.Value, *Refusal) {
		deleted, err := s.values.Delete(ctx, s.args.key())
		if err != nil {
			return nil, refusalOf(err)
		}
		return encodeOutput(storeOutput{Success: true, StoreID: s.args.StoreID, Key: s.args.Key, Deleted: &deleted})
	}, nil
}

func (s *storeCall) cas() (Act, *Refusal) {
	if no := s.checkKey(); no != nil {
		return nil, no
	}
	value, no := s.compact("new_value", s.args.New)
	if no != nil {
		return nil, no
	}
	expected := s.args.Expected
	if len(expected) == 0 {
		expected = jsontext.Value("null")
	}
	return func(ctx context.Context) (jsontext.Value, *Refusal) {
		swapped, current, err := s.values.Swap(ctx, s.args.key(), expected, value, s.Principal)
		switch {
		case err != nil:
			return nil, refusalOf(err)
		case swapped:
			return encodeOutput(storeOutput{Success: true, StoreID: s.args.StoreID, Key: s.args.Key})
		case current == nil:
			current = jsontext.Value("null")
		}
		return s.result(Conflict, "The value is another than expected_value", current)
	}, nil
}

func (s *storeCall) list() (Act, *Refusal) {
	if len(s.args.Prefix) > maxStoreKey || !storeKey.MatchString(s.args.Prefix) {
		return nil, invalid("Invalid prefix")
	}
	limit := maxListKeys
	if s.args.Limit != nil {
		if limit = min(*s.args.Limit, maxListKeys); limit < 1 {
			return nil, invalid("Invalid limit")
		}
	}
	after, err := base64.RawURLEncoding.DecodeString(s.args.Cursor)
	if err != nil || len(after) > maxStoreKey || !storeKey.Match(after) {
		return nil, invalid("Invalid cursor")
	}
	return func(ctx context.Context) (jsontext.Value, *Refusal) {
		page, err := s.values.List(ctx, s.args.StoreID, s.args.Prefix, string(after), limit)
		if err != nil {
			return nil, refusalOf(err)
		}
		s.Details["keys"] = len(page.Keys)
		next := jsontext.Value("null")
		if page.More {
			next = jsontext.Value(`"` + base64.RawURLEncoding.EncodeToString([]byte(page.Keys[len(page.Keys)-1])) + `"`)
		}
		return encodeOutput(storeOutput{Success: true, Keys: page.Keys, NextCursor: next, HasMore: &page.More, Total: &page.Total})
	}, nil
}

func (s *storeCall) batchGet() (Act, *Refusal) {
	if n := len(s.args.Keys); n == 0 || n > maxBatchKeys {
		return nil, invalid("'keys' must be a list of 1 to %d keys", maxBatchKeys)
	}
	var keys []string // each once
	asked := make(map[string]bool)
	for _, key := range s.args.Keys {
		if !validKey(key) {
			return nil, invalid("Invalid key in 'keys'")
		}
		if !asked[key] {
			asked[key], keys = true, append(keys, key)
		}
	}
	return func(ctx context.Context) (jsontext.Value, *Refusal) {
		results, left, err := s.values.Batch(ctx, s.args.StoreID, keys, maxBatchBytes)
		if err != nil {
			return nil, refusalOf(err)
		}
		found := len(results)
		missing, truncated := len(keys)-found-len(left), len(left) > 0
		s.Details["keys"], s.Details["found"] = len(keys), found
		for _, key := range keys {
			if results[key] == nil && !slices.Contains(left, key) {
				results[key] = jsontext.Value("null")
			}
		}
		return encodeOutput(storeOutput{Success: true, Results: results, Found: &found, NotFound: &missing, Truncated: &truncated, Remaining: left})
	}, nil
}
