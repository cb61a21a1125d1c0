// Package baseline runs the tools that Rumi is compared with, on ports of 127.0.0.1. Each runs as its Debian package installs it, with the
// settings that make the comparison fair.
package baseline

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/rumi-ai/rumi/e2e/bench/internal/suite"
)

// ErrAbsent is the error if a tool isn't installed.
var ErrAbsent = errors.New("not installed")

// readyWait is the longest wait until a tool listens.
const readyWait = 10 * time.Second

// Tool is a running server that Rumi is compared with. Its Stop ends it.
type Tool struct {
	*suite.Process
	Address string // host:port
	workers bool   // whether its child processes do the work
}

// PIDs are the tool's processes, for the processor time that they use.
func (t *Tool) PIDs() []int {
	pids := []int{t.PID()}
	if t.workers {
		pids = append(pids, suite.Children(t.PID())...)
	}
	return pids
}

// find returns the path of a tool, or ErrAbsent. Debian has servers in sbin, which not every PATH contains.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: %w", name, ErrAbsent)
}

// start runs a tool at a free address, with the configuration that configure makes for it, and waits until it listens there.
func start(ctx context.Context, name, dir string, args []string, env map[string]string, configure func(address string) string) (*Tool, error) {
	path, err := find(name)
	if err != nil {
		return nil, err
	}
	address, err := suite.FreePort()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(configure(address)), 0o644); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return Await(ctx, address, suite.Command{Name: name, Path: path, Args: args, Env: env, Log: filepath.Join(dir, "output")})
}

// Await starts a process and waits until it listens at address, for readyWait at most.
func Await(ctx context.Context, address string, c suite.Command) (*Tool, error) {
	p, err := suite.Spawn(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return &Tool{Process: p, Address: address}, conn.Close()
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-p.Ended():
			return nil, fmt.Errorf("start %s: it ended: %w", c.Name, p.Stop())
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("start %s: %w", c.Name, err), p.Stop())
		}
	}
}
