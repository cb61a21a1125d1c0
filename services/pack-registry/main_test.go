package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/api/broker"
	api "github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

// keptData is where the broker's stand-in has put the data of a pack aside.
const keptData = "user_data/packs/.uninstalled/p/20260101T000000.000000000Z"

// suite is pack-registry with stand-ins for the services that it calls.
type suite struct {
	*servicetest.Suite
	t        testing.TB
	registry *servicetest.Server
	client   *http.Client

	mu    sync.Mutex
	calls []string        // what was asked of others, in order
	known map[string]bool // packs that approval knows: whether they are retired
	down  map[string]bool // services that fail

	restored []string // packs that got their data back

	refuse int  // of the next removals of approval's that fail
	anew   bool // while the next uninstall is under way the pack is installed anew
}

func start(t testing.TB) *suite {
	s := &suite{t: t, known: map[string]bool{}, down: map[string]bool{}}
	s.Suite = servicetest.New(t, "pack-registry", "approval", "capability-broker", "egress-proxy", "pip-installer")
	if err := os.MkdirAll(s.path("user_data/import"), 0o750); err != nil {
		t.Fatal(err)
	}
	s.standIn("approval", `{"removed": true}`)
	s.standIn("capability-broker", `{"container_stopped": true, "container_removed": true, "grants_removed": true, "data_path": "`+keptData+`"}`)
	s.standIn("egress-proxy", `{"revoked": true}`)
	s.standIn("pip-installer", `{"removed": false}`)
	s.registry = servicetest.Start(s.Suite, "pack-registry", build, map[string]string{"RUMI_ECOSYSTEM": s.Ecosystem()})
	s.client = s.Client("gateway", "pack-registry")
	return s
}

func (s *suite) path(p string) string { return filepath.Join(s.Home, p) }

// standIn is another service as far as pack-registry calls it.
func (s *suite) standIn(name, removed string) {
	type removeRequest struct {
		PackID string `json:"-" path:"pack_id"`
	}
	servicetest.Start(s.Suite, name, func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		mux := rt.Mux()
		mux.Route("DELETE /internal/packs/{pack_id}", rpc.Handle(func(_ context.Context, r removeRequest) (json.RawMessage, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.calls = append(s.calls, name+" remove "+r.PackID)
			if s.down[name] {
				return nil, fault.ServiceUnavailable(name)
			}
			if name == "approval" {
				retired, known := s.known[r.PackID]
				if s.refuse--; s.refuse >= 0 {
					return nil, fault.Unavailable("approval is down").With("service_unavailable")
				}
				if known && !retired {
					return nil, fault.Conflict("not retired")
				}
				delete(s.known, r.PackID)
				return json.RawMessage(fmt.Sprintf(`{"removed": %v}`, known)), nil
			}
			return json.RawMessage(removed), nil
		}), "pack-registry")
		if name == "capability-broker" {
			mux.Route("POST /internal/packs/{pack_id}/data", rpc.Handle(func(_ context.Context, r removeRequest) (broker.RestoredData, error) {
				s.mu.Lock()
				defer s.mu.Unlock()
				if len(s.restored) > 0 {
					return broker.RestoredData{}, fault.NotFound("No data is kept").With("data_not_found")
				}
				s.restored = append(s.restored, r.PackID)
				return broker.RestoredData{Path: keptData}, nil
			}), "pack-registry")
		}
		if name != "approval" {
			return nil
		}
		mux.Route("PUT /internal/packs/{pack_id}/retired", rpc.Handle(s.retire), "pack-registry")
		mux.Route("GET /internal/packs/retired", rpc.Handle(func(context.Context, struct{}) (approval.RetiredResponse, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			response := approval.RetiredResponse{}
			for id, retired := range s.known {
				if retired {
					response.PackIDs = append(response.PackIDs, id)
				}
			}
			return response, nil
		}), "pack-registry")
		mux.Route("POST /internal/packs/refresh", rpc.Handle(func(_ context.Context, r approval.RefreshRequest) (struct{}, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			verb := "refresh "
			if r.Replaced {
				verb = "replaced "
			}
			s.calls = append(s.calls, verb+strings.Join(r.PackIDs, " "))
			if s.down[name] {
				return struct{}{}, fault.ServiceUnavailable(name)
			}
			return struct{}{}, nil
		}), "pack-registry")
		return nil
	}, nil)
}

type retireRequest struct {
	PackID string `json:"-" path:"pack_id"`
	approval.RetireRequest
}

