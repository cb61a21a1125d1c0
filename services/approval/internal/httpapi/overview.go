package httpapi

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
)

// overviewRequest may name one pack.
type overviewRequest struct {
	PackID string `json:"-" query:"pack_id"`
}

// summary is a pack without its files, for the gateway's lists: what it asks for lies there, and a list of all packs' files is long.
type summary struct {
	PackID      string           `json:"pack_id"`
	Status      string           `json:"status"`
	Undecided   bool             `json:"undecided"` // a person has to approve or reject it
	MayRun      bool             `json:"may_run"`
	Identity    string           `json:"pack_identity"`
	Version     string           `json:"version"`
	Description string           `json:"description"`
	CreatedAt   time.Time        `json:"created_at"`
	UpdatedAt   time.Time        `json:"updated_at"`
	ApprovedAt  *time.Time       `json:"approved_at"`
	Digest      *string          `json:"digest"`
	Error       *string          `json:"error"`
	Requested   record.Requested `json:"permissions_requested"`
}

// overview is of all packs, or of the one that is named; an unknown one is a not-found fault.
func (h routes) overview(ctx context.Context, req overviewRequest) ([]summary, error) {
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
	all := make([]summary, len(records))
	for i, r := range records {
		all[i] = summary{
			PackID: r.PackID, Status: string(r.Status), Undecided: r.Status.Undecided(), MayRun: h.service.MayRun(pack.ID(r.PackID)), Identity: r.Identity,
			Version: r.Version, Description: r.Description, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt, ApprovedAt: orNull(r.ApprovedAt),
			Digest: orNull(r.Digest), Error: orNull(r.LastError), Requested: r.Requested,
		}
	}
	return all, nil
}
