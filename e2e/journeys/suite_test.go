// Package journeys tests what operators and packs do with a whole suite, from end to end. TestMain brings the suite up with docker compose in
// a temporary Rumi home, under a project, a port and folders that nothing else uses, and removes it at the end. The journeys run in the order
// of their files: see conditions_test.go.
package journeys

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/e2e/internal/api"
)

// The longest that the tests wait: for building every image from nothing, for a suite to come up, and for any other command. The bounds end
// hangs; a slow machine takes far less.
const (
	buildWait   = 15 * time.Minute
	readyWait   = 5 * time.Minute
	commandWait = 5 * time.Minute
)

// services are the services behind the gateway, each with a path that this service answers.
var services = []struct{ name, path string }{
	{"approval", "/api/packs"},
	{"pack-registry", "/api/packs/scan"}, // POST
	{"egress-proxy", "/api/network/list"},
	{"capability-broker", "/api/capability/blocked"},
	{"pip-installer", "/api/pip/blocked"},
	{"secrets", "/api/secrets"},
}

// packImage is the image of packs.
const packImage = "rumi-pack:e2e"

// installation is a suite under test, with its folders and its compose project.
type installation struct {
	root    string // of the repository
	top     string // the temporary folder that holds all else
	home    string // the Rumi home
	base    string // the API, behind the proxy that compares it with its document
	project string
	env     []string // of docker compose and of commands
	api     *api.Client
}

// suite is the installation that the tests of this package share.
var suite *installation

func TestMain(m *testing.M) { os.Exit(run(m)) }

// enableVariable must be set for the journeys to run. They build and start a whole suite, which `go test work` should not do unasked.
const enableVariable = "RUMI_E2E"

func run(m *testing.M) (code int) {
	if os.Getenv(enableVariable) == "" {
		fmt.Printf("skipped: journeys bring up a whole suite; run `make e2e`, or set %s=1\n", enableVariable)
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	began := time.Now()
	s, err := install(ctx)
	if s != nil {
		defer func() {
			if err := s.remove(); err != nil {
				fmt.Fprintln(os.Stderr, "remove the suite:", err)
				code = 1
			}
		}()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bring up the suite:", err)
		return 1
	}
	fmt.Printf("the suite was built and ready in %v\n", time.Since(began).Round(time.Second))
	suite = s
	defer func() {
		if secondInstallation != nil {
			if err := secondInstallation.remove(); err != nil {
				fmt.Fprintln(os.Stderr, "remove the second suite:", err)
				code = 1
			}
		}
	}()
	if code = m.Run(); code != 0 {
		s.printLastLogs()
	}
	if !reportContract() {
		code = 1
	}
	return code
}

// install builds the suite and brings it up. If it fails, the installation that it returns may still need a removal.
func install(ctx context.Context) (*installation, error) {
	s, err := newInstallation(os.Getenv("COMPOSE_PROJECT_NAME"))
	if err != nil {
		return s, err
	}
	if _, err := s.command(ctx, buildWait, "docker", "compose", "--progress", "quiet", "build"); err != nil {
		return s, err
	}
	if err := s.up(ctx); err != nil {
		s.printLastLogs()
		return s, err
	}
	return s, nil
}

// newInstallation prepares a home, folders and a port that nothing else uses, under a compose project of that name; "" for a random one.
func newInstallation(project string) (*installation, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	top, err := os.MkdirTemp("", "rumi-e2e-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	if project == "" {
		project = "rumi-e2e-" + strings.ToLower(rand.Text()[:8])
	}
	base, err := watch(fmt.Sprintf("http://localhost:%d", port))
	if err != nil {
		return nil, err
	}
	s := &installation{
		root:    root,
		top:     top,
		home:    filepath.Join(top, "home"),
		base:    base,
		project: project,
	}
	if err := os.Mkdir(s.home, 0o755); err != nil {
		return s, err
	}
	s.env = slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "RUMI_") || strings.HasPrefix(entry, "COMPOSE_")
	})
	s.env = append(s.env,
		"COMPOSE_PROJECT_NAME="+s.project,
		"RUMI_TAG=e2e",
		"RUMI_HOME="+s.home,
		"RUMI_RUN_DIR="+filepath.Join(top, "run"),
		"RUMI_PORT="+strconv.Itoa(port),
		"RUMI_API_RATE_LIMIT=1000000",
		// No request may leave the machine: this index doesn't answer.
		"RUMI_PIP_INDEX_URLS=https://127.0.0.1:9/simple/",
		"RUMI_PIP_ALLOW_CIDRS=127.0.0.0/8",
		"TZ=UTC",
	)
	return s, nil
}

