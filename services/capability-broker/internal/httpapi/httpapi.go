// Package httpapi answers the endpoints of api/broker: it checks requests, calls grants, handlers, containers and the uninstall, and turns
// what they find into answers.
package httpapi

import (
	"context"

	api "github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/policy/policycheck"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/container"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

// Parts are the domain's parts that answer the endpoints. All must be set.
type Parts struct {
	Grants     *grant.Cache
	Handlers   *handler.Service
	Printed    *worker.Logs // by handlers
	Containers *container.Manager
	Remover    Remover
	Policy     *policy.Reader
	Usage      diskusage.List // of what the broker keeps on the disk
}

// Serve answers the endpoints on mux.
func Serve(mux *server.Mux, p Parts) error {
	h := route.NewHandlers(api.Routes)
	p.capability(h)
	p.containers(h)
	r := removal{p.Remover}
	route.Handle(h, api.Remove, r.remove)
	route.Handle(h, api.RestoreData, r.restoreData)
	diskusage.Handle(h, api.Storage, p.Usage)
	policycheck.Handle(h, api.CheckPolicy, p.Policy, func(ctx context.Context, of *policy.Policy) ([]policy.Finding, error) {
		running, err := p.Containers.Findings(ctx, of)
		return append(p.Grants.Findings(of), running...), err
	})
	return h.Mount(mux)
}

func (p Parts) capability(h *route.Handlers) {
	c := capability{p.Grants, p.Handlers}
	candidate.Handle(h, api.Candidates, p.Handlers.Candidates(), candidate.Shown[handler.Candidate, api.HandlerItem]{
		KeyForm: fault.HandlerKeyForm, ValidKey: handler.ValidKey, View: c.view,
	})
	route.Handle(h, api.Candidates.Scan, c.scan)
	route.Handle(h, api.Approve, c.approve)
	route.Handle(h, api.Withdraw, c.withdraw)
	route.Handle(h, api.ListGrants, c.list)
	route.Handle(h, api.PostGrant, c.grant)
	route.Handle(h, api.RevokeGrant, c.revoke)
	trusted := handlers{p.Handlers.Registry, p.Printed}
	route.Handle(h, api.ListHandlers, trusted.list)
	route.HandleStream(h, api.HandlerLogs, trusted.logs)
}

func (p Parts) containers(h *route.Handlers) {
	c := containers{p.Containers}
	route.Handle(h, api.DockerStatus, c.docker)
	route.Handle(h, api.ListContainers, c.list)
	route.Handle(h, api.StartContainer, c.start)
	route.Handle(h, api.StopContainer, c.stop)
	route.Handle(h, api.DeleteContainer, c.delete)
	route.Handle(h, api.ContainerStats, c.stats)
	route.HandleStream(h, api.ContainerLogs, c.logs)
}
