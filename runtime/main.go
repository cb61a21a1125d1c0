// Command rumi-runtime is PID 1 of a pack's or handler's container.
//
//	rumi-runtime run [--] ARGV...   runs one program; a first word that ends in .py is a Python file
//	rumi-runtime serve              runs the Python worker, which answers calls on stdin (PROTOCOL.md)
//
// A container has no network. If RUMI_EGRESS_SOCKET names a socket, rumi-runtime listens on 127.0.0.1:3128, relays each connection to
// that socket and sets HTTP_PROXY, HTTPS_PROXY and NO_PROXY for the program. So code that knows nothing of Rumi reaches what
// the pack was granted. The relay decides nothing; egress-proxy at the other end does. Spans that the program sends to 127.0.0.1:4318 take
// the same way. If RUMI_EGRESS_CA_FILE names a bundle of certificate authorities, SSL_CERT_FILE and similar variables name it, too.
//
// If RUMI_CAPABILITY_SOCKET names a socket that no broker has served for a minute, rumi-runtime ends the program and the container, with
// status 143: without a broker, the pack would go on when its gate closes.
//
// The program inherits stdin, stdout, stderr, environment and folder. Signals are forwarded to it, and orphans are reaped. The container
// ends when the program does, with its exit status, or 128+n for signal n. Status 64 means wrong usage, 126 a program that
// can't be run, 127 a program that isn't there.
//
// Nothing here is trusted by a service: PID 1 runs as the pack's user, in its container. What keeps a pack in is the container and the
// services behind its sockets.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// worker is the path of the Python worker in the image.
const worker = "/usr/local/lib/rumi/worker/rumi_worker.py"

// Exit statuses of our own, as shells and sysexits.h have them.
const (
	exitUsage      = 64
	exitCannotRun  = 126
	exitNotThere   = 127
	exitSignalBase = 128
)

func main() {
	argv, err := command(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "rumi-runtime:", err)
		os.Exit(exitUsage)
	}
	environ, err := withProxy(os.Environ(), os.Getenv("RUMI_EGRESS_SOCKET"))
	if err != nil { // the program can still use the socket itself
		fmt.Fprintln(os.Stderr, "rumi-runtime:", err)
	}
	if environ, err = withSpans(environ, os.Getenv("RUMI_EGRESS_SOCKET")); err != nil { // the pack works as well without
		fmt.Fprintln(os.Stderr, "rumi-runtime:", err)
	}
	environ = withAuthorities(environ, os.Getenv("RUMI_EGRESS_CA_FILE"))
	status, err := supervise(argv, environ, abandoned(os.Getenv("RUMI_CAPABILITY_SOCKET"), pollInterval, maxFailures))
	if err != nil {
		fmt.Fprintln(os.Stderr, "rumi-runtime:", err)
		status = exitCannotRun
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			status = exitNotThere
		}
	}
	os.Exit(status)
}

// command gives the argv to run for our own arguments.
func command(args []string) ([]string, error) {
	switch {
	case len(args) == 1 && args[0] == "serve":
		return []string{"python3", "-u", worker}, nil
	case len(args) > 1 && args[0] == "run":
		argv := args[1:]
		if argv[0] == "--" {
			argv = argv[1:]
		}
		if len(argv) == 0 || argv[0] == "" {
			break
		}
		if !strings.HasSuffix(argv[0], ".py") {
			return argv, nil
		}
		// Absolute, so that Python doesn't take a file called -x.py for an option.
		file, err := filepath.Abs(argv[0])
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", argv[0], err)
		}
		return append([]string{"python3", "-u", file}, argv[1:]...), nil
	}
	return nil, errors.New("use: rumi-runtime run [--] ARGV... | rumi-runtime serve")
}
