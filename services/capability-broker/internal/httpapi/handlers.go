package httpapi

import (
	"context"
	"errors"
	"net/http"
	"regexp"

	api "github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

var slugPattern = regexp.MustCompile(`\A[a-zA-Z0-9_-]{1,64}\z`)

type handlers struct {
	registry *handler.Registry
	printed  *worker.Logs
}

func (h handlers) list(_ context.Context, req api.HandlersRequest) (api.HandlersResponse, error) {
	answer := api.HandlersResponse{Handlers: []api.Handler{}}
	if req.PackID != "" {
		if _, err := pack.ParseID(req.PackID); err != nil {
			return answer, err
		}
	}
	for _, t := range h.registry.All() {
		if req.PackID == "" || t.PackID == req.PackID {
			answer.Handlers = append(answer.Handlers, api.Handler{
				PackID: t.PackID, Slug: t.Slug, HandlerID: t.HandlerID, PermissionID: t.PermissionID, Entrypoint: t.Entrypoint, CandidateKey: t.CandidateKey,
				Digest: t.FolderDigest, InstalledAt: t.InstalledAt, InstalledBy: t.InstalledBy, InstalledTo: t.InstalledTo(),
			})
		}
	}
	answer.Count = len(answer.Handlers)
	return answer, nil
}

// logs gives what a handler has printed, also one that is trusted no longer while its pack is installed.
func (h handlers) logs(w http.ResponseWriter, r *http.Request, req api.HandlerLogsRequest) error {
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
		return follow(w, r, h.printed.Follow(r.Context(), req.PackID, req.Slug, req.Tail, trusted), handlerLine)
	}
	answer := api.HandlerLogsResponse{PackID: req.PackID, Slug: req.Slug, Lines: make([]api.HandlerLine, len(lines))}
	for i, l := range lines {
		answer.Lines[i] = handlerLine(l)
	}
	return rpc.WriteData(w, answer)
}

func handlerLine(l worker.LogLine) api.HandlerLine { return api.HandlerLine(l) }
