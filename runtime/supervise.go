package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// forwarded are the signals that mean something to the program. SIGKILL and SIGSTOP can't be caught, the rest are about a
// terminal or about ourselves.
var forwarded = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGCONT, syscall.SIGWINCH,
}

// exitAbandoned says that it was not the program's own end.
const exitAbandoned = exitSignalBase + int(syscall.SIGTERM)

// supervise runs argv with that environment until it ends and gives its exit status; an error means that it never ran.
// When abandoned is closed it gets SIGTERM and a grace, and the status is that of SIGTERM whatever its own is.
//
// os/exec is not used to run it: that waits for its own child by itself, and PID 1 must wait for every process that lost
// its parent, with one wait for all.
func supervise(argv, environ []string, abandoned <-chan struct{}) (int, error) {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", argv[0], err)
	}
	if err := hideFromChild(); err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, append(forwarded, syscall.SIGCHLD)...) // before the child, whose end must not be missed
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
		case <-grace: // the end of PID 1 is that of all
			return exitAbandoned, nil
		case s := <-signals:
			if s != syscall.SIGCHLD {
				// It may have ended since; its SIGCHLD is on its way then.
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

// reap waits for every process that has ended, and says whether child was one of them, and how it ended.
func reap(child int) (status int, ended bool) {
	for {
		var how syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &how, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
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

// hideFromChild keeps the program, which runs as the same user, from tracing PID 1 and from reading its memory in /proc. The
// program itself is as it was after its exec.
func hideFromChild() error {
	const prSetDumpable = 4 // prctl(2)
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, 0, 0); errno != 0 {
		return fmt.Errorf("hide PID 1 from its program: %w", errno)
	}
	return nil
}
