// Package httpapi answers the endpoints of api/approval: it checks requests, lets few reviews run at once, calls the domain, and turns
// records and reviews into answers.
package httpapi

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	api "github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/approval/internal/approval"
	"github.com/rumi-ai/rumi/services/approval/internal/pending"
	"github.com/rumi-ai/rumi/services/approval/internal/review"
)

// defaultReason is the reason of a rejection whose request has none.
const defaultReason = "User rejected"

// maxReviews is how many reviews run at once. The review of a hostile pack can take 100 MB of memory, so that more could
// exhaust it.
const maxReviews = 2

// Serve answers the endpoints of api/approval on mux. usage finds what the service keeps on the disk.
func Serve(mux *server.Mux, service *approval.Service, export *pending.Export, usage diskusage.List) error {
	a, h := routes{service, export, make(chan struct{}, maxReviews)}, route.NewHandlers(api.Routes)
	route.Handle(h, api.List, a.list)
	route.Handle(h, api.ListPending, a.listPending)
	route.HandleStream(h, api.Status, a.status)
	route.HandleStream(h, api.Review, a.review)
	route.HandleStream(h, api.ReviewFile, a.reviewFile)
	route.Handle(h, api.Approve, a.approve)
	route.Handle(h, api.Reject, a.reject)

	route.Handle(h, api.Overview, a.overview)
	route.Handle(h, api.Refresh, a.refresh)
	route.Handle(h, api.Retire, a.retire)
	route.Handle(h, api.ListRetired, a.retired)
	route.Handle(h, api.WasApproved, a.wasApproved)
	route.Handle(h, api.Remove, a.remove)
	route.Handle(h, api.SetRunning, a.running)
	route.HandleStream(h, api.GetTree, a.tree)
	route.Handle(h, api.RefreshPending, a.refreshPending)
	service.Gates().Handle(h)
	diskusage.Handle(h, api.Storage, usage)
	return h.Mount(mux)
}

type routes struct {
	service *approval.Service
	export  *pending.Export
	reviews chan struct{} // holds a token for each review under way
}

func (h routes) list(ctx context.Context, _ struct{}) ([]api.Listed, error) {
	records, err := h.service.List(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]api.Listed, len(records))
	for i, r := range records {
		problem, missing := h.service.GateProblem(r)
		all[i] = api.Listed{
			Missing: missing,
			PackID:  r.PackID, Status: r.Status, MayRun: h.service.MayRun(pack.ID(r.PackID)), PackIdentity: r.Identity, Version: r.Version, Description: r.Description,
			CreatedAt: r.CreatedAt, ApprovedAt: orNull(r.ApprovedAt), Digest: orNull(r.Digest), Error: orNull(cmp.Or(problem, r.LastError)),
			Confirmation: h.service.Confirmation(r),
		}
	}
	return all, nil
}

func (h routes) listPending(ctx context.Context, _ struct{}) ([]string, error) {
	records, err := h.service.List(ctx)
	ids := []string{}
	for _, r := range records {
		if r.Status.Undecided() {
			ids = append(ids, r.PackID)
		}
	}
	return ids, err
}

// fileHashes are the hashes of the files of an approved tree; a digest of "" has none. A history names many trees, so each
// manifest is read only when it is written to the answer.
func fileHashes(digest string, of *manifests) api.FileHashes {
	if digest == "" {
		return api.FileHashes{}
	}
	return api.FileHashes{Each: func(yield func(path, hash string) error) error {
		m, err := of.get(digest)
		if err != nil {
			return err
		}
		for _, e := range m.Entries {
			if e.Kind != tree.File {
				continue
			}
			if err := yield(e.Path, "sha256:"+e.SHA256); err != nil {
				return err
			}
		}
		return nil
	}}
}

// manifests reads manifests and remembers the last one: consecutive events of a history mostly name the same tree.
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

