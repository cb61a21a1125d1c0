// Package httpapi is approval over HTTP: the public endpoints of contract.md and those of the other services.
package httpapi

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	api "github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/approval/internal/approval"
	"github.com/rumi-ai/rumi/services/approval/internal/pending"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
	"github.com/rumi-ai/rumi/services/approval/internal/review"
)

const (
	gateway  = "gateway"
	registry = "pack-registry"
	egress   = "egress-proxy"
	broker   = "capability-broker"
	pip      = "pip-installer"
)

// defaultReason is that of a rejection without one.
const defaultReason = "User rejected"

// atOnce is how many reviews are under way at a time: a hostile pack's can take 100 MB.
const atOnce = 2

// Routes adds the endpoints to mux.
func Routes(mux *server.Mux, service *approval.Service, export *pending.Export) {
	h := routes{service, export, make(chan struct{}, atOnce)}
	mux.Route("GET /api/packs", rpc.Handle(h.list), gateway)
	mux.Route("GET /api/packs/pending", rpc.Handle(h.waiting), gateway)
	mux.Route("GET /api/packs/{pack_id}/status", rpc.Raw(h.status), gateway)
	mux.Route("GET /api/packs/{pack_id}/review", rpc.Raw(h.review), gateway)
	mux.Route("GET /api/packs/{pack_id}/review/file", rpc.Raw(h.excerpt), gateway)
	mux.Route("POST /api/packs/{pack_id}/approve", rpc.Handle(h.approve), gateway)
	mux.Route("POST /api/packs/{pack_id}/reject", rpc.Handle(h.reject), gateway)

	mux.Route("GET /internal/packs/overview", rpc.Handle(h.overview), gateway)
	mux.Route("POST /internal/packs/refresh", rpc.Handle(h.refresh), registry)
	mux.Route("PUT /internal/packs/{pack_id}/retired", rpc.Handle(h.retire), registry)
	mux.Route("GET /internal/packs/retired", rpc.Handle(h.retired), registry)
	mux.Route("GET /internal/packs/{pack_id}/approved", rpc.Handle(h.everApproved), registry)
	mux.Route("DELETE /internal/packs/{pack_id}", rpc.Handle(h.remove), registry)
	mux.Route("PUT /internal/packs/{pack_id}/running", rpc.Handle(h.running), broker)
	service.Gates().Routes(mux, egress, broker, pip)
	mux.Route("GET /internal/trees/{digest}", rpc.Raw(h.tree), broker, pip)
	mux.Route("POST /internal/pending/refresh", rpc.Handle(h.pendingChanged), broker, pip)
}

type routes struct {
	service *approval.Service
	export  *pending.Export
	reviews chan struct{} // holds a token for each that is under way
}

type listed struct {
	PackID       string     `json:"pack_id"`
	Status       string     `json:"status"`
	MayRun       bool       `json:"may_run"` // approved, and so is every pack above it
	PackIdentity string     `json:"pack_identity"`
	Version      string     `json:"version"`
	Description  string     `json:"description"`
	CreatedAt    time.Time  `json:"created_at"`
	ApprovedAt   *time.Time `json:"approved_at"`
	Digest       *string    `json:"digest"`
	Error        *string    `json:"error"`
	Missing      bool       `json:"missing"` // its folder is gone
}

func (h routes) list(ctx context.Context, _ struct{}) ([]listed, error) {
	records, err := h.service.List(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]listed, len(records))
	for i, r := range records {
		trouble, missing := h.service.GateProblem(r)
		all[i] = listed{
			Missing: missing,
			PackID:  r.PackID, Status: string(r.Status), MayRun: h.service.MayRun(pack.ID(r.PackID)), PackIdentity: r.Identity, Version: r.Version, Description: r.Description,
			CreatedAt: r.CreatedAt, ApprovedAt: orNull(r.ApprovedAt), Digest: orNull(r.Digest), Error: orNull(cmp.Or(trouble, r.LastError)),
		}
	}
	return all, nil
}

