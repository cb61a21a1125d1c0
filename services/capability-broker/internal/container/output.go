package container

import (
	"context"
	"iter"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/runlog"
)

// RunsKept is how many earlier runs of a pack RunLogs knows.
const RunsKept = runlog.Kept

// outputWait bounds the reading of a container's output before the container is replaced.
const outputWait = 5 * time.Second

// saveOutput keeps the output of a container that is about to be replaced. A failure is logged only: it is no reason not to
// replace the container.
func (m *Manager) saveOutput(ctx context.Context, c sandbox.Container) {
	if c.Started.IsZero() {
		return // it has never run
	}
	bounded, cancel := context.WithTimeout(ctx, outputWait)
	defer cancel()
	output := m.Engine.Logs(bounded, c.ID, sandbox.LogOptions{Tail: runlog.MaxLines})
	if err := m.runs.Save(c.PackID, headOf(c), output); err != nil {
		m.Log.WarnContext(ctx, "the output of a pack's last run could not be kept", "pack_id", c.PackID, "error", err)
	}
}

func headOf(c sandbox.Container) runlog.Head {
	return runlog.Head{Digest: c.Digest, StartedAt: c.Started}
}

// noContainer is the answer for a known pack that has no container.
func noContainer() *fault.Fault {
	return fault.NotFound("Container not found").With("container_not_found")
}

// Logs returns the output of a pack's container, its last opts.Tail lines first and, with opts.Follow, what comes until it ends.
func (m *Manager) Logs(ctx context.Context, packID string, opts sandbox.LogOptions) (iter.Seq2[sandbox.Line, error], error) {
	c, err := m.ownContainer(ctx, packID)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, noContainer()
	}
	return m.Engine.Logs(ctx, c.ID, opts), nil
}

// RunLogs returns the output of a run before the container that is there: -1 is the last one, -RunsKept the oldest that may be kept.
// One that isn't kept is a fault: not found.
func (m *Manager) RunLogs(packID string, run int) (iter.Seq2[sandbox.Line, error], error) {
	numbers, err := m.runs.Numbers(packID)
	if err != nil {
		return nil, err
	}
	if len(numbers)+run < 0 {
		return nil, fault.NotFound("Run not found: the output of %d earlier runs is kept", len(numbers)).With("run_not_found")
	}
	return m.runs.Read(packID, numbers[len(numbers)+run]), nil
}

// LogsSince returns the output of all runs that are kept and of the container that is there, from a time on. Each run begins
// with a line of the stream runlog.Stream. A run that can't be read is logged and left out.
func (m *Manager) LogsSince(ctx context.Context, packID string, since time.Time) (iter.Seq2[sandbox.Line, error], error) {
	c, err := m.ownContainer(ctx, packID)
	if err != nil {
		return nil, err
	}
	numbers, err := m.runs.Numbers(packID)
	if err != nil {
		return nil, err
	}
	if c == nil && len(numbers) == 0 {
		return nil, noContainer()
	}
	return func(yield func(sandbox.Line, error) bool) {
		for _, number := range numbers {
			for line, err := range m.runs.Read(packID, number) {
				if err != nil {
					m.Log.WarnContext(ctx, "the output of an earlier run can't be read", "pack_id", packID, "error", err)
					break
				}
				if !line.Time.Before(since) && !yield(line, nil) {
					return
				}
			}
		}
		if c != nil {
			m.currentSince(ctx, *c, since, yield)
		}
	}, nil
}

// currentSince is LogsSince for the container that is there.
func (m *Manager) currentSince(ctx context.Context, c sandbox.Container, since time.Time, yield func(sandbox.Line, error) bool) {
	if head := headOf(c).Line(); !head.Time.Before(since) && !yield(head, nil) {
		return
	}
	for line, err := range m.Engine.Logs(ctx, c.ID, sandbox.LogOptions{}) {
		if (err != nil || !line.Time.Before(since)) && !yield(line, err) {
			return
		}
	}
}
