package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
	"github.com/rumi-ai/rumi/libs/testenv"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/libs/uds"
)

// world is a broker over real sockets and real Docker, and the answers that other services would give it.
type world struct {
	*servicetest.Suite
	t        testing.TB
	broker   *servicetest.Server
	gatesBy  *servicetest.Server // approval
	env      map[string]string
	instance string
	run      string // the folder of sockets

	gates *gate.Publisher

	mu        sync.Mutex
	revision  int64
	trees     map[string]approvedTree
	secrets   map[string]string
	fetching  func() // called while the value of a secret is waited for; nil for nothing
	states    map[string]gate.State
	refreshes int
	clients   map[string]*http.Client // by caller

	installed map[string]approvedTree // what pip-installer has, by pack
}

// packImage is what the tests run packs and handlers in.
var packImage = cmp.Or(os.Getenv("RUMI_TEST_PACK_IMAGE"), "rumi-pack:local")

type approvedTree struct {
	manifest tree.Manifest
	files    map[string][]byte
}

type nothing struct{}

func newWorld(t testing.TB) *world {
	t.Helper()
	testenv.NeedsImage(t, packImage, "make images")
	run, err := os.MkdirTemp("", "rumi") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	w := &world{
		Suite: servicetest.New(t, "capability-broker", "approval", "pack-registry", "secrets", "pip-installer"), t: t, run: run,
		gates: gate.NewPublisher(nil), states: make(map[string]gate.State), trees: make(map[string]approvedTree), secrets: make(map[string]string),
		clients:  make(map[string]*http.Client),
		instance: "test" + strings.ToLower(filepath.Base(run)),
	}
	w.gatesBy = servicetest.Start(w.Suite, "approval", w.approval, nil)
	servicetest.Start(w.Suite, "pack-registry", w.registry, nil)
	servicetest.Start(w.Suite, "secrets", w.secretsService, nil)
	servicetest.Start(w.Suite, "pip-installer", w.pip, nil)
	w.env = map[string]string{
		"RUMI_CAPABILITY_SOCK_DIR": filepath.Join(run, "c"), "RUMI_EGRESS_SOCK_DIR": filepath.Join(run, "e"),
		"RUMI_CAPABILITY_SOCKET_GID": strconv.Itoa(socketGID()), "RUMI_INSTANCE": w.instance, "RUMI_SECRET_GET_RATE_LIMIT": "100000",
		"RUMI_PACK_IMAGE": packImage, "RUMI_CAPABILITY_RATE_LIMIT": "0",
	}
	t.Cleanup(w.removeContainers)
	return w
}

// socketGID is a group that this process may give files to and that isn't root's.
func socketGID() int {
	if os.Getuid() == 0 {
		return 1099
	}
	return os.Getgid()
}

func (w *world) start() *world {
	w.broker = servicetest.Start(w.Suite, "capability-broker", build, w.env)
	return w
}

// restartApproval starts approval anew, with the gates that it had.
func (w *world) restartApproval() {
	w.gates = gate.NewPublisher(nil)
	w.mu.Lock()
	for _, s := range w.states {
		w.gates.Set(w.t.Context(), s)
	}
	w.mu.Unlock()
	w.gatesBy = servicetest.Start(w.Suite, "approval", w.approval, nil)
}

func (w *world) engine() *sandbox.Engine {
	e, err := sandbox.Connect(context.Background(), sandbox.Config{Host: "unix:///var/run/docker.sock", Home: w.Identity("capability-broker").Home})
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (w *world) removeContainers() {
	e := w.engine()
	defer e.Close()
	if _, err := e.Sweep(context.Background(), "", nil); err != nil {
		w.t.Error(err)
	}
}

func (w *world) approval(_ context.Context, rt *service.Runtime, _ nothing) error {
	mux := rt.Mux()
	h := route.NewHandlers(gate.Table)
	w.gates.Handle(h)
	if err := h.Mount(mux); err != nil {
		return err
	}
	mux.Route("GET /internal/trees/{digest}", rpc.Raw(func(rw http.ResponseWriter, r *http.Request) error {
		w.mu.Lock()
		found, ok := w.trees[r.PathValue("digest")]
		w.mu.Unlock()
		if !ok {
			return fault.NotFound("Tree not found")
		}
		return tree.Send(rw, found.manifest, func(e tree.Entry) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(found.files[e.Path])), nil
		})
	}), "capability-broker")
	mux.Route("PUT /internal/packs/{pack_id}/running", rpc.Handle(w.reported), "capability-broker")
	mux.Route("POST /internal/pending/refresh", rpc.Handle(func(context.Context, struct{}) (struct{}, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.refreshes++
		return struct{}{}, nil
	}), "capability-broker")
	return nil
}

