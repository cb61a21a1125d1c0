package service

import (
	"runtime"
	"runtime/debug"
)

// spareHeap is how many bytes of garbage a service may hold beyond the size of its live heap, which the collector allows it anyway. A
// service's configuration has another number by a method SpareHeap.
const spareHeap = 32 << 20

// spareHeapOf is the number of the configuration's method SpareHeap, or spareHeap if it has none.
func spareHeapOf(cfg any) int {
	if c, ok := cfg.(interface{ SpareHeap() int }); ok {
		return c.SpareHeap()
	}
	return spareHeap
}

// tuneGC returns the memory that the start took to the kernel, and allocates a heap ballast of spare bytes, until stop is called.
//
// Without the ballast the collector runs too often: the live heap of a service has a few megabytes, so that with GOGC=100 it would be
// collected fifty times a second under load, and each collection scans and shrinks the stack of every connection. That was a
// quarter of the processor time of a denied request in the egress proxy. The ballast counts as live, so that the collector waits for as much
// garbage; it is never touched, so that the kernel gives it no memory.
func tuneGC(spare int) (stop func()) {
	debug.FreeOSMemory()
	block := make([]byte, spare)
	return func() { runtime.KeepAlive(block) }
}
