package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// supervised makes a copy of the test's program the supervisor of a program.
const supervised = "RUMI_TEST_SUPERVISED"

func init() {
	socket := os.Getenv(supervised)
	if socket == "" {
		return
	}
	_ = os.Unsetenv(supervised)
	status, err := supervise(os.Args[1:], os.Environ(), abandoned(socket, 10*time.Millisecond, 5))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

// A program goes on for as long as somebody serves its socket, also somebody else, and ends when nobody does any more.
func TestAbandonedProgramEnds(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	listen := func() net.Listener {
		t.Helper()
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for name, script := range map[string]string{"agrees": "exec sleep 60", "has another status": "trap 'exit 0' TERM; while :; do sleep 0.01; done"} {
		t.Run(name, func(t *testing.T) {
			first := listen()
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), self, "/bin/sh", "-c", script)
			cmd.Env = append(os.Environ(), supervised+"="+socket)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			running := func(what string) {
				t.Helper()
				select {
				case err := <-ended:
					t.Fatalf("%s: it ended with %v, want it running", what, err)
				case <-time.After(300 * time.Millisecond):
				}
			}
			running("served")
			first.Close()
			second := listen()
			running("served by another")
			second.Close()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Fatal("it runs on, served by nobody")
			}
			if got := cmd.ProcessState.ExitCode(); got != 143 {
				t.Errorf("status %d, want 143", got)
			}
		})
	}
}

// A server that takes no connection now is there; without a socket nothing is watched.
func TestBusyServerIsThere(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if !listening(socket) {
		t.Error("a server that accepts nothing is taken for none")
	}
	if listening(filepath.Join(t.TempDir(), "none.sock")) {
		t.Error("a socket that isn't there is served")
	}
	select {
	case <-abandoned("", time.Millisecond, 1):
		t.Error("abandoned without a socket")
	case <-time.After(50 * time.Millisecond):
	}
}