func (h routes) status(w http.ResponseWriter, r *http.Request, req api.PackRequest) error {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return err
	}
	ctx := r.Context()
	d, err := h.service.Details(ctx, id)
	if err != nil {
		return err
	}
	cache := &manifests{fetch: func(digest string) (tree.Manifest, error) { return h.service.Manifest(ctx, digest) }}
	of := d.Record
	problem, missing := h.service.GateProblem(of)
	answer := api.PackDetails{
		Missing: missing,
		PackID:  of.PackID, Status: of.Status, MayRun: h.service.MayRun(id), CreatedAt: of.CreatedAt, ApprovedAt: orNull(of.ApprovedAt), Digest: orNull(of.Digest),
		FileHashes: fileHashes(of.Digest, cache), Requested: api.Requested(of.Requested), Rejection: orNull(of.RejectionReason), LastError: orNull(cmp.Or(problem, of.LastError)),
		Version: of.Version, VersionHistory: make([]api.Event, len(d.History)), Confirmation: h.service.Confirmation(of), RequestedBy: of.Request.Requester(),
	}
	for i, e := range d.History {
		approved := e.Digest
		if e.Action != approval.ActionApproved { // the bytes that a request was about are not stored
			approved = ""
		}
		answer.VersionHistory[i] = api.Event{
			Version: e.Version, Timestamp: e.Timestamp, Action: e.Action, Actor: e.Actor, Digest: orNull(e.Digest), Reason: orNull(e.Reason),
			FileHashes: fileHashes(approved, cache), RequestedBy: e.RequestedBy,
		}
	}
	return rpc.StreamData(w, api.StatusResponse{PackID: of.PackID, Status: of.Status, Approval: answer})
}

func (h routes) review(w http.ResponseWriter, r *http.Request, req api.ReviewRequest) error {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return err
	}
	if req.Warnings != "" && !slices.Contains(review.Kinds(), req.Warnings) {
		return fault.Invalid("Invalid value for field 'warnings': want one of %s", strings.Join(review.Kinds(), ", ")).With("invalid_field")
	}
	done, err := h.beginReview(r.Context())
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

// beginReview waits until a review may begin; done ends it.
func (h routes) beginReview(ctx context.Context) (done func(), err error) {
	select {
	case h.reviews <- struct{}{}:
		return func() { <-h.reviews }, nil
	case <-ctx.Done():
		return nil, fault.Unavailable("Other reviews are under way").With("busy").Because(ctx.Err())
	}
}

func (h routes) reviewFile(w http.ResponseWriter, r *http.Request, req api.ReviewFileRequest) error {
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
	done, err := h.beginReview(r.Context())
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

// reviewed is the digest that a decision is bound to; "" if the request has no member digest. An empty string and null are errors: the
// caller meant to bind the decision to a digest, so they must not approve whatever the folder holds now.
func reviewed(r api.ApproveRequest) (string, error) {
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

func (h routes) approve(ctx context.Context, req api.ApproveRequest) (api.Decision, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return api.Decision{}, err
	}
	digest, err := reviewed(req)
	if err != nil {
		return api.Decision{}, err
	}
	r, err := h.service.Approve(ctx, id, digest)
	if err != nil {
		return api.Decision{}, err
	}
	if waits := h.service.Confirmation(r); waits != nil {
		return api.Decision{PackID: r.PackID, Status: r.Status, Confirmation: waits}, nil
	}
	return api.Decision{Success: true, PackID: r.PackID, Status: r.Status, Digest: &r.Digest, RequestedBy: r.Request.Requester()}, nil
}

func (h routes) reject(ctx context.Context, req api.RejectRequest) (api.Decision, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return api.Decision{}, err
	}
	if req.Reason == "" {
		req.Reason = defaultReason
	}
	r, err := h.service.Reject(ctx, id, req.Reason)
	if err != nil {
		return api.Decision{}, err
	}
	return api.Decision{Success: true, PackID: r.PackID, Status: r.Status, Reason: &req.Reason}, nil
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

func (h routes) retire(ctx context.Context, req api.RetireRequest) (api.RetireResponse, error) {
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

func (h routes) wasApproved(ctx context.Context, req api.PackRequest) (api.ApprovedResponse, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return api.ApprovedResponse{}, err
	}
	approved, err := h.service.EverApproved(ctx, id)
	return api.ApprovedResponse{Approved: approved}, err
}

func (h routes) remove(ctx context.Context, req api.PackRequest) (api.RemoveResponse, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return api.RemoveResponse{}, err
	}
	removed, err := h.service.Remove(ctx, id)
	return api.RemoveResponse{Removed: removed}, err
}

func (h routes) running(ctx context.Context, req api.RunningRequest) (struct{}, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, h.service.SetRunning(ctx, id, req.Running)
}

func (h routes) tree(w http.ResponseWriter, _ *http.Request, req api.TreeRequest) error {
	w.Header().Set("Content-Type", "application/x-tar")
	return h.service.SendTree(w, req.Digest)
}

func (h routes) refreshPending(context.Context, struct{}) (struct{}, error) {
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