func (h routes) waiting(ctx context.Context, _ struct{}) ([]string, error) {
	records, err := h.service.List(ctx)
	ids := []string{}
	for _, r := range records {
		if r.Status.Undecided() {
			ids = append(ids, r.PackID)
		}
	}
	return ids, err
}

type packRequest struct {
	PackID string `json:"-" path:"pack_id"`
}

type dossier struct {
	PackID      string           `json:"pack_id"`
	Status      string           `json:"status"`
	MayRun      bool             `json:"may_run"`
	CreatedAt   time.Time        `json:"created_at"`
	ApprovedAt  *time.Time       `json:"approved_at"`
	Digest      *string          `json:"digest"`
	FileHashes  fileHashes       `json:"file_hashes"`
	Requested   record.Requested `json:"permissions_requested"`
	Rejection   *string          `json:"rejection_reason"`
	LastError   *string          `json:"last_error"`
	Missing     bool             `json:"missing"`
	Version     string           `json:"version"`
	VersionHist []event          `json:"version_history"`
}

// fileHashes maps a path to "sha256:…", for all files of the tree with a digest; the zero value is of none. A history names many
// trees, so they are fetched one after the other while the answer is written.
type fileHashes struct {
	digest string
	of     *manifests
}

// MarshalJSONTo implements json.MarshalerTo.
func (f fileHashes) MarshalJSONTo(enc *jsontext.Encoder) error {
	if err := enc.WriteToken(jsontext.BeginObject); err != nil {
		return err
	}
	if f.digest != "" {
		m, err := f.of.get(f.digest)
		if err != nil {
			return err
		}
		for _, e := range m.Entries {
			if e.Kind != tree.File {
				continue
			}
			if err := enc.WriteToken(jsontext.String(e.Path)); err != nil {
				return err
			}
			if err := enc.WriteToken(jsontext.String("sha256:" + e.SHA256)); err != nil {
				return err
			}
		}
	}
	return enc.WriteToken(jsontext.EndObject)
}

// manifests fetches manifests and keeps the last: who approves a pack again and again mostly approves the same.
type manifests struct {
	fetch  func(digest string) (tree.Manifest, error)
	digest string
	last   tree.Manifest
}

func (m *manifests) get(digest string) (tree.Manifest, error) {
	if digest != m.digest {
		fetched, err := m.fetch(digest)
		if err != nil {
			return tree.Manifest{}, err
		}
		m.digest, m.last = digest, fetched
	}
	return m.last, nil
}

type event struct {
	Version    string     `json:"version"`
	Timestamp  time.Time  `json:"timestamp"`
	Action     string     `json:"action"`
	Actor      string     `json:"actor"`
	Digest     *string    `json:"digest"`
	Reason     *string    `json:"reason"`
	FileHashes fileHashes `json:"file_hashes"`
}

type statusResponse struct {
	PackID   string  `json:"pack_id"`
	Status   string  `json:"status"`
	Approval dossier `json:"approval"`
}

func (h routes) status(w http.ResponseWriter, r *http.Request) error {
	req, err := rpc.Decode[packRequest](r)
	if err != nil {
		return err
	}
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return err
	}
	ctx := r.Context()
	d, err := h.service.Details(ctx, id)
	if err != nil {
		return err
	}
	kept := &manifests{fetch: func(digest string) (tree.Manifest, error) { return h.service.Manifest(ctx, digest) }}
	of := d.Record
	trouble, missing := h.service.GateProblem(of)
	answer := dossier{
		Missing: missing,
		PackID:  of.PackID, Status: string(of.Status), MayRun: h.service.MayRun(id), CreatedAt: of.CreatedAt, ApprovedAt: orNull(of.ApprovedAt), Digest: orNull(of.Digest),
		FileHashes: fileHashes{of.Digest, kept}, Requested: of.Requested, Rejection: orNull(of.RejectionReason), LastError: orNull(cmp.Or(trouble, of.LastError)),
		Version: of.Version, VersionHist: make([]event, len(d.History)),
	}
	for i, e := range d.History {
		answer.VersionHist[i] = event{
			Version: e.Version, Timestamp: e.Timestamp, Action: e.Action, Actor: e.Actor, Digest: orNull(e.Digest), Reason: orNull(e.Reason),
			FileHashes: fileHashes{e.Digest, kept},
		}
	}
	return rpc.StreamData(w, statusResponse{of.PackID, string(of.Status), answer})
}

