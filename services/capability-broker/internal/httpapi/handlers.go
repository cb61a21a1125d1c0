package httpapi

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

var slugPattern = regexp.MustCompile(`\A[a-zA-Z0-9_-]{1,64}\z`)

type handlers struct {
	registry *handler.Registry
	printed  *worker.Logs
}

// Handlers serves the trusted handlers and what they print.
func Handlers(mux *server.Mux, registry *handler.Registry, printed *worker.Logs) {
	h := handlers{registry, printed}
	mux.Route("GET /api/capability/handlers", rpc.Handle(h.list), "gateway")
	mux.Route("GET /api/capability/handlers/{pack_id}/{slug}/logs", rpc.Raw(h.logs), "gateway")
}

type handlersRequest struct {
	PackID string `query:"pack_id" json:"-"` // "" for every pack
}

type handlersResponse struct {
	Handlers []handlerView `json:"handlers"` // by pack and slug
	Count    int           `json:"count"`
}

type handlerView struct {
	PackID       string    `json:"pack_id"`
	Slug         string    `json:"slug"`
	HandlerID    string    `json:"handler_id"`
	PermissionID string    `json:"permission_id"`
	Entrypoint   string    `json:"entrypoint"`
	CandidateKey string    `json:"candidate_key"`
	Digest       string    `json:"digest"` // of the whole folder
	InstalledAt  time.Time `json:"installed_at"`
	InstalledBy  string    `json:"installed_by"`
	InstalledTo  string    `json:"installed_to"`
}

func (h handlers) list(_ context.Context, req handlersRequest) (handlersResponse, error) {
	answer := handlersResponse{Handlers: []handlerView{}}
	if req.PackID != "" {
		if _, err := pack.ParseID(req.PackID); err != nil {
			return answer, err
		}
	}
	for _, t := range h.registry.All() {
		if req.PackID == "" || t.PackID == req.PackID {
			answer.Handlers = append(answer.Handlers, handlerView{
				t.PackID, t.Slug, t.HandlerID, t.PermissionID, t.Entrypoint, t.CandidateKey, t.FolderDigest, t.InstalledAt, t.InstalledBy, t.InstalledTo(),
			})
		}
	}
	answer.Count = len(answer.Handlers)
	return answer, nil
}

type handlerLogsRequest struct {
	PackID string `path:"pack_id" json:"-"`
	Slug   string `path:"slug" json:"-"`
	Tail   int    `query:"tail" json:"-"`
	Follow bool   `query:"follow" json:"-"`
}

type handlerLogsResponse struct {
	PackID string           `json:"pack_id"`
	Slug   string           `json:"slug"`
	Lines  []worker.LogLine `json:"lines"`
}

// logs gives what a handler has printed, also one that is trusted no longer while its pack is installed.
func (h handlers) logs(w http.ResponseWriter, r *http.Request) error {
	req, err := rpc.Decode[handlerLogsRequest](r)
	if err != nil {
		return err
	}
	if _, err := pack.ParseID(req.PackID); err != nil {
		return err
	}
	if !slugPattern.MatchString(req.Slug) {
		return fault.Invalid("Invalid slug: must match ^[a-zA-Z0-9_-]{1,64}$").With("invalid_slug")
	}
	if err := checkTail(r, &req.Tail); err != nil {
		return err
	}
	trusted := func() bool { return h.registry.Of(req.PackID, req.Slug) != nil }
	lines, err := h.printed.Tail(req.PackID, req.Slug, req.Tail)
	switch {
	case errors.Is(err, worker.ErrNoLog) && !trusted():
		return fault.NotFound("Handler not found").With("handler_not_found")
	case errors.Is(err, worker.ErrNoLog):
		lines = nil
	case err != nil:
		return err
	}
	if req.Follow {
		return follow(w, r, h.printed.Follow(r.Context(), req.PackID, req.Slug, req.Tail, trusted), func(l worker.LogLine) worker.LogLine { return l })
	}
	return rpc.WriteData(w, handlerLogsResponse{req.PackID, req.Slug, append([]worker.LogLine{}, lines...)})
}