// retire is approval's part of the beginning of an uninstall.
func (s *suite) retire(_ context.Context, r retireRequest) (approval.RetireResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, "approval retire "+r.PackID)
	if s.down["approval"] {
		return approval.RetireResponse{}, fault.Unavailable("approval is down").With("service_unavailable")
	}
	if _, known := s.known[r.PackID]; !known && !r.Installed {
		return approval.RetireResponse{}, nil
	}
	s.known[r.PackID] = !s.anew
	return approval.RetireResponse{Known: true}, nil
}

// fail makes services fail, and forgets what was called.
func (s *suite) fail(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls, s.down = nil, map[string]bool{}
	for _, name := range names {
		s.down[name] = true
	}
}

func (s *suite) called() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.calls...)
}

type answer struct {
	Status    int `json:"-"`
	Success   bool
	Data      map[string]any
	Error     string
	ErrorCode string `json:"error_code"`
}

func (s *suite) send(method, path, contentType string, body io.Reader) answer {
	s.t.Helper()
	var a answer
	a.Status = s.do(method, path, contentType, body, &a)
	return a
}

func (s *suite) get(path string, into any) { s.t.Helper(); s.do("GET", path, "", nil, into) }

func (s *suite) do(method, path, contentType string, body io.Reader, into any) (status int) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, "https://pack-registry"+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	response, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode
}

// overwrite changes a file in the home.
func (s *suite) overwrite(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *suite) call(method, path, body string) answer {
	s.t.Helper()
	return s.send(method, path, "application/json", strings.NewReader(body))
}

