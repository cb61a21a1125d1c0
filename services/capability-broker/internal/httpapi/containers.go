package httpapi

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/container"
)

type containers struct{ *container.Manager }

// Containers serves pack containers and what there is to know of Docker.
func Containers(mux *server.Mux, m *container.Manager) {
	c := containers{m}
	mux.Route("GET /api/docker/status", rpc.Handle(c.docker), "gateway")
	mux.Route("GET /api/containers", rpc.Handle(c.list), "gateway")
	mux.Route("POST /api/containers/{pack_id}/start", rpc.Handle(c.start), "gateway")
	mux.Route("POST /api/containers/{pack_id}/stop", rpc.Handle(c.stop), "gateway")
	mux.Route("DELETE /api/containers/{pack_id}", rpc.Handle(c.delete), "gateway")
	mux.Route("GET /api/containers/{pack_id}/stats", rpc.Handle(c.stats), "gateway")
	mux.Route("GET /api/containers/{pack_id}/logs", rpc.Raw(c.logs), "gateway")
}

type packRequest struct {
	PackID string `path:"pack_id" json:"-"`
}

func (c containers) list(ctx context.Context, _ struct{}) ([]container.Info, error) {
	return c.List(ctx)
}

type startResponse struct {
	Success bool   `json:"success"`
	PackID  string `json:"pack_id"`
	ID      string `json:"container_id"`
	Status  string `json:"status"`
	Digest  string `json:"digest"`
	ImageID string `json:"image_id"`

	Warnings []string `json:"warnings"`
}

func (c containers) start(ctx context.Context, req packRequest) (startResponse, error) {
	started, err := c.Start(ctx, req.PackID)
	if err != nil {
		return startResponse{}, err
	}
	return startResponse{true, req.PackID, started.ID, "running", started.Digest, started.ImageID, append([]string{}, started.Warnings...)}, nil
}

type stopResponse struct {
	Success bool   `json:"success"`
	PackID  string `json:"pack_id"`
	Stopped bool   `json:"stopped"` // it was running
}

func (c containers) stop(ctx context.Context, req packRequest) (stopResponse, error) {
	stopped, err := c.Stop(ctx, req.PackID)
	return stopResponse{true, req.PackID, stopped}, err
}

type deleteResponse struct {
	Success bool   `json:"success"`
	PackID  string `json:"pack_id"`
	Removed bool   `json:"removed"` // there was one
}

func (c containers) delete(ctx context.Context, req packRequest) (deleteResponse, error) {
	removed, _, err := c.Delete(ctx, req.PackID)
	return deleteResponse{true, req.PackID, removed}, err
}

type logsRequest struct {
	PackID string `path:"pack_id" json:"-"`
	Tail   int    `query:"tail" json:"-"`
	Follow bool   `query:"follow" json:"-"`
	Run    int    `query:"run" json:"-"`
	Since  string `query:"since" json:"-"`
}

// lines are those that a request asks for; all that is wrong with it is a fault.
func (c containers) lines(ctx context.Context, req logsRequest) (iter.Seq2[sandbox.Line, error], error) {
	switch {
	case req.Run > 0 || req.Run < -container.RunsKept:
		return nil, fault.InvalidField("run", fmt.Sprintf("a whole number from %d to 0", -container.RunsKept))
	case req.Follow && (req.Run != 0 || req.Since != ""), req.Run != 0 && req.Since != "":
		return nil, fault.Invalid("'follow', 'run' and 'since' can't be combined").With("invalid_field")
	case req.Run != 0:
		return c.RunLogs(req.PackID, req.Run)
	case req.Since != "":
		since, err := time.Parse(time.RFC3339, req.Since)
		if err != nil {
			return nil, fault.InvalidField("since", "a time such as 2026-01-02T15:04:05Z")
		}
		return c.LogsSince(ctx, req.PackID, since)
	}
	return c.Logs(ctx, req.PackID, sandbox.LogOptions{Tail: req.Tail, Follow: req.Follow})
}

type logLine struct {
	TS     time.Time `json:"ts"`
	Stream string    `json:"stream"`
	Text   string    `json:"text"`
}

func shown(l sandbox.Line) logLine { return logLine{l.Time, l.Stream, l.Text} }

type logsResponse struct {
	PackID string    `json:"pack_id"`
	Lines  []logLine `json:"lines"`
}

func (c containers) logs(w http.ResponseWriter, r *http.Request) error {
	req, err := rpc.Decode[logsRequest](r)
	if err != nil {
		return err
	}
	if _, err := pack.ParseID(req.PackID); err != nil {
		return err
	}
	if err := checkTail(r, &req.Tail); err != nil {
		return err
	}
	lines, err := c.lines(r.Context(), req)
	if err != nil {
		return err
	}
	if req.Follow {
		return follow(w, r, lines, shown)
	}
	answer := logsResponse{PackID: req.PackID, Lines: []logLine{}}
	size := 0
	for line, err := range lines {
		if err != nil {
			return gone(err)
		}
		answer.Lines = append(answer.Lines, shown(line))
		for size += len(line.Text); size > maxLogBytes || len(answer.Lines) > req.Tail; answer.Lines = answer.Lines[1:] {
			size -= len(answer.Lines[0].Text)
		}
	}
	return rpc.WriteData(w, answer)
}

func gone(err error) error {
	if errors.Is(err, sandbox.ErrNotFound) {
		return fault.NotFound("Container not found").With("container_not_found").Because(err)
	}
	return err
}
