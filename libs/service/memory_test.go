package service

import (
	"runtime"
	"runtime/metrics"
	"testing"
)

type modest struct{}

func (modest) SpareHeap() int { return 4 << 20 }

// The heap is collected at twice the ballast: what counts as live, and as much garbage.
func TestSpareHeap(t *testing.T) {
	goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	for name, c := range map[string]struct {
		cfg            any
		atLeast, below uint64
	}{
		"any":    {struct{}{}, 64 << 20, 96 << 20},
		"modest": {modest{}, 8 << 20, 40 << 20},
	} {
		stop := tuneGC(spareHeapOf(c.cfg))
		runtime.GC()
		metrics.Read(goal)
		stop()
		if bytes := goal[0].Value.Uint64(); bytes < c.atLeast || bytes >= c.below {
			t.Errorf("%s: the heap is collected at %d bytes, want %d to %d", name, bytes, c.atLeast, c.below)
		}
	}
}
