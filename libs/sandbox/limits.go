package sandbox

import (
	"context"
	"fmt"
)

// Limits bound what a container may use. A field that is 0 stands for that of DefaultLimits.
type Limits struct {
	Memory int64   // bytes, swap included; /tmp counts towards it
	CPUs   float64 // processors
	PIDs   int64   // processes and threads
}

// DefaultLimits are the profile's: 512 MiB without swap, one CPU, 128 processes.
var DefaultLimits = Limits{Memory: 512 << 20, CPUs: 1, PIDs: 128}

// MinLimits are the least that a container starts with: what the engine asks for, and room for PID 1.
var MinLimits = Limits{Memory: 16 << 20, CPUs: 0.01, PIDs: 8}

// Within returns what l comes to under a ceiling, and in words what was cut. A field that is 0 becomes that of DefaultLimits, or the ceiling's
// if that is lower; this counts as no cut.
func (l Limits) Within(ceiling Limits) (given Limits, cut []string) {
	ceiling = ceiling.withDefaults(DefaultLimits)
	if l.Memory > ceiling.Memory {
		cut = append(cut, fmt.Sprintf("memory cut from %d to %d MiB", l.Memory>>20, ceiling.Memory>>20))
	}
	if l.CPUs > ceiling.CPUs {
		cut = append(cut, fmt.Sprintf("CPUs cut from %g to %g", l.CPUs, ceiling.CPUs))
	}
	if l.PIDs > ceiling.PIDs {
		cut = append(cut, fmt.Sprintf("processes cut from %d to %d", l.PIDs, ceiling.PIDs))
	}
	l = l.withDefaults(DefaultLimits)
	return Limits{min(l.Memory, ceiling.Memory), min(l.CPUs, ceiling.CPUs), min(l.PIDs, ceiling.PIDs)}, cut
}

func (l Limits) withDefaults(other Limits) Limits {
	if l.Memory == 0 {
		l.Memory = other.Memory
	}
	if l.CPUs == 0 {
		l.CPUs = other.CPUs
	}
	if l.PIDs == 0 {
		l.PIDs = other.PIDs
	}
	return l
}

// Check refuses limits under which nothing would start.
func (l Limits) Check() error {
	l = l.withDefaults(DefaultLimits)
	if l.Memory < MinLimits.Memory || !(l.CPUs >= MinLimits.CPUs) || l.PIDs < MinLimits.PIDs {
		return fmt.Errorf("limits %+v are below the least, %+v", l, MinLimits)
	}
	return nil
}

// nanoCPUs is the limit as the engine wants it. The engine refuses more CPUs than the machine has, so they are cut to that; the default of one
// CPU needs no question.
func (e *Engine) nanoCPUs(ctx context.Context, cpus float64) (int64, error) {
	if cpus > DefaultLimits.CPUs {
		e.mu.Lock()
		have := e.cpus
		e.mu.Unlock()
		if have == 0 {
			info, err := e.info(ctx)
			if err != nil {
				return 0, err
			}
			have = info.NCPU
			e.mu.Lock()
			e.cpus = have
			e.mu.Unlock()
		}
		cpus = min(cpus, float64(have))
	}
	return int64(cpus * 1e9), nil
}
