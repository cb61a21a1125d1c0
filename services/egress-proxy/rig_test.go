package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/dns"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/resolve"
)

// noNames resolves nothing: these tests reach loopback addresses only.
type noNames struct{}

func (noNames) Lookup(_ context.Context, name string) (dns.Answer, error) {
	return dns.Answer{}, &dns.NotFoundError{Name: name}
}

func noResolvers(config) (packs, suite resolve.Resolver) { return noNames{}, noNames{} }

// rig is an egress proxy that runs for real, with approval's gate stream in the hands of the test.
type rig struct {
	testing.TB
	suite *servicetest.Suite
	gates *gate.Publisher
	proxy *servicetest.Server
	dir   string // of the sockets
	api   *http.Client
	env   map[string]string

	resolvers func(config) (packs, suite resolve.Resolver)
}

func newRig(t testing.TB, env map[string]string) *rig { return newRigOf(t, env, noResolvers) }

func newRigOf(t testing.TB, env map[string]string, resolvers func(config) (packs, suite resolve.Resolver)) *rig {
	r := &rig{TB: t, resolvers: resolvers, suite: servicetest.New(t, "approval", "egress-proxy"), gates: gate.NewPublisher(nil), dir: filepath.Join(t.TempDir(), "packs")}
	servicetest.Start(r.suite, "approval", func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		h := route.NewHandlers(gate.Table)
		r.gates.Handle(h)
		return h.Mount(rt.Mux())
	}, nil)
	r.env = map[string]string{"RUMI_EGRESS_SOCK_DIR": r.dir, "RUMI_EGRESS_ALLOW_CIDRS": "127.0.0.0/8", "RUMI_EGRESS_RATE_LIMIT": "0"}
	for k, v := range env {
		r.env[k] = v
	}
	r.start()
	r.api = r.suite.Client("gateway", "egress-proxy")
	return r
}

func (r *rig) start() {
	r.proxy = servicetest.Start(r.suite, "egress-proxy", builder(r.resolvers), r.env)
}

var revision int64

func (r *rig) pack(id, status string) {
	revision++
	r.gates.Set(r.Context(), gate.State{PackID: id, Open: pack.Status(status).Executable(), Status: pack.Status(status), Revision: revision})
}

// call asks the API as the gateway and gives the answer's status and its whole body.
func (r *rig) call(method, path, body string) (int, string) {
	r.Helper()
	request, err := http.NewRequest(method, "https://egress-proxy"+path, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	request.Header.Set(rpc.ActorHeader, "operator")
	response, err := r.api.Do(request)
	if err != nil {
		r.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		r.Fatal(err)
	}
	return response.StatusCode, string(data)
}

func (r *rig) mustCall(method, path, body string) string {
	r.Helper()
	status, answer := r.call(method, path, body)
	if status != http.StatusOK {
		r.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	return answer
}

func (r *rig) grant(id, domains, ports string) {
	r.Helper()
	r.mustCall("POST", "/api/network/grant", fmt.Sprintf(`{"pack_id":%q,"allowed_domains":[%s],"allowed_ports":[%s]}`, id, domains, ports))
}

func (r *rig) socket(id string) string { return filepath.Join(r.dir, uds.DirName(id), uds.SocketName) }

func (r *rig) dial(id string) net.Conn {
	r.Helper()
	r.eventually("the socket of "+id, func() bool { _, err := os.Stat(r.socket(id)); return err == nil })
	c, err := net.Dial("unix", r.socket(id))
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

type answer struct {
	Success   bool   `json:"success"`
	Status    int    `json:"status_code"`
	Body      string `json:"body"`
	Error     string `json:"error"`
	ErrorType string `json:"error_type"`
}

func ask(c net.Conn, frame string) (a answer, err error) {
	if err := uds.WriteFrame(c, []byte(frame)); err != nil {
		return a, err
	}
	data, err := uds.ReadFrame(c, 4<<20)
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(data, &a)
}

func (r *rig) ask(c net.Conn, url string) answer {
	r.Helper()
	a, err := ask(c, fmt.Sprintf(`{"method":"GET","url":%q}`, url))
	if err != nil {
		r.Fatal(err)
	}
	return a
}

func (r *rig) eventually(what string, ok func() bool) {
	r.Helper()
	for began := time.Now(); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			r.Fatalf("%s: not within 10 s", what)
		}
	}
}

// entries are the audit entries of a category.
func (r *rig) entries(category string) (entries []map[string]any) {
	r.Helper()
	for line := range strings.Lines(audittest.Text(r, filepath.Join(r.suite.UserData(), "audit"), category)) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			r.Fatalf("audit line %q: %v", line, err)
		}
		entries = append(entries, e)
	}
	return entries
}

func upstreamServer(t testing.TB, h http.HandlerFunc) (url, port string) {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	_, port, _ = net.SplitHostPort(s.Listener.Addr().String())
	return s.URL, port
}

// secondReplica starts another egress proxy in the same home.
func secondReplica(r *rig, env map[string]string) *rig {
	second := *r
	second.dir = env["RUMI_EGRESS_SOCK_DIR"]
	second.env = env
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			r.Fatal(err)
		}
		return l
	}
	environ := []string{
		"RUMI_USER_DATA=" + r.suite.UserData(), "RUMI_IDENTITY_DIR=" + filepath.Join(r.suite.UserData(), "settings", "identity", "egress-proxy"),
		"RUMI_PEERS=approval=" + r.approvalAddress(),
	}
	for k, v := range env {
		environ = append(environ, k+"="+v)
	}
	rt, err := service.Start(context.Background(), "egress-proxy", builder(noResolvers), service.Options{Environ: environ, API: listen(), Admin: listen(), Logs: io.Discard})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(sync.OnceFunc(func() { rt.Stop() }))
	return &second
}

func (r *rig) approvalAddress() string { return r.proxy.Directory()["approval"][0] }
