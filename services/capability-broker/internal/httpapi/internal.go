package httpapi

import (
	"context"

	api "github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/libs/pack"
)

// Remover takes everything there is of a pack, and gives its data back.
type Remover interface {
	Remove(ctx context.Context, packID string) (api.Removal, error)
	RestoreData(ctx context.Context, packID string) (api.RestoredData, error)
}

// removal answers what pack-registry asks.
type removal struct{ Remover }

func (r removal) remove(ctx context.Context, req api.PackRequest) (api.Removal, error) {
	if _, err := pack.ParseID(req.PackID); err != nil {
		return api.Removal{}, err
	}
	return r.Remove(ctx, req.PackID)
}

func (r removal) restoreData(ctx context.Context, req api.PackRequest) (api.RestoredData, error) {
	if _, err := pack.ParseID(req.PackID); err != nil {
		return api.RestoredData{}, err
	}
	return r.RestoreData(ctx, req.PackID)
}
