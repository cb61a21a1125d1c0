// Package suite runs Rumi's services as bare processes on this machine: the binaries of production, with mutual TLS between them, in a temporary
// Rumi home, on ports of 127.0.0.1. They run without containers and container networks, so that a measurement has only their own time.
package suite

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/e2e/internal/api"
	"github.com/rumi-ai/rumi/libs/roster"
)

// Services are the names of the suite's services.
var Services = roster.Names()

const (
	readyWait = time.Minute      // the longest wait for the services to answer
	stopWait  = 20 * time.Second // the time between SIGTERM and SIGKILL
)

// Config describes a suite to start.
type Config struct {
	Root       string                       // of the repository
	Build      []string                     // flags of go build
	Settings   map[string]map[string]string // by service
	Everywhere map[string]string            // settings of all services
}

// Suite is a running suite.
type Suite struct {
	Home     string // the Rumi home
	Instance string // the label io.rumi.instance of its containers
	API      *api.Client

	top, binaries string
	settings      map[string]map[string]string
	everywhere    map[string]string
	peers         map[string]string // host:port by service
	admins        []string          // host:port of the metrics of each process
	running       []*Process
	logs          map[string]string
}

// Start builds the binaries, prepares a home and starts every service. The caller stops the suite. If Start fails and returns a suite, that must be
// stopped, too.
func Start(ctx context.Context, cfg Config) (*Suite, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("start the suite: needs root, as rumi init does")
	}
	top, err := os.MkdirTemp("", "rumi-bench-")
	if err != nil {
		return nil, fmt.Errorf("start the suite: %w", err)
	}
	s := &Suite{
		Home: filepath.Join(top, "home"), Instance: filepath.Base(top),
		top: top, binaries: filepath.Join(top, "bin"), settings: cfg.Settings, everywhere: cfg.Everywhere, peers: map[string]string{}, logs: map[string]string{},
	}
	if err := errors.Join(os.Chmod(top, 0o755), os.Mkdir(s.Home, 0o755), os.Mkdir(s.binaries, 0o755)); err != nil {
		return s, fmt.Errorf("start the suite: %w", err)
	}
	if err := s.build(ctx, cfg); err != nil {
		return s, err
	}
	if err := s.run(ctx, filepath.Join(s.binaries, "cli"), "init", "--home="+s.Home, "--egress-sockets="+s.sockets("egress"),
		"--capability-sockets="+s.sockets("capability")); err != nil {
		return s, err
	}
	ports, err := freePorts(len(Services))
	if err != nil {
		return s, err
	}
	for i, name := range Services {
		s.peers[name] = ports[i]
	}
	for _, name := range Services {
		if _, err := s.Launch(name, s.peers[name], nil); err != nil {
			return s, err
		}
	}
	s.API, err = s.Client(ctx, s.peers["gateway"])
	return s, err
}

