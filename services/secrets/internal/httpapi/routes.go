// Package httpapi is the HTTP side of the service secrets.
package httpapi

import (
	"context"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	api "github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/services/secrets/internal/vault"
)

// masked stands where a value would.
const masked = "********"

// Routes serves v. Operators list, set and delete through the gateway; values are for the capability broker alone.
func Routes(mux *server.Mux, v *vault.Vault) {
	s := secrets{v}
	mux.Route("GET /api/secrets", rpc.Handle(s.list), "gateway")
	mux.Route("POST /api/secrets/set", rpc.Handle(s.set), "gateway")
	mux.Route("POST /api/secrets/delete", rpc.Handle(s.delete), "gateway")
	mux.Route("POST "+api.ValuePath, rpc.Handle(s.value), "capability-broker")
}

type secrets struct{ vault *vault.Vault }

type listResponse struct {
	Keys  []listed `json:"keys"`
	Count int      `json:"count"`
}

type listed struct {
	Key       string     `json:"key"`
	Exists    bool       `json:"exists"`
	Deleted   bool       `json:"deleted"`
	CreatedAt *time.Time `json:"created_at"` // null where damaged
	UpdatedAt *time.Time `json:"updated_at"`
	DeletedAt time.Time  `json:"deleted_at,omitzero"`
	Masked    string     `json:"masked"`
	Damaged   bool       `json:"damaged,omitzero"`
}

func (s secrets) list(ctx context.Context, _ struct{}) (listResponse, error) {
	known, err := s.vault.List(ctx)
	if err != nil {
		return listResponse{}, err
	}
	answer := listResponse{Keys: make([]listed, 0, len(known)), Count: len(known)}
	for _, k := range known {
		one := listed{Key: k.Key, Exists: k.Exists(), Deleted: !k.DeletedAt.IsZero(), DeletedAt: k.DeletedAt, Masked: masked, Damaged: k.Damaged}
		if !k.Damaged {
			one.CreatedAt, one.UpdatedAt = &k.CreatedAt, &k.UpdatedAt
		}
		answer.Keys = append(answer.Keys, one)
	}
	return answer, nil
}

type setRequest struct {
	Key   string   `json:"key"`
	Value incoming `json:"value"`
}

// incoming is whatever stands at "value"; it keeps a string out of sight from the start.
type incoming struct {
	api.Value
	isString bool
}

// UnmarshalJSONFrom accepts any JSON value, so that a wrong type gets the answer that clients know.
func (v *incoming) UnmarshalJSONFrom(in *jsontext.Decoder) error {
	if in.PeekKind() != '"' {
		return in.SkipValue()
	}
	var text string
	if err := json.UnmarshalDecode(in, &text); err != nil {
		return err
	}
	v.Value, v.isString = api.NewValue(text), true
	return nil
}

type setResponse struct {
	Success bool   `json:"success"`
	Key     string `json:"key"`
	Created bool   `json:"created"`
}

func (s secrets) set(ctx context.Context, r setRequest) (setResponse, error) {
	key, err := vault.ParseKey(r.Key)
	if err != nil {
		return setResponse{}, err
	}
	if !r.Value.isString {
		return setResponse{}, fault.Invalid("'value' must be a string").With("invalid_value")
	}
	created, err := s.vault.Set(ctx, key, r.Value.Value)
	return setResponse{Success: true, Key: key, Created: created}, err
}

type deleteRequest struct {
	Key string `json:"key"`
}

type deleteResponse struct {
	Success bool   `json:"success"`
	Key     string `json:"key"`
}

func (s secrets) delete(ctx context.Context, r deleteRequest) (deleteResponse, error) {
	return deleteResponse{Success: true, Key: r.Key}, s.vault.Delete(ctx, r.Key)
}

func (s secrets) value(ctx context.Context, r api.ValueRequest) (api.ValueResponse, error) {
	value, err := s.vault.Value(ctx, r.Key)
	return api.ValueResponse{Value: api.Exposed{Value: value}}, err
}
