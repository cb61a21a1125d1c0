package service

import (
	"runtime"
	"runtime/metrics"
	"testing"
)

type modest struct{}

func (modest) SpareHeap() int { return 4 << 20 }

// How much garbage may lie is what a service's configuration says, twice: what counts as used, and as much again.
func TestSpareHeap(t *testing.T) {
	goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	for name, c := range map[string]struct {
		cfg            any
		atLeast, below uint64
	}{
		"any":    {struct{}{}, 64 << 20, 96 << 20},
		"modest": {modest{}, 8 << 20, 40 << 20},
	} {
		stop := settle(spareHeapOf(c.cfg))
		runtime.GC()
		metrics.Read(goal)
		stop()
		if bytes := goal[0].Value.Uint64(); bytes < c.atLeast || bytes >= c.below {
			t.Errorf("%s: the heap is collected at %d bytes", name, bytes)
		}
	}
}