// upload sends a form; each field is a name, a file name ("" for none) and a content.
func (s *suite) upload(fields ...[3]string) answer {
	s.t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for _, f := range fields {
		var w io.Writer
		var err error
		if f[1] != "" {
			w, err = form.CreateFormFile(f[0], f[1])
		} else {
			w, err = form.CreateFormField(f[0])
		}
		if err == nil {
			_, err = io.WriteString(w, f[2])
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if err := form.Close(); err != nil {
		s.t.Fatal(err)
	}
	return s.send("POST", "/api/packs/import", form.FormDataContentType(), &body)
}

// archived is an archive of one pack.
func archived(t testing.TB, id, version string) string {
	t.Helper()
	return zipped(t, map[string]string{
		"main/ecosystem.json":    fmt.Sprintf(`{"pack_id": %q, "pack_identity": "github:a/b", "version": %q}`, id, version),
		"main/backend/main.py":   "print(1)\n",
		"main/requirements.lock": "x==1\n",
	})
}

func zipped(t testing.TB, files map[string]string) string {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for name, content := range files {
		f, err := w.Create(name)
		if err == nil {
			_, err = io.WriteString(f, content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// The life of a pack as far as this service sees it.
func TestLife(t *testing.T) {
	s := start(t)
	a := s.upload([3]string{"notes", "", "first"}, [3]string{"file", "p.zip", archived(t, "p", "1")})
	id, _ := a.Data["staging_id"].(string)
	meta, _ := a.Data["meta"].(map[string]any)
	if a.Status != 200 || a.Data["success"] != true || a.Data["input_type"] != "zip" || a.Data["is_multi_pack"] != false || a.Data["source_path"] != "p.zip" ||
		a.Data["staging_dir"] != "user_data/pack_staging/"+id || !reflect.DeepEqual(a.Data["detected_pack_ids"], []any{"p"}) || meta["notes"] != "first" {
		t.Fatalf("the import gets %+v, want 200 with p's zip and its notes", a)
	}
	a = s.call("POST", "/api/packs/apply", `{"staging_id": "`+id+`"}`)
	if a.Status != 200 || a.Data["success"] != true || !reflect.DeepEqual(a.Data["applied_pack_ids"], []any{"p"}) ||
		!reflect.DeepEqual(a.Data["backup_paths"], map[string]any{}) || !reflect.DeepEqual(a.Data["errors"], []any{}) {
		t.Fatalf("the apply gets %+v, want 200 with p, without backups and errors", a)
	}
	if calls := s.called(); !reflect.DeepEqual(calls, []string{"replaced p"}) {
		t.Errorf("the apply called %v, want that p was replaced", calls)
	}
	a = s.call("POST", "/api/packs/scan", "")
	if a.Status != 200 || a.Data["scanned"] != 1.0 || !reflect.DeepEqual(a.Data["packs"], []any{"p"}) {
		t.Errorf("the scan gets %+v, want 200 with p", a)
	}
	packs, err := api.NewClient(s.Peer("pip-installer", "pack-registry")).Select(t.Context(), "requirements.lock")
	if err != nil || len(packs) != 1 || len(packs[0].Files) != 1 || string(packs[0].Files[0].Content) != "x==1\n" {
		t.Errorf("select: %+v, %v; want p's one file", packs, err)
	}

	// An update by path, as the operator would do it.
	if err := os.WriteFile(s.path("user_data/import/p.rumipack"), []byte(archived(t, "p", "2")), 0o644); err != nil {
		t.Fatal(err)
	}
	a = s.call("POST", "/api/packs/import", `{"path": "user_data/import/p.rumipack", "notes": "second"}`)
	if a.Status != 200 || a.Data["input_type"] != "rumipack" {
		t.Fatalf("import: %+v; want 200, input type rumipack", a)
	}
	a = s.call("POST", "/api/packs/apply", fmt.Sprintf(`{"staging_id": %q, "mode": "replace"}`, a.Data["staging_id"]))
	backups, _ := a.Data["backup_paths"].(map[string]any)
	backup, _ := backups["p"].(string)
	if content, err := os.ReadFile(s.path(backup + "/ecosystem.json")); a.Status != 200 || err != nil || !strings.Contains(string(content), `"1"`) {
		t.Errorf("apply: %+v, the backup is %s, %v", a, content, err)
	}

	s.fail()
	a = s.call("DELETE", "/api/packs/p", "")
	want := map[string]any{"container_stop": true, "container_remove": true, "approval_remove": true, "privilege_revoke": true, "files_remove": true}
	if a.Status != 200 || a.Data["success"] != true || a.Data["pack_id"] != "p" || !reflect.DeepEqual(a.Data["steps"], want) || !reflect.DeepEqual(a.Data["errors"], []any{}) {
		t.Errorf("the uninstall gets %+v, want 200 with each step done", a)
	}
	calls := s.called()
	if len(calls) != 5 || calls[0] != "approval retire p" || calls[4] != "approval remove p" {
		t.Errorf("uninstall called %v; want 5 calls, from approval's retire to approval's remove", calls)
	}
	if a = s.call("DELETE", "/api/packs/p", ""); a.Status != 404 || a.Error != "Pack not found" {
		t.Errorf("again: %+v; want 404", a)
	}
	for action, count := range map[string]int{"pack_import_completed": 2, "pack_apply_completed": 2, "pack_uninstalled": 1} {
		if got := s.audited(action); got != count {
			t.Errorf("%d entries of %s, want %d", got, action, count)
		}
	}
}

// audited counts the audit entries of an action.
func (s *suite) audited(action string) int {
	s.t.Helper()
	return strings.Count(audittest.Text(s.t, s.path("user_data/audit"), "*"), `"action":"`+action+`"`)
}

func TestBadRequests(t *testing.T) {
	s := start(t)
	const missing = "00000000000000aa"
	for _, c := range []struct {
		method, path, body string
		status             int
		message            string
	}{
		{"POST", "/api/packs/import", `{}`, 400, "Missing 'path'"},
		{"POST", "/api/packs/import", ``, 400, "Missing 'path'"},
		{"POST", "/api/packs/import", `{"path": 1}`, 400, "Invalid value for field 'path': want a string"},
		{"POST", "/api/packs/import", `{"path": "ecosystem/x", "note": ""}`, 400, "Unknown field 'note' (known: path, notes)"},
		{"POST", "/api/packs/import", `[]`, 400, "Invalid JSON in request body" + `: want an object, such as {"name": "value"}`},
		{"POST", "/api/packs/import", `{"path": "ecosystem/none"}`, 400, "Source not found: ecosystem/none"},
		{"POST", "/api/packs/import", `{"path": "/etc"}`, 400, `Path must be within ecosystem, user_data/import: copy it to user_data/import and name it "user_data/import/etc", or upload an archive (curl -F file=@etc)`},
		{"POST", "/api/packs/apply", `{}`, 400, "Missing 'staging_id'"},
		{"POST", "/api/packs/apply", `{"staging_id": "abc123"}`, 400, "Invalid staging_id (16 hex digits, as import answers)"},
		{"POST", "/api/packs/apply", `{"staging_id": "../../../../x"}`, 400, "Invalid staging_id (16 hex digits, as import answers)"},
		{"POST", "/api/packs/apply", `{"staging_id": "` + missing + `"}`, 404, "Staging not found: " + missing},
		{"POST", "/api/packs/apply", `{"staging_id": "` + missing + `", "mode": "merge"}`, 400, "Unsupported mode: merge"},
		{"POST", "/api/packs/scan", `{"x": 1}`, 400, "Unknown field 'x' (known: none)"},
		{"DELETE", "/api/packs/a.b", ``, 400, "Invalid pack_id"},
		{"DELETE", "/api/packs/a%2fb", ``, 400, "Invalid pack_id"},
		{"DELETE", "/api/packs/p%0a", ``, 400, "Invalid pack_id"},
		{"DELETE", "/api/packs/%252e%252e", ``, 400, "Invalid pack_id"},
		{"DELETE", "/api/packs/" + strings.Repeat("x", 65), ``, 400, "Invalid pack_id"},
		{"DELETE", "/api/packs/unknown", ``, 404, "Pack not found"},
		{"GET", "/api/packs/scan", ``, 405, "Method not allowed"},
		{"POST", "/internal/packs/select", `{"patterns": ["x"]}`, 403, "Caller not allowed"}, // the gateway's certificate
	} {
		if a := s.call(c.method, c.path, c.body); a.Status != c.status || a.Error != c.message || a.Success {
			t.Errorf("%s %s %s: %+v; want %d %q", c.method, c.path, c.body, a, c.status, c.message)
		}
	}
	file := [3]string{"file", "p.zip", archived(t, "p", "1")}
	for name, c := range map[string]struct {
		fields  [][3]string
		message string
	}{
		"no file":       {[][3]string{{"notes", "", "x"}}, "Missing 'file' (curl -F file=@my_pack.zip)"},
		"unknown field": {[][3]string{{"path", "", "x"}, file}, "Unknown field 'path' (known: file, notes)"},
		"two files":     {[][3]string{file, file}, "More than one 'file'"},
		"kind":          {[][3]string{{"file", "p.tar.gz", "x"}}, "Unsupported input: p.tar.gz (want a folder, .zip or .rumipack)"},
		"no file name":  {[][3]string{{"file", "", "x"}}, "Unsupported input: a file without a name that is no zip archive (want a folder, .zip or .rumipack)"},
		"no archive":    {[][3]string{{"file", "p.zip", "x"}}, "Not a valid zip archive: p.zip (no end record at the end)"},
	} {
		if a := s.upload(c.fields...); a.Status != 400 || a.Error != c.message {
			t.Errorf("%s: %+v; want 400 %q", name, a, c.message)
		}
	}
	for kind, begins := range map[string]string{"application/zip": "x", "application/octet-stream": "", "application/x-www-form-urlencoded": "PK\x03\x04", "": "PK\x05\x06"} {
		const want = "Invalid JSON in request body: an archive is sent as the field 'file' of a form (curl -F file=@my_pack.zip)"
		if a := s.send("POST", "/api/packs/import", kind, strings.NewReader(begins)); a.Status != 400 || a.Error != want {
			t.Errorf("an archive as the whole body, type %q: %+v; want 400 %q", kind, a, want)
		}
	}
	if a := s.send("POST", "/api/packs/import", "multipart/form-data", strings.NewReader("x")); a.Status != 400 || !strings.Contains(a.Error, "names no boundary") {
		t.Errorf("a form without a boundary: %+v; want 400, an error that says \"names no boundary\"", a)
	}
	if a := s.send("POST", "/api/packs/import", "multipart/form-data; boundary=x", strings.NewReader("--x\r\nno form")); a.Status != 400 {
		t.Errorf("broken form: %+v; want 400", a)
	}
	if a := s.upload(file, [3]string{"notes", "", "behind it"}); a.Status != 200 {
		t.Errorf("notes behind the file: %+v; want 200", a)
	}
	s.fail("approval")
	if a := s.call("POST", "/api/packs/scan", ""); a.Status != 503 {
		t.Errorf("scan without approval: %+v; want 503", a)
	}
}

func TestRefusedApply(t *testing.T) {
	s := start(t)
	if err := os.MkdirAll(filepath.Join(s.Ecosystem(), "p"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Ecosystem(), "p/ecosystem.json"), []byte(`{"pack_id": "p", "pack_identity": "other"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	a := s.upload([3]string{"file", "p.zip", archived(t, "p", "1")})
	a = s.call("POST", "/api/packs/apply", fmt.Sprintf(`{"staging_id": %q}`, a.Data["staging_id"]))
	const text = "pack_identity mismatch: existing pack_identity='other', new pack_identity='github:a/b' (pack_id='p'). To replace, manually remove the existing pack first."
	if a.Status != 409 || a.Error != text || !reflect.DeepEqual(a.Data["errors"], []any{map[string]any{"pack_id": "p", "error": text}}) || a.Data["success"] != false {
		t.Errorf("the apply gets %+v, want 409 that names both identities", a)
	}
	if s.audited("pack_apply_failed") != 1 {
		t.Error("no audit entry")
	}
}
