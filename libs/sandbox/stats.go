package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
)

// Stats is one reading of a running container's use of resources.
type Stats struct {
	Time time.Time // of the reading

	CPUTime       time.Duration // of all its processors, since its start
	ThrottledTime time.Duration // for which it would have run, but its limit held it back

	Memory      int64 // bytes that the limit counts, without the file cache that the kernel would give up first
	MemoryPeak  int64 // bytes, cache included; 0 if the kernel doesn't say (cgroup v2)
	MemoryLimit int64 // bytes

	PIDs, PIDLimit int64 // a limit of 0 is none

	BlockRead, BlockWritten int64 // bytes, of devices; 0 where the kernel's I/O controller is off
}

// Stats asks the engine for one reading. A container that doesn't run has none: the error is ErrNotRunning.
func (e *Engine) Stats(ctx context.Context, id string) (Stats, error) {
	if c, err := e.Inspect(ctx, id); err != nil {
		return Stats{}, err
	} else if !c.Running() {
		return Stats{}, fmt.Errorf("read statistics of container %.12s: %w", id, ErrNotRunning)
	}
	ctx, cancel := bounded(ctx, answerWait)
	defer cancel()
	answer, err := e.api.ContainerStatsOneShot(ctx, id)
	if cerrdefs.IsNotFound(err) {
		return Stats{}, fmt.Errorf("read statistics of container %.12s: %w", id, ErrNotFound)
	}
	if err != nil {
		return Stats{}, clientError(ctx, "read statistics", err)
	}
	defer answer.Body.Close()
	var raw container.StatsResponse
	if err := json.NewDecoder(answer.Body).Decode(&raw); err != nil {
		return Stats{}, fmt.Errorf("read statistics: %w", err)
	}
	if raw.Read.Year() <= 1 || raw.PidsStats.Current == 0 && raw.MemoryStats.Usage == 0 { // it ended meanwhile
		return Stats{}, fmt.Errorf("read statistics of container %.12s: %w", id, ErrNotRunning)
	}
	return statsOf(raw), nil
}

// statsOf reads the engine's answer, which has the names of cgroup v1 or v2.
func statsOf(raw container.StatsResponse) Stats {
	s := Stats{
		Time:          raw.Read,
		CPUTime:       time.Duration(raw.CPUStats.CPUUsage.TotalUsage),
		ThrottledTime: time.Duration(raw.CPUStats.ThrottlingData.ThrottledTime),
		MemoryPeak:    int64(raw.MemoryStats.MaxUsage),
		MemoryLimit:   int64(raw.MemoryStats.Limit),
		PIDs:          int64(raw.PidsStats.Current),
		PIDLimit:      max(0, int64(raw.PidsStats.Limit)), // none is 2^64-1
	}
	cache, v1 := raw.MemoryStats.Stats["total_inactive_file"]
	if !v1 {
		cache = raw.MemoryStats.Stats["inactive_file"]
	}
	s.Memory = int64(raw.MemoryStats.Usage - min(cache, raw.MemoryStats.Usage))
	for _, entry := range raw.BlkioStats.IoServiceBytesRecursive {
		switch strings.ToLower(entry.Op) { // "Read" in v1, "read" in v2
		case "read":
			s.BlockRead += int64(entry.Value)
		case "write":
			s.BlockWritten += int64(entry.Value)
		}
	}
	return s
}
