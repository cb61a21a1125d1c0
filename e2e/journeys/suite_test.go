// Package journeys takes whole journeys over a suite of its own: brought up with docker compose in a temporary Rumi home,
// under a project, ports and folders that nothing else uses, and removed when the tests end.
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

// Patience: for building every image from nothing, for a suite that comes up, and for all else. It ends what hangs, and is
// far more than a slow machine takes.
const (
	buildWait   = 15 * time.Minute
	readyWait   = 5 * time.Minute
	commandWait = 5 * time.Minute
)

// services are those of the suite, each with a path that it alone answers.
var services = []struct{ name, path string }{
	{"approval", "/api/packs"},
	{"pack-registry", "/api/packs/scan"}, // POST
	{"egress-proxy", "/api/network/list"},
	{"capability-broker", "/api/capability/blocked"},
	{"pip-installer", "/api/pip/blocked"},
	{"secrets", "/api/secrets"},
}

// packImage is what packs run in.
const packImage = "rumi-pack:e2e"

// installation is a suite under test.
type installation struct {
	root    string // of the repository
	top     string // the temporary folder that holds all else
	home    string // the Rumi home
	base    string // the API
	project string
	env     []string
	api     *api.Client
}

// suite is the one that the tests of this package share.
var suite *installation

func TestMain(m *testing.M) { os.Exit(run(m)) }

// wanted is set where the journeys are to run: they build and start a whole suite, which nobody who tries `go test work` expects.
const wanted = "RUMI_E2E"

func run(m *testing.M) (code int) {
	if os.Getenv(wanted) == "" {
		fmt.Printf("skipped: journeys bring up a whole suite; run `make e2e`, or set %s=1\n", wanted)
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
		if neighbour != nil {
			if err := neighbour.remove(); err != nil {
				fmt.Fprintln(os.Stderr, "remove the neighbour:", err)
				code = 1
			}
		}
	}()
	if code = m.Run(); code != 0 {
		s.explain()
	}
	return code
}

// install builds the suite and brings it up. It gives what there is to remove also when it fails.
func install(ctx context.Context) (*installation, error) {
	s, err := newInstallation(os.Getenv("COMPOSE_PROJECT_NAME"))
	if err != nil {
		return s, err
	}
	if _, err := s.command(ctx, buildWait, "docker", "compose", "--progress", "quiet", "build"); err != nil {
		return s, err
	}
	if err := s.up(ctx); err != nil {
		s.explain()
		return s, err
	}
	return s, nil
}

// newInstallation prepares a home, folders and a port that nothing else uses, under a project of that name ("" for any).
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
	s := &installation{
		root:    root,
		top:     top,
		home:    filepath.Join(top, "home"),
		base:    fmt.Sprintf("http://localhost:%d", port),
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
		// Nothing may leave the machine: an index that answers nobody.
		"RUMI_PIP_INDEX_URLS=https://127.0.0.1:9/simple/",
		"RUMI_PIP_ALLOW_CIDRS=127.0.0.0/8",
		"TZ=UTC",
	)
	return s, nil
}

// up starts every service and waits until each answers.
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
	return s.ready(ctx)
}

// ready waits until every service answers.
func (s *installation) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	for _, service := range services {
		if err := s.answers(ctx, service.name); err != nil {
			return err
		}
	}
	return nil
}

// answers waits until one service does.
func (s *installation) answers(ctx context.Context, name string) error {
	for {
		a, err := s.ask(ctx, name)
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

// ask sends a request that the named service answers.
func (s *installation) ask(ctx context.Context, name string) (api.Answer, error) {
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

// remove takes everything away: containers, networks, volumes and the folder.
func (s *installation) remove() error {
	ctx := context.Background()
	_, err := s.compose(ctx, "down", "--volumes", "--remove-orphans", "--timeout", "5")
	ids, listErr := s.ofHome(ctx)
	for _, id := range ids {
		_, removeErr := s.command(ctx, commandWait, "docker", "rm", "--force", "--volumes", id)
		err = errors.Join(err, removeErr)
	}
	// Much of it belongs to the user of the services.
	_, sweepErr := s.asRoot(ctx, []string{"--volume", s.top + ":/top"}, "rm -rf /top/home /top/run")
	return errors.Join(err, listErr, sweepErr, os.RemoveAll(s.top))
}

// ofHome lists the containers of packs, handlers and builders that bear the home's id, whatever they are called.
func (s *installation) ofHome(ctx context.Context) ([]string, error) {
	id, err := os.ReadFile(filepath.Join(s.home, "user_data/settings/home_id"))
	if err != nil {
		return nil, err
	}
	out, err := s.command(ctx, commandWait, "docker", "ps", "--all", "--quiet", "--filter", "label=io.rumi.home="+strings.TrimSpace(string(id)))
	return strings.Fields(out), err
}

// explain shows what the services logged last that isn't everyday.
func (s *installation) explain() {
	out, err := s.compose(context.Background(), "logs", "--no-color", "--tail", "100")
	fmt.Fprintf(os.Stderr, "what the services logged last, warnings and worse (%v):\n", err)
	for line := range strings.Lines(out) {
		if !strings.Contains(line, `"level":"INFO"`) && !strings.Contains(line, "level=INFO") {
			fmt.Fprint(os.Stderr, line)
		}
	}
}

// compose runs docker compose on the suite.
func (s *installation) compose(ctx context.Context, args ...string) (string, error) {
	return s.command(ctx, commandWait, "docker", append([]string{"compose", "--progress", "quiet"}, args...)...)
}

// command runs a command in the repository with the suite's environment and gives its output.
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

// asRoot runs a shell command as root of the host in a container that goes away, for what only root may do.
func (s *installation) asRoot(ctx context.Context, options []string, command string) (string, error) {
	args := append([]string{"run", "--rm", "--network", "none", "--user", "0:0", "--entrypoint", "/bin/sh"}, options...)
	return s.command(ctx, commandWait, "docker", append(args, packImage, "-c", command)...)
}

// container gives the id of a service's container.
func (s *installation) container(ctx context.Context, service string) (string, error) {
	ids, err := s.containers(ctx, service)
	return strings.Join(ids, " "), err
}

// containers gives the ids of all containers of a service.
func (s *installation) containers(ctx context.Context, service string) ([]string, error) {
	out, err := s.compose(ctx, "ps", "--all", "--quiet", service)
	return strings.Fields(out), err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
