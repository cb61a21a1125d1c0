package suite

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Command describes a process to start.
type Command struct {
	Name string
	Path string
	Args []string
	Env  map[string]string // its whole environment, apart from PATH
	Log  string            // the file for its output
}

// Process is a started process.
type Process struct {
	Name  string
	cmd   *exec.Cmd
	log   string
	ended chan struct{} // closed when the process has ended
	err   error         // the result of Wait; set before ended is closed
}

// Spawn starts a process. The caller stops it.
func Spawn(c Command) (*Process, error) {
	log, err := os.Create(c.Log)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TZ=UTC"}
	for name, value := range c.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stdout, cmd.Stderr = log, log
	// A process group of its own: Ctrl-C reaches the driver only, which then stops its processes in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	p := &Process{Name: c.Name, cmd: cmd, log: c.Log, ended: make(chan struct{})}
	go func() { p.err = cmd.Wait(); close(p.ended) }()
	return p, nil
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Stop sends SIGTERM, and SIGKILL if the process hasn't ended after stopWait. A second call returns the same result.
func (p *Process) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails if the process has ended, which the next lines find
	select {
	case <-p.ended:
		if p.err != nil {
			text, _ := os.ReadFile(p.log)
			return fmt.Errorf("stop %s: %w\n%s", p.Name, p.err, text[max(0, len(text)-4<<10):])
		}
		return nil
	case <-time.After(stopWait):
		err := p.cmd.Process.Kill()
		<-p.ended
		return errors.Join(fmt.Errorf("stop %s: it had to be killed after %v", p.Name, stopWait), err)
	}
}

// Memory is the memory of processes, in bytes.
type Memory struct {
	Resident     int64 // RSS: a shared page counts for each process
	Proportional int64 // PSS: a page that two processes share counts half for each
	Anonymous    int64 // without the pages of programs and other files, which the kernel can drop
}

// MemoryOf adds up the memory of processes.
func MemoryOf(pids []int) (Memory, error) {
	var sum Memory
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return sum, fmt.Errorf("read memory: %w", err)
		}
		sum.Resident += field(text, "Rss:")
		sum.Proportional += field(text, "Pss:")
		sum.Anonymous += field(text, "Anonymous:")
	}
	return sum, nil
}

// Peak is the largest memory of a process since ResetPeak, without the pages of its program, in bytes.
func Peak(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	return field(text, "VmHWM:") - field(text, "RssFile:"), nil
}

// ResetPeak resets Peak to the present memory (proc(5), clear_refs).
func ResetPeak(pid int) error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		return fmt.Errorf("reset peak of memory: %w", err)
	}
	return nil
}

// field reads a line "Name:   123 kB" of a file in /proc, in bytes.
func field(text []byte, name string) int64 {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			number, _, _ := strings.Cut(strings.TrimSpace(string(rest)), " ")
			kib, _ := strconv.ParseInt(number, 10, 64)
			return kib << 10
		}
	}
	return 0
}

// Children are the process ids of a process's direct children.
func Children(pid int) []int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", pid))
	if err != nil {
		return nil
	}
	var pids []int
	for word := range strings.FieldsSeq(string(text)) {
		if child, err := strconv.Atoi(word); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}
