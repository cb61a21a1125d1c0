package httpapi

import (
	"context"

	api "github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

// Remover takes everything there is of a pack, and gives its data back.
type Remover interface {
	Remove(ctx context.Context, packID string) (api.Removal, error)
	RestoreData(ctx context.Context, packID string) (api.RestoredData, error)
}

// Internal serves what other services ask.
func Internal(mux *server.Mux, r Remover) {
	mux.Route("DELETE /internal/packs/{pack_id}", rpc.Handle(func(ctx context.Context, req packRequest) (api.Removal, error) {
		if _, err := pack.ParseID(req.PackID); err != nil {
			return api.Removal{}, err
		}
		return r.Remove(ctx, req.PackID)
	}), "pack-registry")
	mux.Route("POST /internal/packs/{pack_id}/data", rpc.Handle(func(ctx context.Context, req packRequest) (api.RestoredData, error) {
		if _, err := pack.ParseID(req.PackID); err != nil {
			return api.RestoredData{}, err
		}
		return r.RestoreData(ctx, req.PackID)
	}), "pack-registry")
}
