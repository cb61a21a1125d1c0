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

// tagVariable is an environment variable that says which child a process belongs to: "node/replica/child". What a process starts inherits it,
// whichever process group or session that moves to. Code that clears its environment on purpose isn't found: this package doesn't confine.
const tagVariable = "RUMI_UNCONFINED"

// maxKillRounds bounds how often killTagged lists processes: some may start others while they are killed.
const maxKillRounds = 100

func (e *Engine) tag(id string) string { return e.Node + "/" + e.Replica + "/" + id }

// killTagged kills the processes whose tags are wanted, again until there are none, and returns how many there were.
func killTagged(wanted func(tag string) bool) (ended int, err error) {
	for range maxKillRounds {
		found, err := killTaggedOnce(wanted)
		if ended += found; err != nil || found == 0 {
			return ended, err
		}
	}
	return ended, fmt.Errorf("end what processes left behind: it starts others faster than it ends")
}

// killTaggedOnce is one round of killTagged.
func killTaggedOnce(wanted func(tag string) bool) (killed int, err error) {
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, fmt.Errorf("look for processes: %w", err)
	}
	for _, folder := range folders {
		pid, err := strconv.Atoi(filepath.Base(folder))
		if err != nil || pid == os.Getpid() || !wanted(tagOf(folder)) {
			continue
		}
		// Race: the process may end after its tag was read, and its number become another process's. So it is killed by a descriptor,
		// and its tag is read once more when that is open: from then on the number can't mean another process to us.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		if wanted(tagOf(folder)) {
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

// tagOf reads the tag of a process; "" if it has none, has ended, or belongs to another user.
func tagOf(folder string) string {
	text, err := os.ReadFile(filepath.Join(folder, "environ"))
	if err != nil {
		return ""
	}
	for variable := range bytes.SplitSeq(text, []byte{0}) {
		if tag, ok := bytes.CutPrefix(variable, []byte(tagVariable+"=")); ok {
			return string(tag)
		}
	}
	return ""
}

// endOrphans kills what brokers that were killed have left running: with a broker the kernel kills only what that started itself, not what
// its children started.
func (e *Engine) endOrphans(ctx context.Context) error {
	ended, err := killTagged(func(tag string) bool {
		of, rest, _ := strings.Cut(tag, "/")
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
