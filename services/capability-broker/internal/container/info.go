package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/packdata"
)

// Info is a pack's container as the API shows it (GET /api/containers).
type Info struct {
	PackID        string          `json:"pack_id"`
	ID            string          `json:"container_id"`
	Status        string          `json:"status"` // the engine's word: created, running, exited, …
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
	Warnings      []string        `json:"warnings"` // one for each resource of which the pack gets less than it asked for

	OverPolicy *policy.Violation `json:"over_policy"` // the rule of the policy that it breaks: it runs on, and is not started again
}

// LastExit is how a container's last run ended.
type LastExit struct {
	Code      int       `json:"code"`
	OOMKilled bool      `json:"oom_killed"`
	At        time.Time `json:"at"`
	Reason    string    `json:"reason"`
}

// List returns the containers of all packs, running or not, in the order of the packs' ids.
func (m *Manager) List(ctx context.Context) ([]Info, error) {
	list, err := m.Engine.List(ctx, sandbox.Pack)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	m.refreshRecords(ctx)
	ceiling := m.Policy.Current()
	infos := make(map[string]Info, len(list))
	for _, c := range list {
		r, _ := m.records.get(c.PackID)
		// A stray is about to be removed. It is shown only if the pack has nothing else.
		if _, listed := infos[c.PackID]; listed && c.ID != r.ContainerID {
			continue
		}
		info := newInfo(c, r)
		if info.Limits != nil {
			info.OverPolicy = ceiling.Container(r.Role, r.Limits.MemoryMB<<20).First()
		}
		infos[c.PackID] = info
	}
	out := slices.AppendSeq(make([]Info, 0, len(infos)), maps.Values(infos))
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.PackID, b.PackID) })
	return out, nil
}

// Findings are the containers of this host that run with more memory than a policy allows. It goes by the records: the engine need not answer.
func (m *Manager) Findings(ctx context.Context, p *policy.Policy) (all []policy.Finding, err error) {
	err = m.records.refresh(ctx)
	for _, r := range m.records.all() {
		if r.Running {
			all = append(all, p.Container(r.Role, r.Limits.MemoryMB<<20).Findings(policy.Finding{Kind: policy.Container, PackID: r.PackID, Role: string(r.Role)})...)
		}
	}
	return all, err
}

// newInfo joins what the engine says of a container with its record. Of a container that the record doesn't name, only what
// the engine says is shown.
func newInfo(c sandbox.Container, r Record) Info {
	info := Info{PackID: c.PackID, ID: c.ID, Status: c.Status, Image: c.Image, ImageID: c.ImageID, Digest: c.Digest, CreatedAt: c.Created,
		RestartPolicy: r.policy(), Warnings: []string{}}
	if r.ContainerID != c.ID {
		return info
	}
	info.StartedAt, info.Restarts, info.RestartAt, info.Limits = timeOrNil(r.StartedAt), r.Restarts, timeOrNil(r.RestartAt), &r.Limits
	info.Warnings = append(info.Warnings, r.Warnings...)
	if r.Exit != nil {
		info.LastExit = &LastExit{r.Exit.Code, r.Exit.OOMKilled, r.FinishedAt, r.Reason}
	}
	if !c.Alive() && !r.Running {
		info.Reason, info.FinishedAt = r.Reason, timeOrNil(r.FinishedAt)
		if r.Exit != nil {
			info.ExitCode, info.OOMKilled = &r.Exit.Code, r.Exit.OOMKilled
		}
	}
	return info
}

// timeOrNil is t as JSON shows it: null for no time.
func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Stats is one reading of the resources that a pack's container uses.
type Stats struct {
	sandbox.Stats
	ID      string
	Started time.Time
	Data    *packdata.Usage // nil if the folder can't be measured within dataWait
}

// dataWait bounds the measuring of a data folder for Stats: a pack may have put millions of files into it.
const dataWait = 5 * time.Second

// Stats measures a pack's container. A container that doesn't run is a fault: conflict.
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
	if u, err := packdata.Measure(ctx, filepath.Join(m.DataDir, packID)); err == nil {
		found.Data = &u
	}
	return found, nil
}
