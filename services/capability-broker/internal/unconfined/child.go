package unconfined

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// drainTimeout bounds how long output is read after a process has ended: something that it started may hold the pipe open.
const drainTimeout = time.Second

// child is what Create made: one process at a time, which may be started again after its end.
type child struct {
	spec   sandbox.Spec
	argv   []string
	output *output // of all runs

	info sandbox.Container // guarded by Engine.mu

	mu      sync.Mutex // guards the rest
	process *os.Process
	ended   chan struct{} // closed when process has ended
	scratch string        // its HOME and /tmp

	attached      bool
	stdin, stdout *os.File // the process's ends
	stderr        io.Writer
}

// pipes is the Stream that Attach returns: our ends of the process's stdout and stdin.
type pipes struct{ stdout, stdin *os.File }

func (p pipes) Read(b []byte) (int, error)  { return p.stdout.Read(b) }
func (p pipes) Write(b []byte) (int, error) { return p.stdin.Write(b) }
func (p pipes) CloseWrite() error           { return p.stdin.Close() }
func (p pipes) Close() error                { return errors.Join(p.stdin.Close(), p.stdout.Close()) }

func (c *child) attach(stderr io.Writer) (sandbox.Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.attached || c.process != nil {
		return nil, fmt.Errorf("attach to process %.12s: it is attached to or has been started", c.info.ID)
	}
	var ours pipes
	var err error
	if c.stdin, ours.stdin, err = os.Pipe(); err != nil {
		return nil, fmt.Errorf("attach to process: %w", err)
	}
	if ours.stdout, c.stdout, err = os.Pipe(); err != nil {
		return nil, errors.Join(fmt.Errorf("attach to process: %w", err), c.stdin.Close(), ours.stdin.Close())
	}
	c.attached, c.stderr = true, stderr
	return ours, nil
}

// Start runs what Create made, again if it has ended. One that runs already is no error. One that was attached to runs once only, since its pipes
// end with it.
func (e *Engine) Start(ctx context.Context, id string) error {
	c, err := e.child(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process != nil {
		select {
		case <-c.ended:
		default:
			return nil
		}
		if c.attached {
			return fmt.Errorf("start process %.12s: %w", id, sandbox.ErrNotRunning)
		}
	}
	e.Log.WarnContext(ctx, "starting code that nothing confines", "kind", string(c.spec.Kind), "pack_id", c.spec.PackID, "principal", c.spec.Principal)
	err = e.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "unconfined_start", Success: true,
		OwnerPack: c.spec.PackID, Details: map[string]any{"kind": string(c.spec.Kind), "principal_id": c.spec.Principal, "digest": c.spec.Digest}})
	if err != nil {
		return err
	}
	c.removeScratch()
	if c.scratch, err = os.MkdirTemp("", "rumi-"+string(c.spec.Kind)+"-"); err != nil {
		return fmt.Errorf("start process: %w", err)
	}
	cmd := &exec.Cmd{
		Path: c.argv[0], Args: c.argv, Dir: hostPath(c.spec.Mounts, c.spec.Dir), Env: e.environ(c.spec, c.info.ID, c.scratch), WaitDelay: drainTimeout,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	if cmd.Path, err = exec.LookPath(c.argv[0]); err != nil {
		return fmt.Errorf("start process: %w", err)
	}
	if c.attached {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = c.stdin, c.stdout, c.stderr
	} else {
		c.output.begin()
		cmd.Stdout, cmd.Stderr = c.output.stream("stdout"), c.output.stream("stderr")
	}
	started := make(chan error)
	select {
	case e.starts <- func() { started <- cmd.Start() }:
		err = <-started
	case <-e.closing:
		err = errors.New("the broker stops")
	}
	if err != nil {
		c.output.end() // or a Logs that follows it would wait forever
		return fmt.Errorf("start process: %w", err)
	}
	if c.attached { // our copies of its ends: while they are open, neither side sees the other's end
		c.stdin.Close()
		c.stdout.Close()
	}
	c.process, c.ended = cmd.Process, make(chan struct{})
	e.mu.Lock()
	c.info.Status, c.info.Started, c.info.Finished, c.info.Exit = "running", time.Now().UTC(), time.Time{}, sandbox.Exit{}
	info := c.info
	e.mu.Unlock()
	e.publish(sandbox.Event{Action: "start", Container: info})
	go c.wait(e, cmd, c.ended)
	return nil
}

// wait waits for the end of a process, kills what it started and left running, and publishes the end.
func (c *child) wait(e *Engine, cmd *exec.Cmd, ended chan<- struct{}) {
	_ = cmd.Wait() // its error says no more than ProcessState
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if _, err := killTagged(func(tag string) bool { return tag == e.tag(c.info.ID) }); err != nil {
		e.Log.Error("what a process left behind could not be ended", "pack_id", c.spec.PackID, "error", err)
	}
	code := cmd.ProcessState.ExitCode()
	if how, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && how.Signaled() {
		code = 128 + int(how.Signal())
	}
	c.output.end()
	e.mu.Lock()
	c.info.Status, c.info.Finished, c.info.Exit = "exited", time.Now().UTC(), sandbox.Exit{Code: code}
	info := c.info
	e.mu.Unlock()
	close(ended)
	e.publish(sandbox.Event{Action: "die", Container: info, ExitCode: code})
}

// signal sends a signal to the process group: the process and what it started, but for what left the group, which wait kills. ended is closed
// after the end; it is nil if nothing runs.
func (c *child) signal(s syscall.Signal) (ended <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil {
		return nil
	}
	select {
	case <-c.ended:
		return nil
	default:
		_ = syscall.Kill(-c.process.Pid, s) // fails if it ended at this moment
		return c.ended
	}
}

// Stop sends SIGTERM and, after grace, SIGKILL. One that doesn't run is no error.
func (e *Engine) Stop(ctx context.Context, id string, grace time.Duration) error {
	c, err := e.child(id)
	if err != nil {
		return err
	}
	if grace > 0 {
		if ended := c.signal(syscall.SIGTERM); ended != nil {
			patience := time.NewTimer(grace)
			defer patience.Stop()
			select {
			case <-ended:
				return nil
			case <-patience.C:
			case <-ctx.Done():
			}
		}
	}
	c.kill()
	return nil
}

// kill ends the process and waits for its end.
func (c *child) kill() {
	if ended := c.signal(syscall.SIGKILL); ended != nil {
		<-ended
	}
}

// removeScratch removes the folder that a run had as HOME and /tmp; mu is held.
func (c *child) removeScratch() {
	if c.scratch != "" {
		_ = os.RemoveAll(c.scratch) // what can't be removed is left to the host's cleaning of temporary files
		c.scratch = ""
	}
}

// discard frees what a process that has ended, or was never started, still holds.
func (c *child) discard() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeScratch()
	if c.attached && c.process == nil {
		c.stdin.Close()
		c.stdout.Close()
	}
	c.output.end()
}
