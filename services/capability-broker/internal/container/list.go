package container

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// Info is a pack's container as it is shown.
type Info struct {
	PackID        string          `json:"pack_id"`
	ID            string          `json:"container_id"`
	Status        string          `json:"status"` // Docker's word: created, running, exited, …
	Image         string          `json:"image"`
	ImageID       string          `json:"image_id"`
	Digest        string          `json:"digest"` // of the tree it runs
	CreatedAt     time.Time       `json:"created_at"`
	StartedAt     *time.Time      `json:"started_at"`
	FinishedAt    *time.Time      `json:"finished_at"` // of its last end, like the next three
	ExitCode      *int            `json:"exit_code"`   // null while it runs
	OOMKilled     bool            `json:"oom_killed"`
	Reason        string          `json:"reason"`
	RestartPolicy pack.Restart    `json:"restart_policy"`
	Restarts      int             `json:"restarts"`   // since it was started
	RestartAt     *time.Time      `json:"restart_at"` // when it is due to be started again
	LastExit      *LastExit       `json:"last_exit"`  // kept while it runs again
	Limits        *pack.Resources `json:"limits"`
	Warnings      []string        `json:"warnings"` // of what it asked for and was not given
}

// LastExit is how a container ended last.
type LastExit struct {
	Code      int       `json:"code"`
	OOMKilled bool      `json:"oom_killed"`
	At        time.Time `json:"at"`
	Reason    string    `json:"reason"`
}

// List gives the containers of all packs, running or not, by pack.
func (m *Manager) List(ctx context.Context) ([]Info, error) {
	list, err := m.Engine.List(ctx, sandbox.Pack)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	m.refresh(ctx)
	infos := make(map[string]Info, len(list))
	for _, c := range list {
		m.mu.Lock()
		r := m.records[c.PackID]
		m.mu.Unlock()
		// A stray is on its way out; where it is all there is of a pack, it is shown.
		if _, there := infos[c.PackID]; there && c.ID != r.ContainerID {
			continue
		}
		infos[c.PackID] = newInfo(c, r)
	}
	out := slices.AppendSeq(make([]Info, 0, len(infos)), maps.Values(infos))
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.PackID, b.PackID) })
	return out, nil
}

// newInfo joins what the engine says and what is kept.
func newInfo(c sandbox.Container, r Record) Info {
	info := Info{PackID: c.PackID, ID: c.ID, Status: c.Status, Image: c.Image, ImageID: c.ImageID, Digest: c.Digest, CreatedAt: c.Created,
		RestartPolicy: r.policy(), Warnings: []string{}}
	if r.ContainerID != c.ID {
		return info
	}
	at := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	info.StartedAt, info.Restarts, info.RestartAt, info.Limits = at(r.StartedAt), r.Restarts, at(r.RestartAt), &r.Limits
	info.Warnings = append(info.Warnings, r.Warnings...)
	if r.Exit != nil {
		info.LastExit = &LastExit{r.Exit.Code, r.Exit.OOMKilled, r.FinishedAt, r.Reason}
	}
	if !c.Alive() && !r.Running {
		info.Reason, info.FinishedAt = r.Reason, at(r.FinishedAt)
		if r.Exit != nil {
			info.ExitCode, info.OOMKilled = &r.Exit.Code, r.Exit.OOMKilled
		}
	}
	return info
}

// Stats is what a pack's container uses.
type Stats struct {
	sandbox.Stats
	ID      string
	Started time.Time
	Data    *Usage // nil where the folder can't be measured
}

// dataWait bounds the measuring of a data folder for Stats.
const dataWait = 5 * time.Second

// Stats measures a pack's container. One that doesn't run is a conflict.
func (m *Manager) Stats(ctx context.Context, packID string) (Stats, error) {
	if _, err := pack.ParseID(packID); err != nil {
		return Stats{}, err
	}
	c, err := m.ownContainer(ctx, packID)
	if err != nil {
		return Stats{}, err
	}
	if c == nil {
		return Stats{}, fault.NotFound("Container not found").With("container_not_found")
	}
	s, err := m.Engine.Stats(ctx, c.ID)
	switch {
	case errors.Is(err, sandbox.ErrNotRunning):
		return Stats{}, fault.Conflict("Container is not running").With("container_not_running").Because(err)
	case errors.Is(err, sandbox.ErrNotFound):
		return Stats{}, fault.NotFound("Container not found").With("container_not_found").Because(err)
	case err != nil:
		return Stats{}, err
	}
	found := Stats{Stats: s, ID: c.ID, Started: c.Started}
	ctx, cancel := context.WithTimeout(ctx, dataWait)
	defer cancel()
	if u, err := usage(ctx, filepath.Join(m.DataDir, packID)); err == nil {
		found.Data = &u
	}
	return found, nil
}

// Logs gives the output of a pack's container, its last tail lines first and, with follow, what comes until it ends.
func (m *Manager) Logs(ctx context.Context, packID string, opts sandbox.LogOptions) (iter.Seq2[sandbox.Line, error], error) {
	c, err := m.ownContainer(ctx, packID)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, fault.NotFound("Container not found").With("container_not_found")
	}
	return m.Engine.Logs(ctx, c.ID, opts), nil
}