func (w *world) registry(_ context.Context, rt *service.Runtime, _ nothing) error {
	h := route.NewHandlers(route.NewTable(registry.Select))
	route.Handle(h, registry.Select, func(_ context.Context, req registry.SelectRequest) (registry.SelectResponse, error) {
		packs, err := os.ReadDir(w.Ecosystem())
		if err != nil {
			return registry.SelectResponse{}, err
		}
		var answer registry.SelectResponse
		for _, p := range packs {
			files := readFiles(w.t, filepath.Join(w.Ecosystem(), p.Name()))
			found := registry.Pack{PackID: p.Name()}
			if _, ok := files["backend/ecosystem.json"]; ok {
				found.Base = "backend"
			}
			for name, content := range files {
				for _, pattern := range req.Patterns {
					if ok, _ := filepath.Match(pattern, name); ok {
						found.Files = append(found.Files, registry.File{Path: name, Content: content, SHA256: sum(content), Size: int64(len(content))})
					}
				}
			}
			answer.Packs = append(answer.Packs, found)
		}
		return answer, nil
	})
	return h.Mount(rt.Mux())
}

func (w *world) secretsService(_ context.Context, rt *service.Runtime, _ nothing) error {
	h := route.NewHandlers(route.NewTable(secrets.GetValue))
	route.Handle(h, secrets.GetValue, func(_ context.Context, req secrets.ValueRequest) (secrets.ValueResponse, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.fetching != nil {
			w.fetching()
		}
		value, ok := w.secrets[req.Key]
		if !ok {
			return secrets.ValueResponse{}, fault.NotFound("Secret not found: %s", req.Key)
		}
		return secrets.ValueResponse{Value: secrets.Exposed{Value: secrets.NewValue(value)}}, nil
	})
	return h.Mount(rt.Mux())
}

func (w *world) pip(_ context.Context, rt *service.Runtime, _ nothing) error {
	of := func(packID string) (approvedTree, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if found, ok := w.installed[packID]; ok {
			return found, nil
		}
		return approvedTree{}, fault.NotFound("Environment not found")
	}
	rt.Mux().Route("GET /internal/environments/{pack_id}", rpc.Handle(func(_ context.Context, req struct {
		PackID string `path:"pack_id" json:"-"`
	}) (pip.Environment, error) {
		found, err := of(req.PackID)
		if err != nil {
			return pip.Environment{}, err
		}
		return pip.Environment{Digest: found.manifest.Digest()}, nil
	}), "capability-broker")
	rt.Mux().Route("GET /internal/environments/{pack_id}/tree", rpc.Raw(func(rw http.ResponseWriter, r *http.Request) error {
		found, err := of(r.PathValue("pack_id"))
		if err != nil || found.manifest.Digest() != r.URL.Query().Get("digest") {
			return fault.NotFound("Environment not found")
		}
		return tree.Send(rw, found.manifest, func(e tree.Entry) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(found.files[e.Path])), nil
		})
	}), "capability-broker")
	return nil
}