type reviewRequest struct {
	PackID   string `json:"-" path:"pack_id"`
	Warnings string `json:"-" query:"warnings"` // the one kind that is listed
}

func (h routes) review(w http.ResponseWriter, r *http.Request) error {
	req, err := rpc.Decode[reviewRequest](r)
	if err != nil {
		return err
	}
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return err
	}
	if req.Warnings != "" && !slices.Contains(review.Kinds(), req.Warnings) {
		return fault.Invalid("Invalid value for field 'warnings': want one of %s", strings.Join(review.Kinds(), ", ")).With("invalid_field")
	}
	done, err := h.turn(r.Context())
	if err != nil {
		return err
	}
	defer done()
	found, err := h.service.Review(r.Context(), id, req.Warnings)
	if err != nil {
		return err
	}
	return rpc.StreamData(w, found)
}

// turn waits until a review may begin; done ends it.
func (h routes) turn(ctx context.Context) (done func(), err error) {
	select {
	case h.reviews <- struct{}{}:
		return func() { <-h.reviews }, nil
	case <-ctx.Done():
		return nil, fault.Unavailable("Other reviews are under way").With("busy").Because(ctx.Err())
	}
}

type excerptRequest struct {
	PackID string `json:"-" path:"pack_id"`
	Path   string `json:"-" query:"path"`
	Tree   string `json:"-" query:"tree"`   // current, the default, or approved
	Digest string `json:"-" query:"digest"` // what that tree's must be; none for any
	Offset int64  `json:"-" query:"offset"` // in bytes
	Limit  int64  `json:"-" query:"limit"`  // in bytes; 0 for review.DefaultExcerpt
}

func (h routes) excerpt(w http.ResponseWriter, r *http.Request) error {
	req, err := rpc.Decode[excerptRequest](r)
	if err != nil {
		return err
	}
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return err
	}
	if req.Digest != "" {
		if _, err := tree.ParseDigest(req.Digest); err != nil {
			return err
		}
	}
	switch {
	case req.Path == "":
		return fault.MissingPath()
	case req.Tree != "" && req.Tree != approval.TreeCurrent && req.Tree != approval.TreeApproved:
		return fault.Invalid("Invalid value for field 'tree': want %s or %s", approval.TreeCurrent, approval.TreeApproved).With("invalid_field")
	case req.Offset < 0:
		return fault.Invalid("Invalid value for field 'offset': want a number of bytes, 0 or more").With("invalid_field")
	case req.Limit < 0 || req.Limit > review.MaxExcerpt:
		return fault.Invalid("Invalid value for field 'limit': want a number of bytes from 1 to %d", review.MaxExcerpt).With("invalid_field")
	}
	done, err := h.turn(r.Context())
	if err != nil {
		return err
	}
	defer done()
	found, err := h.service.Excerpt(r.Context(), id, approval.ExcerptRequest{
		Tree: cmp.Or(req.Tree, approval.TreeCurrent), Path: req.Path, Digest: req.Digest,
		Offset: req.Offset, Limit: cmp.Or(req.Limit, review.DefaultExcerpt),
	})
	if err != nil {
		return err
	}
	return rpc.WriteData(w, found)
}

type decided struct {
	Success bool    `json:"success"`
	PackID  string  `json:"pack_id"`
	Status  string  `json:"status"`
	Digest  *string `json:"digest,omitzero"`
	Reason  *string `json:"reason,omitzero"`
}