// up starts every service, reads the API token and waits until each service answers.
func (s *installation) up(ctx context.Context) error {
	if _, err := s.compose(ctx, "up", "--detach", "--no-build"); err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(s.home, "user_data/settings/api_token"))
	if err != nil {
		return err
	}
	s.api = &api.Client{Base: s.base, Token: string(token)}
	s.api.HTTP.Timeout = 30 * time.Second
	return s.awaitServices(ctx)
}

// awaitServices waits until every service answers, readyWait at most.
func (s *installation) awaitServices(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	for _, service := range services {
		if err := s.awaitService(ctx, service.name); err != nil {
			return err
		}
	}
	return nil
}

// awaitService waits until one service answers with 200, until ctx ends.
func (s *installation) awaitService(ctx context.Context, name string) error {
	for {
		a, err := s.askService(ctx, name)
		if err == nil && a.Status == 200 {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last: %v, %w", name, ctx.Err(), a, err)
		}
	}
}

// askService sends a request that the named service answers.
func (s *installation) askService(ctx context.Context, name string) (api.Answer, error) {
	for _, service := range services {
		if service.name != name {
			continue
		}
		if strings.HasSuffix(service.path, "/scan") {
			return s.api.Post(ctx, service.path, nil)
		}
		return s.api.Get(ctx, service.path)
	}
	return api.Answer{}, fmt.Errorf("no service %s", name)
}

// remove removes everything of the suite: containers, networks, volumes and the temporary folder.
func (s *installation) remove() error {
	ctx := context.Background()
	_, err := s.compose(ctx, "down", "--volumes", "--remove-orphans", "--timeout", "5")
	ids, listErr := s.homeContainers(ctx)
	for _, id := range ids {
		_, removeErr := s.command(ctx, commandWait, "docker", "rm", "--force", "--volumes", id)
		err = errors.Join(err, removeErr)
	}
	// Many files belong to the services' user, so only root may remove them.
	_, sweepErr := s.asRoot(ctx, []string{"--volume", s.top + ":/top"}, "rm -rf /top/home /top/run")
	return errors.Join(err, listErr, sweepErr, os.RemoveAll(s.top))
}

// homeContainers lists the ids of the containers of packs, handlers and builders that have the label of this home, under any name.
func (s *installation) homeContainers(ctx context.Context) ([]string, error) {
	id, err := os.ReadFile(filepath.Join(s.home, "user_data/settings/home_id"))
	if err != nil {
		return nil, err
	}
	out, err := s.command(ctx, commandWait, "docker", "ps", "--all", "--quiet", "--filter", "label=io.rumi.home="+strings.TrimSpace(string(id)))
	return strings.Fields(out), err
}

// printLastLogs prints the warnings and errors among the last 100 log lines of each service.
func (s *installation) printLastLogs() {
	out, err := s.compose(context.Background(), "logs", "--no-color", "--tail", "100")
	fmt.Fprintf(os.Stderr, "warnings and errors in the services' last log lines (%v):\n", err)
	for line := range strings.Lines(out) {
		if !strings.Contains(line, `"level":"INFO"`) && !strings.Contains(line, "level=INFO") {
			fmt.Fprint(os.Stderr, line)
		}
	}
}

// compose runs docker compose on the suite's project and returns its output.
func (s *installation) compose(ctx context.Context, args ...string) (string, error) {
	return s.command(ctx, commandWait, "docker", append([]string{"compose", "--progress", "quiet"}, args...)...)
}

// command runs a command in the repository with the suite's environment, for limit at most. It returns stdout and stderr together.
func (s *installation) command(ctx context.Context, limit time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = s.root, s.env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("run %s %s: %w\n%s", name, strings.Join(args, " "), err, out.String())
	}
	return out.String(), nil
}

// asRoot runs a shell command as root in a temporary container, for what only root of the host may do. options are more arguments of
// `docker run`, such as mounts.
func (s *installation) asRoot(ctx context.Context, options []string, command string) (string, error) {
	args := append([]string{"run", "--rm", "--network", "none", "--user", "0:0", "--entrypoint", "/bin/sh"}, options...)
	return s.command(ctx, commandWait, "docker", append(args, packImage, "-c", command)...)
}

// container returns the id of a service's only container.
func (s *installation) container(ctx context.Context, service string) (string, error) {
	ids, err := s.containers(ctx, service)
	return strings.Join(ids, " "), err
}

// containers returns the ids of all containers of a service.
func (s *installation) containers(ctx context.Context, service string) ([]string, error) {
	out, err := s.compose(ctx, "ps", "--all", "--quiet", service)
	return strings.Fields(out), err
}

// freePort returns a port of 127.0.0.1 that no process listened on a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
