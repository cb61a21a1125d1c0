package edge

import (
	"cmp"
	"net/http"

	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/services/gateway/internal/events"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
)

// events answers api.FollowEvents. check is told each failure.
func (e *Edge) events(check func(error)) handler {
	return func(w http.ResponseWriter, r *http.Request, _ route.Class) error {
		req, err := rpc.Decode[api.EventsRequest](r)
		if err != nil {
			return err
		}
		who := principal.Of(r.Context())
		err = e.cfg.Events.Serve(w, r, events.Request{
			Query: auditfile.Query{
				Category: req.Category, Action: req.Action, PackID: req.PackID, Actor: req.Actor, Success: req.Success, Since: req.Since, Until: req.Until,
				RequestID: req.RequestID, TraceID: req.TraceID, Q: req.Q,
			},
			// A browser that connects again repeats the address, with the cursor that it began with.
			Cursor:  cmp.Or(r.Header.Get("Last-Event-Id"), req.Cursor),
			Who:     cmp.Or(who.TokenID, who.Name),
			Visible: func(pack string) bool { return who.Scopes.Allow(access.ReadAudit, pack) },
		})
		if err != nil {
			check(err)
		}
		return err
	}
}
