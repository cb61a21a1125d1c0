package httpapi

import (
	"context"
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/ecosystem"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
)

// stagingSummary is a staging in a list.
type stagingSummary struct {
	StagingID       string    `json:"staging_id"`
	StagingDir      string    `json:"staging_dir"` // relative to the Rumi home
	CreatedAt       time.Time `json:"created_at"`
	ExpiresAt       time.Time `json:"expires_at"`
	InputType       string    `json:"input_type"`
	SourcePath      string    `json:"source_path"`
	DetectedPackIDs []string  `json:"detected_pack_ids"`
	IsMultiPack     bool      `json:"is_multi_pack"`
	Notes           string    `json:"notes"`
	Actor           string    `json:"actor"`
	Files           int       `json:"files"`
	Bytes           int64     `json:"bytes"`             // of the files
	Warnings        []string  `json:"warnings,omitzero"` // what the import left out
	Error           string    `json:"error,omitzero"`    // why its packs can't be told; discard it and import them again
}

func summary(st staging.Staging, files int, bytes int64) stagingSummary {
	s := stagingSummary{
		StagingID: st.ID, StagingDir: stagingDir(st.ID), CreatedAt: st.CreatedAt, ExpiresAt: st.CreatedAt.Add(staging.Lifetime),
		InputType: st.InputType, SourcePath: st.SourcePath, DetectedPackIDs: staging.PackIDs(st), IsMultiPack: st.Multi,
		Notes: st.Notes, Actor: st.Actor, Files: files, Bytes: bytes, Warnings: st.Warnings,
	}
	if st.Err != nil {
		s.Error = "The record of this import can't be read. Discard it and import again"
	}
	return s
}

func (p Packs) listStagings(ctx context.Context, _ struct{}) ([]stagingSummary, error) {
	all, err := p.Stages.List(ctx)
	if err != nil {
		return nil, err
	}
	response := make([]stagingSummary, 0, len(all))
	for _, st := range all {
		response = append(response, summary(st.Staging, st.Files, st.Bytes))
	}
	return response, nil
}

type stagingResponse struct {
	stagingSummary
	Packs []stagedPack `json:"packs"`
}

type stagedPack struct {
	PackID     string          `json:"pack_id"` // as detected_pack_ids has it
	Descriptor pack.Descriptor `json:"descriptor"`
	Files      []stagedFile    `json:"files"`
	Apply      outcome         `json:"apply"`
	Warnings   []string        `json:"warnings,omitzero"` // what will keep it from being approved or doing what is meant
}

type stagedFile struct {
	Path string `json:"path"` // relative to the pack's folder
	Size int64  `json:"size"` // in bytes
	Mode string `json:"mode"` // octal, "0644"
}

// outcome is what an apply would do now.
type outcome struct {
	Action   string `json:"action"`            // "new", "replace" or "refuse"
	Version  string `json:"version,omitzero"`  // of the pack that would be replaced
	Identity string `json:"identity,omitzero"` // of the pack that would be replaced
	Error    string `json:"error,omitzero"`    // why it would be refused
}

func (p Packs) inspectStaging(ctx context.Context, stagingID string) (stagingResponse, error) {
	id, err := staging.ParseID(stagingID)
	if err != nil {
		return stagingResponse{}, err
	}
	st, err := p.Ecosystem.Inspect(ctx, id)
	if err != nil {
		return stagingResponse{}, err
	}
	var response stagingResponse
	files, bytes := 0, int64(0)
	for i, one := range st.Details {
		shown := stagedPack{PackID: st.Packs[i].Dir, Descriptor: one.Descriptor, Apply: outcomeOf(one), Warnings: st.Packs[i].Warnings}
		for _, f := range one.Files {
			shown.Files = append(shown.Files, stagedFile{f.Path, f.Size, fmt.Sprintf("%04o", f.Mode)})
			files++
			bytes += f.Size
		}
		response.Packs = append(response.Packs, shown)
	}
	response.stagingSummary = summary(st.Staging, files, bytes)
	return response, nil
}

func outcomeOf(one ecosystem.InspectedPack) outcome {
	switch {
	case one.Refused != "":
		return outcome{Action: "refuse", Error: one.Refused}
	case one.Replaces != nil:
		return outcome{Action: "replace", Version: one.Replaces.Descriptor.Version, Identity: one.Replaces.Descriptor.PackIdentity}
	default:
		return outcome{Action: "new"}
	}
}

type discardRequest struct {
	StagingID string `json:"-" path:"staging_id"`
}

type discardResponse struct {
	Success   bool   `json:"success"`
	StagingID string `json:"staging_id"`
}

func (p Packs) discardStaging(ctx context.Context, r discardRequest) (discardResponse, error) {
	id, err := staging.ParseID(r.StagingID)
	if err != nil {
		return discardResponse{}, err
	}
	return discardResponse{Success: true, StagingID: id}, p.Ecosystem.Discard(ctx, id)
}