type approveRequest struct {
	PackID string         `json:"-" path:"pack_id"`
	Digest jsontext.Value `json:"digest"` // of what was reviewed; without it what lies there is approved
}

// reviewed is the digest that a decision is bound to, "" for none. An empty one and null are mistakes of the caller's, who
// wanted to bind the decision: they must not approve whatever lies there.
func (r approveRequest) reviewed() (string, error) {
	if r.Digest == nil {
		return "", nil
	}
	var digest *string
	if err := json.Unmarshal(r.Digest, &digest); err != nil || digest == nil {
		return "", fault.InvalidField("digest", "a string").Because(err)
	}
	_, err := tree.ParseDigest(*digest)
	return *digest, err
}

func (h routes) approve(ctx context.Context, req approveRequest) (decided, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return decided{}, err
	}
	reviewed, err := req.reviewed()
	if err != nil {
		return decided{}, err
	}
	r, err := h.service.Approve(ctx, id, reviewed)
	if err != nil {
		return decided{}, err
	}
	return decided{Success: true, PackID: r.PackID, Status: string(r.Status), Digest: &r.Digest}, nil
}

type rejectRequest struct {
	PackID string `json:"-" path:"pack_id"`
	Reason string `json:"reason"`
}

func (h routes) reject(ctx context.Context, req rejectRequest) (decided, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return decided{}, err
	}
	if req.Reason == "" {
		req.Reason = defaultReason
	}
	r, err := h.service.Reject(ctx, id, req.Reason)
	if err != nil {
		return decided{}, err
	}
	return decided{Success: true, PackID: r.PackID, Status: string(r.Status), Reason: &req.Reason}, nil
}

func (h routes) refresh(ctx context.Context, req api.RefreshRequest) (struct{}, error) {
	ids := make([]pack.ID, len(req.PackIDs))
	for i, text := range req.PackIDs {
		id, err := pack.ParseID(text)
		if err != nil {
			return struct{}{}, err
		}
		ids[i] = id
	}
	if req.Replaced {
		return struct{}{}, h.service.Replaced(ctx, ids...)
	}
	return struct{}{}, h.service.Refresh(ctx, ids...)
}

type retireRequest struct {
	PackID string `json:"-" path:"pack_id"`
	api.RetireRequest
}

func (h routes) retire(ctx context.Context, req retireRequest) (api.RetireResponse, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return api.RetireResponse{}, err
	}
	known, err := h.service.Retire(ctx, id, req.Installed)
	return api.RetireResponse{Known: known}, err
}

func (h routes) retired(ctx context.Context, _ struct{}) (api.RetiredResponse, error) {
	ids, err := h.service.Retired(ctx)
	return api.RetiredResponse{PackIDs: ids}, err
}

func (h routes) everApproved(ctx context.Context, req packRequest) (api.ApprovedResponse, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return api.ApprovedResponse{}, err
	}
	approved, err := h.service.EverApproved(ctx, id)
	return api.ApprovedResponse{Approved: approved}, err
}

func (h routes) remove(ctx context.Context, req packRequest) (api.RemoveResponse, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return api.RemoveResponse{}, err
	}
	removed, err := h.service.Remove(ctx, id)
	return api.RemoveResponse{Removed: removed}, err
}

type runningRequest struct {
	PackID string `json:"-" path:"pack_id"`
	api.RunningRequest
}

func (h routes) running(ctx context.Context, req runningRequest) (struct{}, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, h.service.SetRunning(ctx, id, req.Running)
}

func (h routes) tree(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/x-tar")
	return h.service.SendTree(w, r.PathValue("digest"))
}

func (h routes) pendingChanged(context.Context, struct{}) (struct{}, error) {
	h.export.Notify()
	return struct{}{}, nil
}

// orNull is nil for a zero value, which the contract calls null.
func orNull[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
