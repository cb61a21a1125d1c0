// Package servicetest runs services in a test over real sockets, each with a certificate of its own, on free ports and
// in one temporary Rumi home.
package servicetest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/discovery"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/service"
)

// closedPort is the address of the services that a suite doesn't run. Nothing listens there, so that calls of them fail at once.
const closedPort = "127.0.0.1:1"

// Suite is a Rumi home and the services that a test runs in it.
type Suite struct {
	Home string // has ecosystem/ and user_data/ with the folders that `rumi init` makes

	t         testing.TB
	authority *identity.Authority
	listeners map[string]net.Listener
	addresses map[string]string
}

// New makes a suite in which the named services can be started (Start, Release). Calls of the others fail: they count as down.
func New(t testing.TB, running ...string) *Suite {
	t.Helper()
	authority, err := identity.NewAuthority(time.Now())
	must(t, err)
	s := &Suite{Home: t.TempDir(), t: t, authority: authority, listeners: map[string]net.Listener{}, addresses: map[string]string{}}
	for _, dir := range []string{"ecosystem", "user_data/state", "user_data/audit", "user_data/settings/identity/authority", "user_data/settings/" + packtrace.Dir} {
		must(t, os.MkdirAll(filepath.Join(s.Home, dir), 0o750))
	}
	must(t, packtrace.Create(filepath.Join(s.UserData(), "settings", packtrace.Dir, packtrace.File)))
	s.SetPolicy(string(policy.None().Document()))
	must(t, authority.Save(s.AuthorityDir()))
	for _, name := range roster.Names() {
		s.addresses[name] = closedPort
	}
	for _, name := range running {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		s.listeners[name], s.addresses[name] = l, l.Addr().String()
		t.Cleanup(func() { l.Close() })
	}
	return s
}

// SetToken replaces the API token. Like init it leaves one file with two names (see package token of the gateway).
func (s *Suite) SetToken(token string) {
	s.t.Helper()
	settings := filepath.Join(s.UserData(), "settings")
	path, shared := filepath.Join(settings, "api_token"), filepath.Join(settings, "gateway", "api_token")
	must(s.t, os.MkdirAll(filepath.Dir(shared), 0o750))
	must(s.t, atomicfile.WritePath(path, []byte(token+"\n"), 0o640))
	must(s.t, os.RemoveAll(shared))
	must(s.t, os.Link(path, shared))
}

// SetPolicy replaces the services' copy of the policy, as init and the reconciler make it of the operator's file.
func (s *Suite) SetPolicy(text string) {
	s.t.Helper()
	dir := filepath.Join(s.UserData(), "settings", "policy")
	must(s.t, os.MkdirAll(dir, 0o750))
	must(s.t, atomicfile.WritePath(filepath.Join(dir, policy.FileName), []byte(text), 0o640))
}

// CertificateLife is how long the certificates live that the suite issues from now on. Those that the service secrets signs live for its
// own RUMI_CERTIFICATE_LIFE.
func (s *Suite) CertificateLife(life time.Duration) { s.authority.Life = life }

// AuthorityDir is the folder of the suite's certificate authority.
func (s *Suite) AuthorityDir() string {
	return filepath.Join(s.UserData(), "settings/identity/authority")
}

// UserData is the suite's user_data folder.
func (s *Suite) UserData() string { return filepath.Join(s.Home, "user_data") }

// Ecosystem is the suite's ecosystem folder.
func (s *Suite) Ecosystem() string { return filepath.Join(s.Home, "ecosystem") }

// Server is a running service.
type Server struct {
	*service.Runtime
	Address string // host:port of its API
	Admin   string // host:port of its admin listener
}

