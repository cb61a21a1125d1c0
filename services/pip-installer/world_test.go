package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	api "github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/build"
)

// world is pip-installer over real sockets, with approval and pack-registry reduced to what it asks of them, and a
// builder that stands for Docker and a package index.
type world struct {
	*servicetest.Suite
	t       *testing.T
	env     map[string]string
	server  *servicetest.Server
	gates   *gate.Publisher
	view    *gate.View // of pip-installer
	builder *fakeBuilder

	mu       sync.Mutex
	pings    int                          // of approval
	approved map[string]map[string]string // trees by digest
	revision int64
}

// newWorld starts pip-installer and the others, but for those that are down.
func newWorld(t *testing.T, env map[string]string, down ...string) *world {
	running := slices.DeleteFunc([]string{"approval", "pack-registry", "pip-installer"}, func(name string) bool { return slices.Contains(down, name) })
	w := &world{
		Suite: servicetest.New(t, running...), t: t, env: env, gates: gate.NewPublisher(nil),
		approved: map[string]map[string]string{}, builder: &fakeBuilder{t: t},
	}
	// What is kept can't be removed by anybody but root as it is.
	t.Cleanup(func() {
		w.check(filepath.WalkDir(w.Home, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				err = os.Chmod(path, 0o700)
			}
			return err
		}))
	})
	if slices.Contains(running, "approval") {
		w.startApproval()
	}
	if slices.Contains(running, "pack-registry") {
		w.startRegistry()
	}
	w.boot()
	return w
}

func (w *world) startApproval() {
	servicetest.Start(w.Suite, "approval", func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		h := route.NewHandlers(gate.Table)
		w.gates.Handle(h)
		if err := h.Mount(rt.Mux()); err != nil {
			return err
		}
		rt.Mux().Route("GET /internal/trees/{digest}", rpc.Raw(w.sendTree), "pip-installer")
		rt.Mux().Route("POST /internal/pending/refresh", rpc.Handle(func(context.Context, struct{}) (struct{}, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.pings++
			return struct{}{}, nil
		}), "pip-installer")
		return nil
	}, nil)
}

func (w *world) startRegistry() {
	servicetest.Start(w.Suite, "pack-registry", func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		h := route.NewHandlers(route.NewTable(registry.Select))
		route.Handle(h, registry.Select, w.selectFiles)
		return h.Mount(rt.Mux())
	}, nil)
}

func (w *world) boot() {
	w.server = servicetest.Start(w.Suite, "pip-installer", func(ctx context.Context, rt *service.Runtime, cfg config) error {
		w.view = gate.NewView(rt.Log)
		build.New(build.Config{Metrics: rt.Metrics}) // w.builder has no metrics, which docs/metrics.md has
		return assemble(ctx, rt, cfg, w.builder, w.view)
	}, w.env)
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// write lays a file into a pack.
func (w *world) write(packID, name, content string) {
	w.t.Helper()
	path := filepath.Join(w.Ecosystem(), packID, name)
	w.check(os.MkdirAll(filepath.Dir(path), 0o755))
	w.check(os.WriteFile(path, []byte(content), 0o644))
}

// approve opens a pack's gate for what lies on disk now.
func (w *world) approve(packID string) {
	w.t.Helper()
	files := map[string]string{}
	w.check(fs.WalkDir(os.DirFS(filepath.Join(w.Ecosystem(), packID)), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			text, readErr := os.ReadFile(filepath.Join(w.Ecosystem(), packID, path))
			files[path], err = string(text), readErr
		}
		return err
	}))
	m := w.manifest(files)
	w.mu.Lock()
	w.approved[m.Digest()] = files
	w.mu.Unlock()
	w.gate(packID, "approved", m.Digest())
}

func (w *world) gate(packID, status, digest string) {
	w.t.Helper()
	w.revision++
	w.gates.Set(w.t.Context(), gate.State{PackID: packID, Open: status == "approved", Status: pack.Status(status), Digest: digest, Revision: w.revision})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // the stream is a socket
		if state, _ := w.view.Get(packID); state.Revision == w.revision {
			return
		}
		if time.Now().After(end) {
			w.t.Fatal("pip-installer doesn't hear of gates")
		}
	}
}

func (w *world) manifest(files map[string]string) tree.Manifest {
	w.t.Helper()
	root, err := os.OpenRoot(treeDir(w.t, files))
	w.check(err)
	defer root.Close()
	m, err := tree.Scan(w.t.Context(), root, nil)
	w.check(err)
	return m
}

