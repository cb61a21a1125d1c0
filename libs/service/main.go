// Package service is the runtime that every main of the suite uses: strict configuration from the environment, logs,
// metrics, traces, health, peers, and a bounded shutdown in reverse order of what was started.
package service

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-json-experiment/json"
)

// Build makes a service out of its configuration C, a struct with caarlos0/env tags. What it starts, it starts through
// the Runtime. The context ends when the service is told to stop.
type Build[C any] func(ctx context.Context, rt *Runtime, cfg C) error

// fileMask keeps what a service writes from others; the group is the operator's (contract.md, "Owners and modes").
const fileMask = 0o027

// Main runs a service until SIGTERM or SIGINT and exits: 0 after an orderly stop, 1 otherwise. With the argument
// "healthcheck" it asks the running service of the same container whether it is ready and exits 0 or 1.
func Main[C any](name string, build Build[C]) {
	if len(os.Args) == 2 && os.Args[1] == "healthcheck" {
		os.Exit(healthcheck(os.Environ(), os.Stdout))
	}
	if len(os.Args) != 1 {
		fatal(name, fmt.Errorf("run %s: unknown argument %q (settings come from the environment)", name, os.Args[1]))
	}
	var cfg C
	common, err := parse(name, os.Environ(), &cfg)
	if err != nil {
		fatal(name, err)
	}
	docker := common.DockerHost
	if c, ok := any(cfg).(interface{ UsesDocker() bool }); ok && !c.UsesDocker() {
		docker = "" // what it starts must not be able to, either
	}
	if err := dropPrivileges(common.UID, common.GID, docker); err != nil {
		fatal(name, err)
	}
	syscall.Umask(fileMask)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, name, common, cfg, build); err != nil {
		fatal(name, err)
	}
}

// fatal ends the process with a log line like all others, so that whoever collects them can read this one, too.
func fatal(name string, err error) {
	newLogger(os.Stderr, name, slog.LevelInfo).Error("could not run", "error", err.Error())
	os.Exit(1)
}

func run[C any](ctx context.Context, name string, common settings, cfg C, build Build[C]) error {
	listener, err := net.Listen("tcp", common.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	admin, err := net.Listen("tcp", common.AdminListen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	logs := newLines(os.Stderr)
	defer logs.Flush()
	running, err := start(ctx, name, common, cfg, build, listener, admin, logs)
	if err != nil {
		return err
	}
	defer tuneGC(spareHeapOf(cfg))()
	return running.Wait(ctx)
}

// healthcheck is 0 where the running service is ready. Otherwise it says why on out, which `docker inspect` shows.
func healthcheck(environ []string, out io.Writer) int {
	var none struct{}
	address := ":9090"
	if common, err := parse("healthcheck", commonOnly(environ), &none); err == nil {
		address = common.AdminListen
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		fmt.Fprintf(out, "RUMI_ADMIN_LISTEN=%q: want host:port, such as :9090\n", address)
		return 1
	}
	client := http.Client{Timeout: 2 * checkTimeout}
	response, err := client.Get("http://127.0.0.1:" + port + "/readyz")
	if err != nil {
		fmt.Fprintln(out, "not ready:", err)
		return 1
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return 0
	}
	var answer Readiness
	if err := json.UnmarshalRead(io.LimitReader(response.Body, 1<<20), &answer); err != nil {
		fmt.Fprintln(out, "not ready:", response.Status)
		return 1
	}
	for _, check := range answer.Checks {
		if !check.OK {
			fmt.Fprintf(out, "not ready: %s: %s (%s)\n", check.Name, check.Detail, cmp.Or(check.Fix, "see the log"))
		}
	}
	return 1
}

// commonOnly keeps the one variable that a health check needs, so that a service's own settings don't trouble it.
func commonOnly(environ []string) []string {
	for _, entry := range environ {
		if len(entry) > len("RUMI_ADMIN_LISTEN=") && entry[:len("RUMI_ADMIN_LISTEN=")] == "RUMI_ADMIN_LISTEN=" {
			return []string{entry}
		}
	}
	return nil
}

// Options are what Start takes beside the environment.
type Options struct {
	Environ    []string     // NAME=value, as os.Environ has it
	API, Admin net.Listener // open already
	Logs       io.Writer
}

// Start runs a service inside a process that is not its own, a test's; the caller stops it with Stop.
func Start[C any](ctx context.Context, name string, build Build[C], o Options) (*Runtime, error) {
	var cfg C
	common, err := parse(name, o.Environ, &cfg)
	if err != nil {
		return nil, err
	}
	return start(ctx, name, common, cfg, build, o.API, o.Admin, o.Logs)
}