// Start runs a service that New named; it is stopped at the end of the test, or before by Stop, after which it can be
// started again at the same address. env holds RUMI_ settings beside those that the suite gives.
func Start[C any](s *Suite, name string, build service.Build[C], env map[string]string) *Server {
	s.t.Helper()
	address, declared := s.addresses[name]
	if !declared || address == closedPort {
		s.t.Fatalf("start %s: not among the services that New got", name)
	}
	api := s.listeners[name]
	delete(s.listeners, name)
	if api == nil {
		var err error
		api, err = net.Listen("tcp", address)
		must(s.t, err)
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	must(s.t, err)
	environ := s.Environ(name)
	for key, value := range env {
		environ = append(environ, key+"="+value) // the later of two counts
	}
	rt, err := startChecked(s.t, func() (*service.Runtime, error) {
		return service.Start(context.Background(), name, build, service.Options{Environ: environ, API: api, Admin: admin, Logs: s.t.Output()})
	})
	must(s.t, err)
	s.t.Cleanup(func() {
		if err := rt.Stop(); err != nil {
			s.t.Errorf("stop %s: %v", name, err)
		}
	})
	return &Server{Runtime: rt, Address: api.Addr().String(), Admin: admin.Addr().String()}
}

// starting is held while route.Undeclared belongs to one test: a table takes the function over when it is mounted.
var starting sync.Mutex

// startChecked has start start a service whose public routes fail the test where they answer an error code that they don't declare.
func startChecked(t testing.TB, start func() (*service.Runtime, error)) (*service.Runtime, error) {
	starting.Lock()
	defer starting.Unlock()
	route.Undeclared = func(name, code, message string) {
		t.Errorf("%s failed with the code %q (%s), which it doesn't declare: add it to the endpoint's Fails in api/", name, code, message)
	}
	defer func() { route.Undeclared = nil }()
	return start()
}

// Environ is the environment ("NAME=value" entries) with which a service runs in the suite, without its own settings.
func (s *Suite) Environ(name string) []string {
	s.t.Helper()
	return []string{
		"RUMI_USER_DATA=" + s.UserData(),
		"RUMI_IDENTITY_DIR=" + s.identityDir(name),
		"RUMI_PEERS=" + s.peers(),
		"RUMI_LOG_LEVEL=info",
	}
}

// Address is where a service that New named listens, or will.
func (s *Suite) Address(name string) string { return s.addresses[name] }

// Release closes the listener that New opened for a service and returns its address (host:port), so that a separate process can listen there.
func (s *Suite) Release(name string) string {
	s.t.Helper()
	l := s.listeners[name]
	if l == nil {
		s.t.Fatalf("release %s: not among the services that New got, or started already", name)
	}
	delete(s.listeners, name)
	must(s.t, l.Close())
	return s.addresses[name]
}

// Peer is a client of the named service that shows the certificate of another ("gateway").
func (s *Suite) Peer(as, name string) *client.Peer {
	s.t.Helper()
	directory, err := discovery.ParseStatic(s.peers())
	must(s.t, err)
	registry := prometheus.NewRegistry()
	return client.NewPeer(name, directory.Instancer(name), client.Config{
		Log: slogFor(s.t), Tracing: noop.NewTracerProvider(), Identity: s.Identity(as),
	}, client.NewMetrics(registry))
}

// Client is an http.Client that reaches the named service at https://<name>/… with the certificate of another.
func (s *Suite) Client(as, name string) *http.Client {
	return &http.Client{Transport: s.Peer(as, name), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// Identity is the certificate of a service in this suite.
func (s *Suite) Identity(name string) *identity.Identity {
	s.t.Helper()
	id, err := identity.Load(s.identityDir(name))
	must(s.t, err)
	return id
}

func (s *Suite) identityDir(name string) string {
	s.t.Helper()
	dir := filepath.Join(s.UserData(), "settings", "identity", name)
	if !s.authority.Good(name, dir, time.Now()) {
		must(s.t, os.MkdirAll(dir, 0o700))
		must(s.t, s.authority.Issue(name, dir, time.Now()))
	}
	return dir
}

func (s *Suite) peers() string {
	var entries []string
	for _, name := range slices.Sorted(maps.Keys(s.addresses)) {
		entries = append(entries, fmt.Sprintf("%s=%s", name, s.addresses[name]))
	}
	return strings.Join(entries, ",")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
