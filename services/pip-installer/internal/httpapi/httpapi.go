// Package httpapi answers the endpoints of api/pip: it checks keys and ids, calls the installer, and turns candidates and
// environments into answers (contract.md, "Candidates").
package httpapi

import (
	"context"
	"net/http"
	"path"

	api "github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/policy/policycheck"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/installer"
)

type routes struct {
	installer *installer.Installer
	policy    policy.Source
}

// Serve answers the endpoints on mux. usage finds what the service keeps on the disk.
func Serve(mux *server.Mux, i *installer.Installer, ceiling *policy.Reader, usage diskusage.List) error {
	r, h := routes{i, ceiling}, route.NewHandlers(api.Routes)
	candidate.Handle(h, api.Candidates, i.Candidates, candidate.Shown[installer.Lock, api.LockItem]{
		KeyForm: fault.LockKeyForm, ValidKey: installer.ValidKey, View: r.view,
	})
	route.Handle(h, api.Candidates.Scan, r.scan)
	route.Handle(h, api.Approve, r.approve)
	route.Handle(h, api.GetEnvironment, r.environment)
	route.HandleStream(h, api.GetTree, r.tree)
	route.Handle(h, api.Remove, r.remove)
	diskusage.Handle(h, api.Storage, usage)
	policycheck.Handle(h, api.CheckPolicy, ceiling, i.Findings)
	return h.Mount(mux)
}

func (r routes) view(i installer.Item) api.LockItem {
	requirements := make([]api.Requirement, len(i.Payload.Requirements))
	for n, one := range i.Payload.Requirements {
		requirements[n] = api.Requirement(one)
	}
	return api.LockItem{
		Key: i.Key, PackID: i.PackID, Relpath: i.Payload.Relpath, SHA256: i.Payload.SHA256, Requirements: requirements,
		Status: string(i.State), CreatedAt: i.CreatedAt, UpdatedAt: i.UpdatedAt, RejectCount: i.RejectCount, CooldownUntil: i.CoolsUntil(),
		LastError: orNull(i.LastError), AllowSdist: i.Payload.AllowSdist, IndexURL: orNull(i.Payload.IndexURL), Notes: i.Payload.Notes,
		Actor: i.Actor, RejectReason: i.Reason, OverPolicy: r.installer.Violations(r.policy.Current(), &i).First(),
		RequestedBy: i.Request.Requester(), Confirmation: r.installer.Confirmation(i),
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

func (r routes) approve(ctx context.Context, req api.ApproveRequest) (api.ApproveResponse, error) {
	if !installer.ValidKey(req.Key) {
		return api.ApproveResponse{}, fault.InvalidCandidateKey(fault.LockKeyForm)
	}
	i, err := r.installer.Approve(ctx, req.Key, installer.Decision{AllowSdist: req.AllowSdist, IndexURL: req.IndexURL, Notes: req.Notes})
	if err != nil {
		return api.ApproveResponse{}, err
	}
	if waits := r.installer.Confirmation(i); waits != nil {
		return api.ApproveResponse{Key: i.Key, PackID: i.PackID, Status: string(i.State), Confirmation: waits}, nil
	}
	env := i.Payload.Environment
	digits, err := tree.ParseDigest(env.Digest)
	if err != nil {
		return api.ApproveResponse{}, err
	}
	return api.ApproveResponse{
		Success: true, Key: i.Key, PackID: i.PackID, Status: string(i.State),
		SitePackages: path.Join("user_data/pip/environments", digits, tree.TreeName), Packages: env.Packages,
		RequestedBy: i.Request.Requester(),
	}, nil
}

func (r routes) environment(ctx context.Context, req api.PackRequest) (api.Environment, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return api.Environment{}, err
	}
	return r.installer.Environment(ctx, string(id))
}

func (r routes) tree(w http.ResponseWriter, req *http.Request, of api.TreeRequest) error {
	id, err := pack.ParseID(of.PackID)
	if err != nil {
		return err
	}
	if of.Digest != "" {
		if _, err := tree.ParseDigest(of.Digest); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", "application/x-tar")
	return r.installer.Send(req.Context(), w, string(id), of.Digest)
}

func (r routes) remove(ctx context.Context, req api.PackRequest) (api.RemoveResponse, error) {
	id, err := pack.ParseID(req.PackID)
	if err != nil {
		return api.RemoveResponse{}, err
	}
	removed, err := r.installer.Remove(ctx, string(id))
	return api.RemoveResponse{Removed: removed}, err
}