// build builds every binary with the flags of cfg.
func (s *Suite) build(ctx context.Context, cfg Config) error {
	args := append([]string{"build"}, cfg.Build...)
	args = append(args, "-o", s.binaries+"/", "./cli")
	for _, name := range Services {
		args = append(args, "./services/"+name)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = cfg.Root
	if !slices.Contains(cfg.Build, "-race") {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the services: %w\n%s", err, out)
	}
	return nil
}

func (s *Suite) run(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("run %s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func (s *Suite) sockets(kind string) string { return filepath.Join(s.top, "run", kind) }

// Socket is the path of a pack's socket of a kind: egress or capability (contract.md, "Sockets").
func (s *Suite) Socket(kind, packID string) string {
	sum := sha256.Sum256([]byte(packID))
	return filepath.Join(s.sockets(kind), hex.EncodeToString(sum[:])[:32], "rumi.sock")
}

// Identity is the folder with a service's certificate, its key and the authority's: the first two in identity.pem; ca.pem.
func (s *Suite) Identity(service string) string {
	return filepath.Join(s.Home, "user_data/settings/identity", service)
}

// Address is where a service listens: host:port.
func (s *Suite) Address(service string) string { return s.peers[service] }

// Admins are where the processes of the suite answer /metrics: host:port.
func (s *Suite) Admins() []string { return s.admins }

// Log is the log file of a service.
func (s *Suite) Log(service string) string { return s.logs[service] }

// Launch starts one more process of a service at an address. peers replaces the addresses of other services for it. Start launches each service
// once.
func (s *Suite) Launch(service, address string, peers map[string]string) (*Process, error) {
	admin, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(s.peers)
	maps.Copy(all, peers)
	var list []string
	for name, at := range all {
		list = append(list, name+"="+at)
	}
	env := map[string]string{
		"RUMI_LISTEN":       address,
		"RUMI_ADMIN_LISTEN": admin[0],
		"RUMI_USER_DATA":    filepath.Join(s.Home, "user_data"),
		"RUMI_PEERS":        strings.Join(list, ","),
	}
	own := map[string]map[string]string{
		"approval":          {"RUMI_ECOSYSTEM": filepath.Join(s.Home, "ecosystem")},
		"pack-registry":     {"RUMI_ECOSYSTEM": filepath.Join(s.Home, "ecosystem")},
		"egress-proxy":      {"RUMI_EGRESS_SOCK_DIR": s.sockets("egress"), "RUMI_EGRESS_SOCKET_GID": "1099"},
		"capability-broker": {"RUMI_CAPABILITY_SOCK_DIR": s.sockets("capability"), "RUMI_EGRESS_SOCK_DIR": s.sockets("egress"), "RUMI_CAPABILITY_SOCKET_GID": "1099", "RUMI_EGRESS_SOCKET_GID": "1099", "RUMI_INSTANCE": s.Instance},
	}
	maps.Copy(env, own[service])
	maps.Copy(env, s.everywhere)
	maps.Copy(env, s.settings[service])
	log := filepath.Join(s.top, fmt.Sprintf("%s-%d.log", service, len(s.running)))
	p, err := Spawn(Command{Name: service, Path: filepath.Join(s.binaries, service), Env: env, Log: log})
	if err != nil {
		return nil, err
	}
	s.running, s.admins, s.logs[service] = append(s.running, p), append(s.admins, admin[0]), log
	return p, nil
}

// Client waits until every service behind the gateway at an address is ready, and returns a client of that gateway with the API token.
func (s *Suite) Client(ctx context.Context, gateway string) (*api.Client, error) {
	token, err := os.ReadFile(filepath.Join(s.Home, "user_data/settings/api_token"))
	if err != nil {
		return nil, fmt.Errorf("read the API token: %w", err)
	}
	client := &api.Client{Base: "http://" + gateway, Token: string(token)}
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	for {
		answer, err := client.Get(ctx, "/api/health")
		var health struct {
			Status string `json:"status"`
		}
		if err == nil && answer.Success {
			err = answer.Into(&health)
		}
		if err == nil && health.Status == "ok" {
			return client, nil
		}
		if over := s.over(); over != nil {
			return nil, fmt.Errorf("wait for the suite: %s has ended\n%s", over.Name, s.Explain())
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the suite: %w; last answer: %v\n%s", errors.Join(ctx.Err(), err), answer, s.Explain())
		}
	}
}

// over returns a process that has ended, or nil if all run.
func (s *Suite) over() *Process {
	for _, p := range s.running {
		select {
		case <-p.ended:
			return p
		default:
		}
	}
	return nil
}

// PID is the process id of a service, of its first process if it has several.
func (s *Suite) PID(service string) int {
	for _, p := range s.running {
		if p.Name == service {
			return p.PID()
		}
	}
	return 0
}

// PIDs are the ids of all processes of the suite.
func (s *Suite) PIDs() []int {
	var pids []int
	for _, p := range s.running {
		pids = append(pids, p.PID())
	}
	return pids
}

// Explain returns the last warnings and errors in the log of each process, for a message.
func (s *Suite) Explain() string {
	const most = 10 // lines of a process
	var all strings.Builder
	for _, p := range s.running {
		text, err := os.ReadFile(p.log)
		if err != nil {
			continue
		}
		if cut := len(text) - 1<<20; cut > 0 {
			_, text, _ = bytes.Cut(text[cut:], []byte("\n"))
		}
		var lines []string
		for line := range strings.Lines(string(text)) {
			if !strings.Contains(line, `"level":"INFO"`) {
				lines = append(lines, p.Name+": "+line)
			}
		}
		all.WriteString(strings.Join(lines[max(0, len(lines)-most):], ""))
	}
	return all.String()
}

// Stop ends every process, the last started one first, and removes the suite's folder.
func (s *Suite) Stop() error {
	var problems []error
	for _, p := range slices.Backward(s.running) {
		problems = append(problems, p.Stop())
	}
	return errors.Join(append(problems, os.RemoveAll(s.top))...)
}

// Dir makes a folder in the suite's, which is removed with it. Every user may write to it: tools such as squid change their user.
func (s *Suite) Dir(name string) (string, error) {
	dir := filepath.Join(s.top, name+"-"+strings.ToLower(rand.Text()[:6]))
	if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
		return "", fmt.Errorf("make folder: %w", err)
	}
	return dir, nil
}

// FreePort returns an unused address of 127.0.0.1, as host:port.
func FreePort() (string, error) {
	ports, err := freePorts(1)
	if err != nil {
		return "", err
	}
	return ports[0], nil
}

// freePorts returns n different unused addresses. It listens on all of them before it closes the first.
func freePorts(n int) ([]string, error) {
	var ports []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a port: %w", err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().String())
	}
	return ports, nil
}
