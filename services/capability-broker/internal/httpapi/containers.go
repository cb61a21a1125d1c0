package httpapi

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"time"

	api "github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/container"
)

type containers struct{ *container.Manager }

func (c containers) list(ctx context.Context, _ struct{}) ([]api.Container, error) {
	infos, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]api.Container, len(infos))
	for i, info := range infos {
		all[i] = api.Container{
			PackID: info.PackID, ID: info.ID, Status: info.Status, Image: info.Image, ImageID: info.ImageID, Digest: info.Digest,
			CreatedAt: info.CreatedAt, StartedAt: info.StartedAt, FinishedAt: info.FinishedAt, ExitCode: info.ExitCode, OOMKilled: info.OOMKilled,
			Reason: info.Reason, RestartPolicy: info.RestartPolicy, Restarts: info.Restarts, RestartAt: info.RestartAt,
			LastExit: (*api.LastExit)(info.LastExit), Limits: info.Limits, Warnings: info.Warnings, OverPolicy: info.OverPolicy,
		}
	}
	return all, nil
}

func (c containers) start(ctx context.Context, req api.PackRequest) (api.StartResponse, error) {
	started, err := c.Start(ctx, req.PackID)
	if err != nil {
		return api.StartResponse{}, err
	}
	return api.StartResponse{
		Success: true, PackID: req.PackID, ID: started.ID, Status: "running", Digest: started.Digest, ImageID: started.ImageID,
		Warnings: append([]string{}, started.Warnings...),
	}, nil
}

func (c containers) stop(ctx context.Context, req api.PackRequest) (api.StopResponse, error) {
	stopped, err := c.Stop(ctx, req.PackID)
	return api.StopResponse{Success: true, PackID: req.PackID, Stopped: stopped}, err
}

func (c containers) delete(ctx context.Context, req api.PackRequest) (api.DeleteResponse, error) {
	removed, _, err := c.Delete(ctx, req.PackID)
	return api.DeleteResponse{Success: true, PackID: req.PackID, Removed: removed}, err
}

// lines are those that a request asks for; all that is wrong with it is a fault.
func (c containers) lines(ctx context.Context, req api.LogsRequest) (iter.Seq2[sandbox.Line, error], error) {
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

func shown(l sandbox.Line) api.Line { return api.Line{TS: l.Time, Stream: l.Stream, Text: l.Text} }

func (c containers) logs(w http.ResponseWriter, r *http.Request, req api.LogsRequest) error {
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
	answer := api.LogsResponse{PackID: req.PackID, Lines: []api.Line{}}
	size := 0
	for line, err := range lines {
		if err != nil {
			return logFault(err)
		}
		answer.Lines = append(answer.Lines, shown(line))
		for size += len(line.Text); size > maxLogBytes || len(answer.Lines) > req.Tail; answer.Lines = answer.Lines[1:] {
			size -= len(answer.Lines[0].Text)
		}
	}
	return rpc.WriteData(w, answer)
}

// logFault is the answer to an error of reading a log: 404 if the container was removed.
func logFault(err error) error {
	if errors.Is(err, sandbox.ErrNotFound) {
		return fault.NotFound("Container not found").With("container_not_found").Because(err)
	}
	return err
}