// pipInstall has pip-installer give these files as what is installed for a pack; nil for nothing.
func (w *world) pipInstall(packID string, files map[string]string) {
	w.t.Helper()
	dir := w.t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	defer root.Close()
	m, err := tree.Scan(context.Background(), root, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.installed == nil {
		w.installed = make(map[string]approvedTree)
	}
	delete(w.installed, packID)
	if files != nil {
		w.installed[packID] = approvedTree{m, readFiles(w.t, dir)}
	}
}

// write puts a pack's files under ecosystem/.
func (w *world) write(packID string, files map[string]string) {
	w.t.Helper()
	for name, content := range files {
		path := filepath.Join(w.Ecosystem(), packID, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

func readFiles(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(name)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// approve opens the gate of a pack as it lies on disk, makes the socket that the egress proxy would make, and waits
// until the broker has heard.
func (w *world) approve(packID string) string {
	w.t.Helper()
	dir := filepath.Join(w.Ecosystem(), packID)
	root, err := os.OpenRoot(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	defer root.Close()
	m, err := tree.Scan(context.Background(), root, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.trees[m.Digest()] = approvedTree{m, readFiles(w.t, dir)}
	w.mu.Unlock()
	egress := filepath.Join(w.run, "e", uds.DirName(packID))
	if err := os.MkdirAll(egress, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(egress, uds.SocketName), nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.gate(packID, "approved", m.Digest())
	w.eventually("socket of "+packID, func() bool { _, err := os.Lstat(w.socket(packID)); return err == nil })
	return m.Digest()
}

func (w *world) gate(packID, status, digest string) {
	w.mu.Lock()
	w.revision++
	s := gate.State{PackID: packID, Open: pack.Status(status).Executable(), Status: pack.Status(status), Digest: digest, Revision: w.revision}
	w.states[packID] = s
	w.mu.Unlock()
	w.gates.Set(w.t.Context(), s)
}

// reported changes between approved and running, as approval does when the broker says so.
func (w *world) reported(_ context.Context, req struct {
	PackID  string `json:"-" path:"pack_id"`
	Running bool   `json:"running"`
}) (struct{}, error) {
	w.mu.Lock()
	s := w.states[req.PackID]
	w.mu.Unlock()
	switch {
	case s.Status == "approved" && req.Running:
		w.gate(req.PackID, "running", s.Digest)
	case s.Status == "running" && !req.Running:
		w.gate(req.PackID, "approved", s.Digest)
	}
	return struct{}{}, nil
}

// gateStatus is the status that approval last told.
func (w *world) gateStatus(packID string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.states[packID].Status)
}

func (w *world) socket(packID string) string {
	return filepath.Join(w.run, "c", uds.DirName(packID), uds.SocketName)
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	w.t.Fatalf("%s: not within 10 s", what)
}

// answer is what the gateway's client would get.
type answer struct {
	code  int
	data  map[string]any
	list  []any
	error string
}

// api calls the broker as the gateway.
func (w *world) api(method, path string, body any) answer {
	w.t.Helper()
	return w.as("gateway", method, path, body)
}

func (w *world) as(caller, method, path string, body any) answer {
	w.t.Helper()
	var reader io.Reader
	if s, ok := body.(string); ok {
		reader = strings.NewReader(s)
	} else if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			w.t.Fatal(err)
		}
		reader = bytes.NewReader(raw)
	}
	req, err := http.NewRequest(method, "https://capability-broker"+path, reader)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set(rpc.ActorHeader, "operator")
	w.mu.Lock()
	client := w.clients[caller] // one for all calls: each has connections of its own
	if client == nil {
		client = w.Client(caller, "capability-broker")
		w.clients[caller] = client
	}
	w.mu.Unlock()
	response, err := client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	var envelope struct {
		Success bool
		Data    any
		Error   *string
	}
	if err := json.NewDecoder(response.Body).Decode(&envelope); err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	a := answer{code: response.StatusCode}
	a.data, _ = envelope.Data.(map[string]any)
	a.list, _ = envelope.Data.([]any)
	if envelope.Error != nil {
		a.error = *envelope.Error
	}
	return a
}

// must is api for what has to succeed.
func (w *world) must(method, path string, body any) map[string]any {
	w.t.Helper()
	a := w.api(method, path, body)
	if a.code != http.StatusOK {
		w.t.Fatalf("%s %s: %d %s", method, path, a.code, a.error)
	}
	return a.data
}

// pipe is a connection to a capability socket.
type pipe struct {
	net.Conn
	t testing.TB
}

func (w *world) dial(packID string) pipe {
	w.t.Helper()
	conn, err := net.Dial("unix", w.socket(packID))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return pipe{conn, w.t}
}

// ask sends one request and returns the answer.
func (p pipe) ask(request any) map[string]any {
	p.t.Helper()
	raw, err := json.Marshal(request)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.askRaw(raw)
}

// try is ask of a broker that may die meanwhile.
func (p pipe) try(request any) bool {
	p.t.Helper()
	raw, err := json.Marshal(request)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := uds.WriteFrame(p, raw); err != nil {
		return false
	}
	frame, err := uds.ReadFrame(p, 2<<20)
	var out struct{ Success bool }
	return err == nil && json.Unmarshal(frame, &out) == nil && out.Success
}

func (p pipe) askRaw(raw []byte) map[string]any {
	p.t.Helper()
	if err := uds.WriteFrame(p, raw); err != nil {
		p.t.Fatal(err)
	}
	frame, err := uds.ReadFrame(p, 2<<20)
	if err != nil {
		p.t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(frame, &out); err != nil {
		p.t.Fatal(err)
	}
	for _, field := range []string{"success", "output", "error", "error_type", "latency_ms"} {
		if _, ok := out[field]; !ok {
			p.t.Fatalf("answer without %s: %s", field, frame)
		}
	}
	return out
}

// audited returns the details of the entries with an action.
func (w *world) audited(category, action string) (found []map[string]any) {
	w.t.Helper()
	for line := range strings.Lines(audittest.Text(w.t, filepath.Join(w.UserData(), "audit"), category)) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			w.t.Fatalf("audit line %q: %v", line, err)
		}
		if e["action"] == action {
			found = append(found, e)
		}
	}
	return found
}

// handlerPack is a pack with handlers: slug → handler.py. The permission of each is test.<slug>.
func handlerPack(handlers map[string]string) map[string]string {
	files := map[string]string{"ecosystem.json": `{"pack_id": "p", "pack_identity": "x", "version": "1"}`}
	for slug, code := range handlers {
		dir := "share/capability_handlers/" + slug + "/"
		files[dir+"handler.py"] = code
		files[dir+"handler.json"] = fmt.Sprintf(
			`{"handler_id": "%s_handler", "permission_id": "test.%s", "entrypoint": "handler.py:execute", "description": "d", "risk": "low"}`, slug, slug)
	}
	return files
}

// install scans and approves every handler, and grants each to the principal.
func (w *world) install(principal string) {
	w.t.Helper()
	w.must("POST", "/api/capability/candidates/scan", nil)
	items := w.must("GET", "/api/capability/requests?status=pending", nil)["items"].([]any)
	for _, raw := range items {
		item := raw.(map[string]any)
		w.must("POST", "/api/capability/requests/"+escape(item["candidate_key"].(string))+"/approve", nil)
		w.must("POST", "/api/capability/grants/grant", map[string]any{
			"principal_id": principal, "permission_id": item["candidate"].(map[string]any)["permission_id"],
		})
	}
}
