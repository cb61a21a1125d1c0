package worker

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
)

// Ceiling is the operator's bound on every call, whatever its grant says. What a grant doesn't name has the default of package
// sandbox, or the ceiling if that is lower.
type Ceiling struct {
	sandbox.Limits
	Timeout time.Duration // of a call, from when a worker has it
}

// CheckGrant refuses a grant whose limits are over the ceiling, or so low that nothing could start. It is one of grant.Config's checks.
func (c Ceiling) CheckGrant(_ context.Context, g *grant.Grant) error {
	l := g.Terms.Limits
	if l == nil {
		return nil
	}
	const over = "Invalid limits: '%s' is over the operator's %v (%s)"
	switch {
	case l.MemoryMB != nil && *l.MemoryMB > c.Memory>>20:
		return fault.Invalid(over, "memory_mb", c.Memory>>20, "RUMI_CONTAINER_MAX_MEMORY_MB").With("invalid_limits")
	case l.CPUs != nil && *l.CPUs > c.CPUs:
		return fault.Invalid(over, "cpus", c.CPUs, "RUMI_CONTAINER_MAX_CPUS").With("invalid_limits")
	case l.PIDs != nil && *l.PIDs > c.PIDs:
		return fault.Invalid(over, "pids", c.PIDs, "RUMI_CONTAINER_MAX_PIDS").With("invalid_limits")
	case l.TimeoutSeconds != nil && *l.TimeoutSeconds > c.Timeout.Seconds():
		return fault.Invalid(over, "timeout_seconds", c.Timeout.Seconds(), "RUMI_CAPABILITY_MAX_TIMEOUT").With("invalid_limits")
	}
	if c.of(*l).Check() != nil {
		least := sandbox.MinLimits
		return fault.Invalid("Invalid limits: the least is memory_mb %d, cpus %g, pids %d", least.Memory>>20, least.CPUs, least.PIDs).With("invalid_limits")
	}
	return nil
}

// of is what a worker really gets of a grant's limits. If the ceiling was lowered since the grant was made, the ceiling counts.
func (c Ceiling) of(l grant.Limits) sandbox.Limits {
	asked := sandbox.Limits{CPUs: deref(l.CPUs), PIDs: deref(l.PIDs)}
	if l.MemoryMB != nil {
		asked.Memory = min(*l.MemoryMB, c.Memory>>20) << 20
	}
	given, _ := asked.Within(c.Limits)
	return given
}

// timeout is how long a call may run.
func (c Ceiling) timeout(l grant.Limits) time.Duration {
	if l.TimeoutSeconds == nil || *l.TimeoutSeconds >= c.Timeout.Seconds() {
		return c.Timeout
	}
	return max(time.Duration(*l.TimeoutSeconds*float64(time.Second)), time.Nanosecond)
}