func treeDir(t *testing.T, files map[string]string) string {
	dir := t.TempDir()
	for name, content := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (w *world) sendTree(out http.ResponseWriter, r *http.Request) error {
	w.mu.Lock()
	files := w.approved[r.PathValue("digest")]
	w.mu.Unlock()
	return tree.Send(out, w.manifest(files), func(e tree.Entry) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(files[e.Path])), nil
	})
}

func (w *world) selectFiles(_ context.Context, req registry.SelectRequest) (registry.SelectResponse, error) {
	var answer registry.SelectResponse
	ids, err := os.ReadDir(w.Ecosystem())
	for _, id := range ids {
		p := registry.Pack{PackID: id.Name(), Files: []registry.File{}}
		for _, pattern := range req.Patterns {
			text, err := os.ReadFile(filepath.Join(w.Ecosystem(), id.Name(), pattern))
			switch {
			case errors.Is(err, fs.ErrNotExist):
			case err != nil:
				p.Files = append(p.Files, registry.File{Path: pattern, Error: "unreadable"})
			default:
				p.Files = append(p.Files, registry.File{Path: pattern, Size: int64(len(text)), SHA256: sum(string(text)), Content: text})
			}
		}
		answer.Packs = append(answer.Packs, p)
	}
	return answer, err
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}

// answer is an envelope and its status.
type answer struct {
	status int
	Data   map[string]any `json:"data"`
	Error  string         `json:"error"`
	Code   string         `json:"error_code"`
}

func (w *world) callAs(as, method, path, body string) answer {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, "https://pip-installer"+path, strings.NewReader(body))
	w.check(err)
	response, err := w.Client(as, "pip-installer").Do(r)
	w.check(err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	w.check(err)
	a := answer{status: response.StatusCode}
	if err := json.Unmarshal(text, &a); err != nil {
		w.t.Fatalf("%s %s: %d %q", method, path, response.StatusCode, text)
	}
	return a
}

func (w *world) call(method, path, body string) answer {
	w.t.Helper()
	return w.callAs("gateway", method, path, body)
}

// request is the path of a verb for a candidate.
func request(key, verb string) string {
	return "/api/pip/requests/" + url.QueryEscape(key) + "/" + verb
}

// expect compares an answer's status and the text of its error.
func (w *world) expect(got answer, status int, text string) {
	w.t.Helper()
	if got.status != status || !strings.Contains(got.Error, text) || text == "" && got.Error != "" {
		w.t.Fatalf("answered %d %q, want %d %q (%v)", got.status, got.Error, status, text, got.Data)
	}
}

func (w *world) client() *api.Client {
	return api.NewClient(w.Peer("capability-broker", "pip-installer"))
}

// audited are the actions in a category's file, with what was said about them.
func (w *world) audited(category string) (actions []string) {
	w.t.Helper()
	for line := range strings.Lines(audittest.Text(w.t, filepath.Join(w.UserData(), "audit"), category)) {
		var e struct {
			Service, Action, Error, Actor string
			OwnerPack                     string `json:"owner_pack"`
			RejectionReason               string `json:"rejection_reason"`
		}
		w.check(json.Unmarshal([]byte(line), &e))
		if e.Service == "pip-installer" && !strings.HasPrefix(e.Action, "service_") {
			actions = append(actions, strings.TrimSpace(strings.Join([]string{e.Action, e.OwnerPack, e.Error + e.RejectionReason}, " ")))
		}
	}
	return actions
}

func (w *world) pinged() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pings
}

// fakeBuilder leaves what pip would: wheels of exactly what is asked for, and more files where a test wants them.
type fakeBuilder struct {
	t        *testing.T
	mu       sync.Mutex
	requests []build.Request
	more     map[string]string
	checkErr error
	buildErr error
	during   func()
	removed  int
}

func (b *fakeBuilder) Check(context.Context) error { return b.checkErr }

func (b *fakeBuilder) Build(_ context.Context, req build.Request) (build.Result, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requests = append(b.requests, req)
	if b.during != nil {
		b.during()
	}
	if b.buildErr != nil {
		return build.Result{}, b.buildErr
	}
	files := map[string]string{}
	for _, r := range req.Requirements {
		files[r.Name+"/__init__.py"] = "version = '" + r.Version + "'\n"
		files[fmt.Sprintf("%s-%s.dist-info/METADATA", r.Name, r.Version)] = fmt.Sprintf("Name: %s\nVersion: %s\n", r.Name, r.Version)
	}
	maps.Copy(files, b.more)
	return build.Result{Dir: treeDir(b.t, files), Remove: func() error { b.removed++; return nil }}, nil
}

func (b *fakeBuilder) asked() []build.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.requests)
}
