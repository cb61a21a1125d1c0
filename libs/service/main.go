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

// Build wires a service from its configuration C, a struct with caarlos0/env tags. It starts goroutines by Runtime.Go and registers what must
// be closed by Runtime.OnStop, so that the shutdown undoes both. ctx ends when the service has to stop (SIGTERM, SIGINT). After an error of
// Build everything that was started is stopped, and the process exits 1.
type Build[C any] func(ctx context.Context, rt *Runtime, cfg C) error

// fileMask is the umask: no rights for others, no writing for the group, which is the operator's (docs/contract.md, "Owners and modes").
const fileMask = 0o027

// Main is the whole of a service's func main. It reads the configuration, gives up root, and runs the service until SIGTERM or SIGINT. The
// process exits with 0 after an orderly stop, else with 1 and a log line that says why. With the argument "healthcheck" it asks the service
// that runs in the same container whether it is ready, and exits with 0 or 1; compose uses that.
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
		docker = "" // then neither this process nor its children get the rights of the socket's group, which are as good as root's
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

// fatal exits with 1 after a log line in the form of all others, so that a collector of logs can parse the reason, too.
func fatal(name string, err error) {
	newLogger(os.Stderr, name, slog.LevelInfo).Error("could not run", "error", err.Error())
	os.Exit(1)
}

// run opens the listeners, starts the service and waits for its end. The last log lines are written before it returns.
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

// healthcheck returns the exit code: 0 if the service that runs in this container is ready, else 1. Then it writes the reason to out;
// `docker inspect` shows that.
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

// commonOnly drops all variables but the one that a health check needs: parse would refuse the service's own settings as unknown.
func commonOnly(environ []string) []string {
	for _, entry := range environ {
		if len(entry) > len("RUMI_ADMIN_LISTEN=") && entry[:len("RUMI_ADMIN_LISTEN=")] == "RUMI_ADMIN_LISTEN=" {
			return []string{entry}
		}
	}
	return nil
}

// Options are the surroundings of a service that Start runs: what Main takes from the process.
type Options struct {
	Environ    []string     // NAME=value, as os.Environ has it
	API, Admin net.Listener // open; the service closes them
	Logs       io.Writer    // gets the log lines, JSON, one in each call of Write
}

// Start runs a service within a test's process. Unlike Main it changes nothing of the process (user, umask, signals). The caller ends the
// service by Stop. The error is one of the configuration or of the start; then nothing runs.
func Start[C any](ctx context.Context, name string, build Build[C], o Options) (*Runtime, error) {
	var cfg C
	common, err := parse(name, o.Environ, &cfg)
	if err != nil {
		return nil, err
	}
	return start(ctx, name, common, cfg, build, o.API, o.Admin, o.Logs)
}
