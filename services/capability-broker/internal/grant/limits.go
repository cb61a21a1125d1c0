package grant

import "github.com/rumi-ai/rumi/libs/fault"

// Limits are the most that a call's container may use. A field that is absent leaves the operator's default.
type Limits struct {
	MemoryMB       *int64   `json:"memory_mb,omitzero"` // MiB
	CPUs           *float64 `json:"cpus,omitzero"`
	PIDs           *int64   `json:"pids,omitzero"`
	TimeoutSeconds *float64 `json:"timeout_seconds,omitzero"`
}

func (l *Limits) check() error {
	if l == nil {
		return nil
	}
	for _, bound := range []struct {
		name string
		ok   bool
	}{
		{"memory_mb", l.MemoryMB == nil || *l.MemoryMB > 0}, {"cpus", l.CPUs == nil || *l.CPUs > 0},
		{"pids", l.PIDs == nil || *l.PIDs > 0}, {"timeout_seconds", l.TimeoutSeconds == nil || *l.TimeoutSeconds > 0},
	} {
		if !bound.ok {
			return fault.Invalid("Invalid limits: '%s' must be positive", bound.name).With("invalid_limits")
		}
	}
	return nil
}

// narrow returns, field by field, the lower of two limits.
func (l Limits) narrow(other *Limits) Limits {
	if other == nil {
		return l
	}
	return Limits{
		MemoryMB: lower(l.MemoryMB, other.MemoryMB), CPUs: lower(l.CPUs, other.CPUs),
		PIDs: lower(l.PIDs, other.PIDs), TimeoutSeconds: lower(l.TimeoutSeconds, other.TimeoutSeconds),
	}
}

// lower is the lower of two bounds, where nil bounds nothing.
func lower[T int64 | float64](a, b *T) *T {
	if a == nil || b != nil && *b < *a {
		return b
	}
	return a
}
