// Package httpapi answers the endpoints of api/secrets: it turns requests into calls of the vault and of the authority, and keys into answers.
package httpapi

import (
	"context"

	api "github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/identity/renewal"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/services/secrets/internal/authority"
	"github.com/rumi-ai/rumi/services/secrets/internal/vault"
)

// masked replaces values in answers.
const masked = "********"

// Serve answers the endpoints on mux.
func Serve(mux *server.Mux, v *vault.Vault, a *authority.Authority) error {
	s := secrets{v}
	h := route.NewHandlers(api.Routes)
	route.Handle(h, api.List, s.list)
	route.Handle(h, api.Set, s.set)
	route.Handle(h, api.Delete, s.delete)
	route.Handle(h, api.GetValue, s.value)
	c := certificates{a}
	route.HandleStream(h, renewal.Sign, c.sign)
	route.HandleRaw(h, renewal.Denied, c.denied)
	return h.Mount(mux)
}

type secrets struct{ vault *vault.Vault }

func (s secrets) list(ctx context.Context, _ struct{}) (api.ListResponse, error) {
	known, err := s.vault.List(ctx)
	if err != nil {
		return api.ListResponse{}, err
	}
	answer := api.ListResponse{Keys: make([]api.Listed, 0, len(known)), Count: len(known)}
	for _, k := range known {
		one := api.Listed{Key: k.Key, Exists: k.Exists(), Deleted: !k.DeletedAt.IsZero(), DeletedAt: k.DeletedAt, Masked: masked, Damaged: k.Damaged}
		if !k.Damaged {
			one.CreatedAt, one.UpdatedAt = &k.CreatedAt, &k.UpdatedAt
		}
		answer.Keys = append(answer.Keys, one)
	}
	return answer, nil
}

func (s secrets) set(ctx context.Context, r api.SetRequest) (api.SetResponse, error) {
	key, err := vault.ParseKey(r.Key)
	if err != nil {
		return api.SetResponse{}, err
	}
	if !r.Value.IsString {
		return api.SetResponse{}, fault.Invalid("'value' must be a string").With("invalid_value")
	}
	created, err := s.vault.Set(ctx, key, r.Value.Value)
	return api.SetResponse{Success: true, Key: key, Created: created}, err
}

func (s secrets) delete(ctx context.Context, r api.DeleteRequest) (api.DeleteResponse, error) {
	return api.DeleteResponse{Success: true, Key: r.Key}, s.vault.Delete(ctx, r.Key)
}

func (s secrets) value(ctx context.Context, r api.ValueRequest) (api.ValueResponse, error) {
	value, err := s.vault.Value(ctx, r.Key)
	return api.ValueResponse{Value: api.Exposed{Value: value}}, err
}
