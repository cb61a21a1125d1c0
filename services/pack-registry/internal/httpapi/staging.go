package httpapi

import (
	"context"
	"fmt"

	api "github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/ecosystem"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
)

func summary(st staging.Staging, files int, bytes int64) api.StagingSummary {
	s := api.StagingSummary{
		StagingID: st.ID, StagingDir: stagingDir(st.ID), CreatedAt: st.CreatedAt, ExpiresAt: st.CreatedAt.Add(staging.Lifetime),
		InputType: st.InputType, SourcePath: st.SourcePath, DetectedPackIDs: staging.PackIDs(st), IsMultiPack: st.Multi,
		Notes: st.Notes, Actor: st.Actor, Files: files, Bytes: bytes, Warnings: st.Warnings,
	}
	if st.Err != nil {
		s.Error = "The record of this import can't be read. Discard it and import again"
	}
	return s
}

func (p Packs) listStagings(ctx context.Context, _ struct{}) ([]api.StagingSummary, error) {
	all, err := p.Stages.List(ctx)
	if err != nil {
		return nil, err
	}
	response := make([]api.StagingSummary, 0, len(all))
	for _, st := range all {
		response = append(response, summary(st.Staging, st.Files, st.Bytes))
	}
	return response, nil
}

func (p Packs) inspectStaging(ctx context.Context, r api.StagingRequest) (api.StagingResponse, error) {
	id, err := staging.ParseID(r.StagingID)
	if err != nil {
		return api.StagingResponse{}, err
	}
	st, err := p.Ecosystem.Inspect(ctx, id)
	if err != nil {
		return api.StagingResponse{}, err
	}
	var response api.StagingResponse
	files, bytes := 0, int64(0)
	for i, one := range st.Details {
		shown := api.StagedPack{PackID: st.Packs[i].Dir, Descriptor: one.Descriptor, Apply: outcomeOf(one), Warnings: st.Packs[i].Warnings}
		for _, f := range one.Files {
			shown.Files = append(shown.Files, api.StagedFile{Path: f.Path, Size: f.Size, Mode: fmt.Sprintf("%04o", f.Mode)})
			files++
			bytes += f.Size
		}
		response.Packs = append(response.Packs, shown)
	}
	response.StagingSummary = summary(st.Staging, files, bytes)
	return response, nil
}

func outcomeOf(one ecosystem.InspectedPack) api.Outcome {
	switch {
	case one.Refused != "":
		return api.Outcome{Action: "refuse", Error: one.Refused}
	case one.Replaces != nil:
		return api.Outcome{Action: "replace", Version: one.Replaces.Descriptor.Version, Identity: one.Replaces.Descriptor.PackIdentity}
	default:
		return api.Outcome{Action: "new"}
	}
}

func (p Packs) discardStaging(ctx context.Context, r api.StagingRequest) (api.DiscardResponse, error) {
	id, err := staging.ParseID(r.StagingID)
	if err != nil {
		return api.DiscardResponse{}, err
	}
	return api.DiscardResponse{Success: true, StagingID: id}, p.Ecosystem.Discard(ctx, id)
}
