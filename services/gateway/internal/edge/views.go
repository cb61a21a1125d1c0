package edge

import (
	"context"
	"net/http"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
)

// own are the handlers of the gateway's own routes, by pattern.
func (e *Edge) own() map[string]func(http.ResponseWriter, *http.Request, route.Class) error {
	views := e.cfg.Views
	return map[string]func(http.ResponseWriter, *http.Request, route.Class) error{
		"/api/health": e.health,
		"/api/pending": viewed(func(ctx context.Context, _ struct{}) (any, error) {
			return views.Pending(ctx), nil
		}),
		"/api/storage": viewed(func(ctx context.Context, _ struct{}) (any, error) {
			return views.Storage(ctx), nil
		}),
		"/api/packs/{pack_id}": func(w http.ResponseWriter, r *http.Request, class route.Class) error {
			id, err := pack.ParseID(r.URL.Path[len("/api/packs/"):])
			if err != nil {
				return err
			}
			return viewed(func(ctx context.Context, _ struct{}) (any, error) { return views.Pack(ctx, string(id)) })(w, r, class)
		},
	}
}

// viewed answers with what fn returns. A request that holds what fn doesn't take is refused, as by the services.
func viewed[Req any](fn func(context.Context, Req) (any, error)) func(http.ResponseWriter, *http.Request, route.Class) error {
	return func(w http.ResponseWriter, r *http.Request, _ route.Class) error {
		req, err := rpc.Decode[Req](r)
		if err != nil {
			return err
		}
		answer, err := fn(r.Context(), req)
		if err != nil {
			return err
		}
		return rpc.WriteData(w, answer)
	}
}
