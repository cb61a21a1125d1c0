package container

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// Info is a pack's container as it is shown.
type Info struct {
	PackID     string     `json:"pack_id"`
	ID         string     `json:"container_id"`
	Status     string     `json:"status"` // Docker's word: created, running, exited, …
	Image      string     `json:"image"`
	Digest     string     `json:"digest"` // of the tree it runs
	CreatedAt  time.Time  `json:"created_at"`
	FinishedAt *time.Time `json:"finished_at"` // where it is known
	ExitCode   *int       `json:"exit_code"`   // null while it runs
	OOMKilled  bool       `json:"oom_killed"`
}

// List gives the containers of all packs, running or not, by pack.
func (m *Manager) List(ctx context.Context) ([]Info, error) {
	list, err := m.Engine.List(ctx, sandbox.Pack)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	out := make([]Info, 0, len(list))
	for _, c := range list {
		info := Info{PackID: c.PackID, ID: c.ID, Status: c.Status, Image: c.Image, Digest: c.Digest, CreatedAt: c.Created}
		if !c.Running() && c.Status != "created" {
			m.ended(ctx, c, &info)
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.PackID, b.PackID) })
	return out, nil
}

// ended adds how a container ended. What was not seen is asked.
func (m *Manager) ended(ctx context.Context, c sandbox.Container, info *Info) {
	m.mu.Lock()
	var exit *sandbox.Exit
	if r := m.known[c.PackID]; r != nil && r.id == c.ID {
		exit = r.exit
		if !r.ended.IsZero() {
			at := r.ended
			info.FinishedAt = &at
		}
	}
	m.mu.Unlock()
	if exit == nil {
		e, err := m.Engine.Wait(ctx, c.ID)
		if err != nil {
			return
		}
		exit = &e
	}
	info.ExitCode, info.OOMKilled = &exit.Code, exit.OOMKilled
}

// Logs gives the output of a pack's container, its last tail lines first and, with follow, what comes until it ends.
func (m *Manager) Logs(ctx context.Context, packID string, opts sandbox.LogOptions) (iter.Seq2[sandbox.Line, error], error) {
	c, err := m.find(ctx, packID)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, fault.NotFound("Container not found")
	}
	return m.Engine.Logs(ctx, c.ID, opts), nil
}
