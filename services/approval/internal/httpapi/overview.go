package httpapi

import (
	"context"

	api "github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
)

// overview is of all packs, or of the one that is named; an unknown one is a not-found fault.
func (h routes) overview(ctx context.Context, req api.OverviewRequest) ([]api.Summary, error) {
	var records []*record.Record
	if req.PackID != "" {
		id, err := pack.ParseID(req.PackID)
		if err != nil {
			return nil, err
		}
		details, err := h.service.Details(ctx, id)
		if err != nil {
			return nil, err
		}
		records = []*record.Record{details.Record}
	} else {
		var err error
		if records, err = h.service.List(ctx); err != nil {
			return nil, err
		}
	}
	all := make([]api.Summary, len(records))
	for i, r := range records {
		all[i] = api.Summary{
			PackID: r.PackID, Status: r.Status, Undecided: r.Status.Undecided(), MayRun: h.service.MayRun(pack.ID(r.PackID)), Identity: r.Identity,
			Version: r.Version, Description: r.Description, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt, ApprovedAt: orNull(r.ApprovedAt),
			Digest: orNull(r.Digest), Error: orNull(r.LastError), Requested: api.Requested(r.Requested),
			Confirmation: h.service.Confirmation(r),
		}
	}
	return all, nil
}
