package unconfined

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/audit"
)

// markName is a variable that says whose a process is: "node/replica/child". What a process starts has it, too, whichever group
// or session it goes to, unless it takes pains not to.
const markName = "RUMI_UNCONFINED"

// maxRounds bounds how often processes are looked for that start others while they are ended.
const maxRounds = 100

func (e *Engine) mark(id string) string { return e.Node + "/" + e.Replica + "/" + id }

// endMarked kills the processes whose marks are wanted, and says how many there were.
func endMarked(wanted func(mark string) bool) (ended int, err error) {
	for range maxRounds {
		found, err := killMarked(wanted)
		if ended += found; err != nil || found == 0 {
			return ended, err
		}
	}
	return ended, fmt.Errorf("end what processes left behind: it starts others faster than it ends")
}

// killMarked looks once at each process.
func killMarked(wanted func(mark string) bool) (killed int, err error) {
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, fmt.Errorf("look for processes: %w", err)
	}
	for _, folder := range folders {
		pid, err := strconv.Atoi(filepath.Base(folder))
		if err != nil || pid == os.Getpid() || !wanted(markOf(folder)) {
			continue
		}
		// By a descriptor, since the number may be another process's by now: then the second look says so.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		if wanted(markOf(folder)) {
			if err := unix.PidfdSendSignal(fd, syscall.SIGKILL, nil, 0); err == nil {
				killed++
				_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
			} else if !errors.Is(err, unix.ESRCH) {
				_ = unix.Close(fd)
				return killed, fmt.Errorf("end process %d: %w", pid, err)
			}
		}
		_ = unix.Close(fd)
	}
	return killed, nil
}

// markOf reads the mark of a process, "" where it has none, has ended, or is somebody else's.
func markOf(folder string) string {
	text, err := os.ReadFile(filepath.Join(folder, "environ"))
	if err != nil {
		return ""
	}
	for variable := range bytes.SplitSeq(text, []byte{0}) {
		if mark, ok := bytes.CutPrefix(variable, []byte(markName+"=")); ok {
			return string(mark)
		}
	}
	return ""
}

// endOrphans ends what brokers that were killed have left running: the kernel ends with a broker only what it started itself.
func (e *Engine) endOrphans(ctx context.Context) error {
	ended, err := endMarked(func(mark string) bool {
		of, rest, _ := strings.Cut(mark, "/")
		replica, _, ok := strings.Cut(rest, "/")
		return ok && of == e.Node && !e.Alive(replica)
	})
	if ended > 0 {
		e.Log.WarnContext(ctx, "ended processes that a broker which was killed had left", "count", ended)
		err = errors.Join(err, e.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "unconfined_orphans_ended",
			Success: true, Details: map[string]any{"count": ended}}))
	}
	return err
}
