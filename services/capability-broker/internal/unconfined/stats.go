package unconfined

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

// ticksPerSecond is Linux's USER_HZ, which is the same on every machine that Go runs on.
const ticksPerSecond = 100

// Stats adds up what the processes of the group use, as /proc has it (proc_pid_stat(5)). There are no limits.
func (e *Engine) Stats(_ context.Context, id string) (sandbox.Stats, error) {
	c, err := e.child(id)
	if err != nil {
		return sandbox.Stats{}, err
	}
	e.mu.Lock()
	running := c.info.Running()
	e.mu.Unlock()
	if !running {
		return sandbox.Stats{}, fmt.Errorf("read statistics of process %.12s: %w", id, sandbox.ErrNotRunning)
	}
	c.mu.Lock()
	pid := strconv.Itoa(c.process.Pid)
	c.mu.Unlock()
	stats := sandbox.Stats{Time: time.Now().UTC()}
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return stats, fmt.Errorf("read statistics: %w", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		// pid (comm) state ppid pgrp …; comm may have anything in it.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) < 22 || fields[2] != pid {
			continue
		}
		number := func(i int) int64 { n, _ := strconv.ParseInt(fields[i], 10, 64); return n }
		stats.CPUTime += time.Duration(number(11)+number(12)) * time.Second / ticksPerSecond
		stats.Memory += number(21) * int64(os.Getpagesize())
		stats.PIDs += number(17) // threads count, as they do in a container
	}
	return stats, nil
}
