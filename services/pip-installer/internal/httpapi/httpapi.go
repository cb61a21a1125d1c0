// Package httpapi has the routes of pip-installer and the shapes of its public answers (contract.md, "Capability
// candidates, grants; pip candidates").
package httpapi

import (
	"context"
	"net/http"
	"path"
	"time"

	api "github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/installer"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/lock"
)

type routes struct{ installer *installer.Installer }

// Routes serves i on mux.
func Routes(mux *server.Mux, i *installer.Installer) {
	r := routes{i}
	candidate.Routes(mux, i.Candidates, candidate.Wire[installer.Lock]{Prefix: "/api/pip", KeyForm: fault.LockKeyForm, ValidKey: installer.ValidKey, View: view})
	mux.Route("POST /api/pip/candidates/scan", rpc.Handle(r.scan), "gateway")
	mux.Route("POST /api/pip/requests/{candidate_key}/approve", rpc.Handle(r.approve), "gateway")
	mux.Route("GET /internal/environments/{pack_id}", rpc.Handle(r.environment), "capability-broker")
	mux.Route("GET /internal/environments/{pack_id}/tree", rpc.Raw(r.tree), "capability-broker")
	mux.Route("DELETE /internal/packs/{pack_id}", rpc.Handle(r.remove), "pack-registry")
}

// item is a candidate in the list of requests.
type item struct {
	Key           string             `json:"candidate_key"`
	PackID        string             `json:"pack_id"`
	Relpath       string             `json:"requirements_relpath"`
	SHA256        string             `json:"requirements_sha256"`
	Requirements  []lock.Requirement `json:"requirements"` // what the lock lists, for the reviewer
	Status        candidate.State    `json:"status"`
	CreatedAt     time.Time          `json:"created_at"`
	UpdatedAt     time.Time          `json:"updated_at"`
	RejectCount   int                `json:"reject_count"`
	CooldownUntil *time.Time         `json:"cooldown_until"`
	LastError     *string            `json:"last_error"`
	AllowSdist    bool               `json:"allow_sdist"`
	IndexURL      *string            `json:"index_url"` // null for the default
	Notes         string             `json:"notes"`
	Actor         string             `json:"actor"`
	RejectReason  string             `json:"reject_reason"`
}

func view(i installer.Item) any {
	return item{
		Key: i.Key, PackID: i.PackID, Relpath: i.Payload.Relpath, SHA256: i.Payload.SHA256, Requirements: i.Payload.Requirements,
		Status: i.State, CreatedAt: i.CreatedAt, UpdatedAt: i.UpdatedAt, RejectCount: i.RejectCount, CooldownUntil: i.CoolsUntil(),
		LastError: orNull(i.LastError), AllowSdist: i.Payload.AllowSdist, IndexURL: orNull(i.Payload.IndexURL), Notes: i.Payload.Notes,
		Actor: i.Actor, RejectReason: i.Reason,
	}
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (r routes) scan(ctx context.Context, _ struct{}) (candidate.ScanResult, error) {
	return r.installer.ScanLocks(ctx)
}

type approveRequest struct {
	Key        string `path:"candidate_key" json:"-"`
	AllowSdist bool   `json:"allow_sdist"`
	IndexURL   string `json:"index_url"`
	Notes      string `json:"notes"`
}

type approveResponse struct {
	Success      bool            `json:"success"`
	Key          string          `json:"candidate_key"`
	PackID       string          `json:"pack_id"`
	Status       candidate.State `json:"status"`
	SitePackages string          `json:"site_packages_path"` // relative to the Rumi home
	Packages     []api.Package   `json:"packages"`
}

func (r routes) approve(ctx context.Context, req approveRequest) (approveResponse, error) {
	if !installer.ValidKey(req.Key) {
		return approveResponse{}, fault.InvalidCandidateKey(fault.LockKeyForm)
	}
	i, err := r.installer.Approve(ctx, req.Key, installer.Decision{AllowSdist: req.AllowSdist, IndexURL: req.IndexURL, Notes: req.Notes})
	if err != nil {
		return approveResponse{}, err
	}
	env := i.Payload.Environment
	digits, err := tree.ParseDigest(env.Digest)
	if err != nil {
		return approveResponse{}, err
	}
	return approveResponse{
		Success: true, Key: i.Key, PackID: i.PackID, Status: i.State,
		SitePackages: path.Join("user_data/pip/environments", digits, tree.TreeName), Packages: env.Packages,
	}, nil
}

type packRequest struct {
	PackID string `path:"pack_id" json:"-"`
}

func (r routes) environment(ctx context.Context, req packRequest) (api.Environment, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return api.Environment{}, err
	}
	return r.installer.Environment(ctx, string(id))
}

func (r routes) tree(w http.ResponseWriter, req *http.Request) error {
	id, err := pack.ParseID(req.PathValue("pack_id"))
	if err != nil {
		return err
	}
	digest := req.URL.Query().Get("digest")
	if digest != "" {
		if _, err := tree.ParseDigest(digest); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", "application/x-tar")
	return r.installer.Send(req.Context(), w, string(id), digest)
}

func (r routes) remove(ctx context.Context, req packRequest) (api.RemoveResponse, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return api.RemoveResponse{}, err
	}
	removed, err := r.installer.Remove(ctx, string(id))
	return api.RemoveResponse{Removed: removed}, err
}
