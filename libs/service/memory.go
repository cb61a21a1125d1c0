package service

import (
	"runtime"
	"runtime/debug"
)

// spareHeap is how many bytes of garbage a service may hold beyond what the collector lets it hold anyway, as much as
// what it uses, where its configuration doesn't say how many with a method SpareHeap.
const spareHeap = 32 << 20

func spareHeapOf(cfg any) int {
	if c, ok := cfg.(interface{ SpareHeap() int }); ok {
		return c.SpareHeap()
	}
	return spareHeap
}

// settle gives back what starting took, and makes the collector of a small heap run less often until stop is called. What
// a service uses is a few megabytes, so that under load it would be collected fifty times a second, each time looking
// at, and shrinking, the stack of every connection: a quarter of what a denied request cost the egress proxy. A block
// that counts as used but is never touched, and so takes no memory, says how much garbage is worth a collection.
func settle(spare int) (stop func()) {
	debug.FreeOSMemory()
	block := make([]byte, spare)
	return func() { runtime.KeepAlive(block) }
}
