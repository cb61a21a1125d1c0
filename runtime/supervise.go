package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// forwarded are the signals that are forwarded to the program. SIGKILL and SIGSTOP can't be caught; the others are about a terminal or
// about this process.
var forwarded = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT, syscall.SIGWINCH,
}

// exitAbandoned is the exit status if we ended the program, not the program itself: 143.
const exitAbandoned = exitSignalBase + int(syscall.SIGTERM)

// supervise runs argv in that environment until the program ends, and gives its exit status. An error means that the program never ran.
// When abandoned is closed, the program gets SIGTERM and termGrace; the status is then exitAbandoned, whatever its own is.
//
// Why not os/exec: it waits for its own child with a wait of its own. PID 1 must wait for every process that lost its parent, by wait(-1),
// and the two would take each other's children.
func supervise(argv, environ []string, abandoned <-chan struct{}) (int, error) {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", argv[0], err)
	}
	if err := hideFromChild(); err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, append(forwarded, syscall.SIGCHLD)...) // before the fork: a SIGCHLD between fork and Notify would be lost, and the container would never end
	child, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: environ, Files: []uintptr{0, 1, 2}})
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", path, err)
	}
	var grace <-chan time.Time
	for {
		select {
		case <-abandoned:
			fmt.Fprintln(os.Stderr, "rumi-runtime: nobody has served the capability socket for a minute: the pack ends")
			abandoned, grace = nil, time.After(termGrace)
			_ = syscall.Kill(child, syscall.SIGTERM)
		case <-grace: // the kernel kills all other processes of the container when PID 1 ends
			return exitAbandoned, nil
		case s := <-signals:
			if s != syscall.SIGCHLD {
				// An error means that the program has ended; its SIGCHLD is on the way then.
				_ = syscall.Kill(child, s.(syscall.Signal))
				continue
			}
			if status, ended := reap(child); ended && grace != nil {
				return exitAbandoned, nil
			} else if ended {
				return status, nil
			}
		}
	}
}

// reap waits for every process that has ended, and says whether child was one of them, with its exit status. One SIGCHLD may stand for
// several ends, so it goes on until none is left.
func reap(child int) (status int, ended bool) {
	for {
		var how syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &how, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil || pid == 0: // ECHILD, or none that has ended
			return status, ended
		case pid != child:
			continue
		case how.Signaled():
			status, ended = exitSignalBase+int(how.Signal()), true
		default:
			status, ended = how.ExitStatus(), true
		}
	}
}

// hideFromChild makes this process undumpable: the program, which runs as the same user, can't trace PID 1 nor open its memory and
// descriptors in /proc. Without it, a program could make PID 1 ignore the end of the broker. The setting doesn't hold for
// the program: an exec resets it.
func hideFromChild() error {
	const prSetDumpable = 4 // prctl(2)
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, 0, 0); errno != 0 {
		return fmt.Errorf("hide PID 1 from its program: %w", errno)
	}
	return nil
}
