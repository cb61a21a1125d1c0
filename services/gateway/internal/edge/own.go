package edge

import (
	"context"
	"net/http"
	"net/url"
	"time"

	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/pack"
	declared "github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
)

// handler answers a request within the bounds of its route's class.
type handler func(w http.ResponseWriter, r *http.Request, class route.Class) error

// ownTimeout bounds what an endpoint of the gateway's own takes: a database that hangs must not hold clients.
const ownTimeout = 15 * time.Second

// own are the handlers of the gateway's own endpoints, by the route's name.
func (e *Edge) own() map[string]handler {
	views, handlers := e.cfg.Views, map[string]handler{}
	handle(handlers, api.ListPending, func(ctx context.Context, _ struct{}) (api.Pending, error) { return views.Pending(ctx), nil })
	handle(handlers, api.GetStorage, func(ctx context.Context, _ struct{}) (api.Storage, error) { return views.Storage(ctx), nil })
	handle(handlers, api.GetPack, func(ctx context.Context, req api.PackRequest) (api.Pack, error) {
		id, err := pack.ParseID(req.PackID)
		if err != nil {
			return api.Pack{}, err
		}
		return views.Pack(ctx, string(id))
	})
	handle(handlers, api.GetPolicy, func(ctx context.Context, _ struct{}) (api.Policy, error) { return views.Policy(ctx), nil })
	handle(handlers, api.CheckPolicy, views.CheckPolicy)
	handle(handlers, api.FindAudit, e.findAudit)
	e.tokens(handlers)
	follow := api.FollowEvents.Route()
	handlers[follow.Name()] = e.events(follow.CheckFault())
	all := api.GetMetrics.Route()
	handlers[all.Name()] = e.allMetrics
	health := api.GetHealth.Route()
	handlers[health.Name()] = e.health
	return handlers
}

// handle has fn answer an endpoint. A request that holds what fn doesn't take is refused, as by the services.
func handle[Req, Resp any](handlers map[string]handler, e declared.Endpoint[Req, Resp], fn func(context.Context, Req) (Resp, error)) {
	of := e.Route()
	check := of.CheckFault()
	handlers[of.Name()] = func(w http.ResponseWriter, r *http.Request, _ route.Class) error {
		for name, escaped := range of.Values(r.URL.EscapedPath()) {
			value, err := url.PathUnescape(escaped)
			if err != nil {
				return err // route.Table has refused it before
			}
			r.SetPathValue(name, value)
		}
		req, err := rpc.Decode[Req](r)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(r.Context(), ownTimeout)
		defer cancel()
		answer, err := fn(ctx, req)
		if err != nil {
			check(err)
			return err
		}
		if err := withheld(r); err != nil {
			return err
		}
		return rpc.WriteData(w, answer)
	}
}
