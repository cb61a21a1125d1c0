package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	api "github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
	"github.com/rumi-ai/rumi/libs/testenv"
	"github.com/rumi-ai/rumi/libs/tree"
)

// world is approval with a Rumi home, and the other services' ways to it.
type world struct {
	*servicetest.Suite
	t       testing.TB
	server  *servicetest.Server
	gateway *client.Peer
	client  *api.Client // as pack-registry
	view    *gate.View  // as egress-proxy
	env     map[string]string
}

func start(t testing.TB) *world { return startWith(t, nil) }

// startWith is start with settings of approval.
func startWith(t testing.TB, env map[string]string) *world {
	w := &world{Suite: servicetest.New(t, "approval"), t: t, env: map[string]string{"RUMI_LOG_LEVEL": "warn"}}
	w.env["RUMI_ECOSYSTEM"] = w.Ecosystem()
	maps.Copy(w.env, env)
	w.check(os.MkdirAll(filepath.Join(w.UserData(), "pending"), 0o750))
	w.boot()
	w.gateway = w.Peer("gateway", "approval")
	w.client = api.NewClient(w.Peer("pack-registry", "approval"))
	w.view = gate.NewView(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.view.Follow(ctx, w.Peer("egress-proxy", "approval")) }()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func (w *world) boot() {
	w.server = servicetest.Start(w.Suite, "approval", build, w.env)
}

var _ service.Build[config] = build

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// pack writes a pack's folder and has it registered.
func (w *world) pack(id string) string {
	w.t.Helper()
	dir := filepath.Join(w.Ecosystem(), id)
	w.write(filepath.Join(dir, "ecosystem.json"), fmt.Sprintf(`{"pack_id":%q,"pack_identity":"github:a/%s","version":"1.2","required_secrets":["K"]}`, id, id))
	w.write(filepath.Join(dir, "backend/main.py"), "print('hello')\n")
	w.write(filepath.Join(dir, "backend/other.py"), "print('other')\n")
	w.write(filepath.Join(dir, ".hidden/.x"), "x")
	w.check(os.MkdirAll(filepath.Join(dir, "empty"), 0o755))
	w.check(w.client.Refresh(w.t.Context(), id))
	return dir
}

func (w *world) write(path, text string) {
	w.t.Helper()
	w.check(os.MkdirAll(filepath.Dir(path), 0o755))
	w.check(os.WriteFile(path, []byte(text), 0o644))
}

func (w *world) call(method, path string, body any) (map[string]any, error) {
	return client.Call[map[string]any](w.t.Context(), w.gateway, method, path, body)
}

func (w *world) approve(id string) {
	w.t.Helper()
	_, err := w.call("POST", "/api/packs/"+id+"/approve", nil)
	w.check(err)
	w.eventually(id+" is open", func() bool { s, _ := w.view.Get(id); return s.Open })
}

func (w *world) status(id string) string {
	w.t.Helper()
	answer, err := w.call("GET", "/api/packs/"+id+"/status", nil)
	w.check(err)
	return answer["status"].(string)
}

// eventually waits for what the contract gives a second. A machine that runs all tests at once gets more, and the log says
// so: a disk that others sync takes what it takes.
func (w *world) eventually(what string, happened func() bool) {
	w.t.Helper()
	began := time.Now()
	for ; !happened(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			w.t.Fatalf("not within 20 s: %s; want time.Since(began) <= 20 * time.Second", what)
		}
	}
	if took := time.Since(began); took > time.Second {
		w.t.Logf("took %v: %s", took, what)
	}
}

// entries are the audit entries of a category with one of the actions, of a pack.
func (w *world) entries(category, packID string) (actions []string) {
	w.t.Helper()
	for line := range strings.Lines(audittest.Text(w.t, filepath.Join(w.UserData(), "audit"), category)) {
		var e struct {
			Action string `json:"action"`
			Pack   string `json:"owner_pack"`
		}
		w.check(json.Unmarshal([]byte(line), &e))
		if e.Pack == packID {
			actions = append(actions, e.Action)
		}
	}
	return actions
}

func TestLifeOfAPack(t *testing.T) {
	w := start(t)
	dir := w.pack("demo")
	pending, err := client.Call[[]string](t.Context(), w.gateway, "GET", "/api/packs/pending", nil)
	w.check(err)
	if !slices.Equal(pending, []string{"demo"}) || w.status("demo") != "pending" {
		t.Fatalf("pending are %v and demo is %s, want demo pending", pending, w.status("demo"))
	}

	answer, err := w.call("POST", "/api/packs/demo/approve", nil)
	w.check(err)
	if answer["success"] != true || answer["pack_id"] != "demo" || answer["status"] != "approved" {
		t.Fatalf("the approval answers %v, want that demo is approved", answer)
	}
	digest := answer["digest"].(string)
	w.eventually("the gate is open", func() bool { s, _ := w.view.Get("demo"); return s.Open && s.Digest == digest })

	answer, err = w.call("GET", "/api/packs/demo/status", nil)
	w.check(err)
	approval := answer["approval"].(map[string]any)
	hashes := slices.Sorted(maps.Keys(approval["file_hashes"].(map[string]any)))
	if want := []string{".hidden/.x", "backend/main.py", "backend/other.py", "ecosystem.json"}; !slices.Equal(hashes, want) {
		t.Errorf("file_hashes of %v, want %v", hashes, want)
	}
	if approval["permissions_requested"].(map[string]any)["secrets"].([]any)[0] != "K" || approval["rejection_reason"] != nil || approval["approved_at"] == nil {
		t.Errorf("the status is %v, want the secret K asked for, a time of approval and no rejection", approval)
	}

	copied := filepath.Join(testenv.TempDir(t), "copy")
	body, err := api.NewClient(w.Peer("capability-broker", "approval")).Tree(t.Context(), digest)
	w.check(err)
	w.check(tree.Receive(body, digest, copied))
	body.Close()

	w.write(filepath.Join(dir, "backend/main.py"), "print('hijack')\n")
	w.eventually("the gate is closed", func() bool { s, _ := w.view.Get("demo"); return !s.Open && s.Status == "modified" })
	w.write(filepath.Join(dir, "backend/main.py"), "print('hello')\n")
	w.check(w.client.Refresh(t.Context()))
	if w.status("demo") != "modified" {
		t.Error("a change that was put back isn't modified any more")
	}
	w.approve("demo")

	if _, err := w.call("POST", "/api/packs/demo/reject", map[string]string{"reason": "セキュリティ上の懸念\nline two"}); err != nil {
		t.Fatal(err)
	}
	if s, _ := w.view.Get("demo"); w.status("demo") != "blocked" {
		t.Errorf("demo is %s, its gate %+v; want it blocked", w.status("demo"), s)
	}
	w.eventually("the gate is closed", func() bool { s, _ := w.view.Get("demo"); return !s.Open })
	w.approve("demo") // a blocked pack can be approved

	if _, err := w.client.Remove(t.Context(), "demo"); !fault.Is(err, fault.KindConflict) {
		t.Fatalf("removed what is not retired: %v; want a conflict", err)
	}
	w.retire("demo", true)
	removed, err := w.client.Remove(t.Context(), "demo")
	if err != nil || !removed {
		t.Fatalf("the removal gives %v, %v; want true", removed, err)
	}
	w.eventually("the pack is unknown", func() bool { _, known := w.view.Get("demo"); return !known })
	if _, err := w.call("GET", "/api/packs/demo/status", nil); !fault.Is(err, fault.KindNotFound) || fault.Of(err).Message != "Pack not found" {
		t.Error(err)
	}
	if removed, err := w.client.Remove(t.Context(), "demo"); err != nil || removed {
		t.Errorf("a second removal gives %v, %v; want false", removed, err)
	}
	want := []string{"pack_registered", "pack_approved", "pack_modified", "pack_approved", "pack_rejected", "pack_approved", "pack_retired", "pack_approval_removed"}
	if got := w.entries("approval", "demo"); !slices.Equal(got, want) {
		t.Errorf("audited %v, want %v", got, want)
	}
	if got := w.entries("security", "demo"); !slices.Equal(got, []string{"hash_mismatch"}) {
		t.Errorf("audited %v, want one hash_mismatch", got)
	}
}

func TestEveryChangeIsNoticed(t *testing.T) {
	w := start(t)
	for name, change := range map[string]func(dir string) error{
		"content":              func(d string) error { return os.WriteFile(d+"/backend/main.py", []byte("print('HELLO')\n"), 0o644) },
		"hidden content":       func(d string) error { return os.WriteFile(d+"/.hidden/.x", []byte("y"), 0o644) },
		"mode":                 func(d string) error { return os.Chmod(d+"/backend/main.py", 0o755) },
		"mode of a folder":     func(d string) error { return os.Chmod(d+"/empty", 0o700) },
		"name":                 func(d string) error { return os.Rename(d+"/backend/main.py", d+"/backend/mein.py") },
		"addition":             func(d string) error { return os.WriteFile(d+"/empty/__init__.py", nil, 0o644) },
		"bytecode":             func(d string) error { return deep(d+"/backend/__pycache__", "main.cpython-311.pyc") },
		"a .git folder":        func(d string) error { return deep(d+"/.git/hooks", "x") },
		"a deep new folder":    func(d string) error { return deep(d+"/a/b/c/d", "x") },
		"an empty new folder":  func(d string) error { return os.Mkdir(d+"/new", 0o755) },
		"removal":              func(d string) error { return os.Remove(d + "/backend/other.py") },
		"removal of a folder":  func(d string) error { return os.Remove(d + "/empty") },
		"a link":               func(d string) error { return os.Symlink("/etc/passwd", d+"/backend/link") },
		"a FIFO":               func(d string) error { return syscall.Mkfifo(d+"/backend/fifo", 0o644) },
		"a file for a link":    func(d string) error { return swapForLink(d + "/backend/main.py") },
		"two names swapped":    swapNames,
		"the folder is gone":   os.RemoveAll,
		"the folder is moved":  func(d string) error { return os.Rename(d, d+"_old") },
		"another in its place": replaceFolder,
	} {
		t.Run(name, func(t *testing.T) {
			id := "p-" + strings.NewReplacer(" ", "-", ".", "").Replace(name)
			dir := w.pack(id)
			w.approve(id)
			w.check(change(dir))
			w.eventually("the gate is closed", func() bool { s, _ := w.view.Get(id); return !s.Open && s.Status == "modified" })
			if got := w.entries("security", id); !slices.Equal(got, []string{"hash_mismatch"}) {
				t.Errorf("audited %v, want one hash_mismatch", got)
			}
		})
	}
	t.Run("reading and touching is no change", func(t *testing.T) {
		dir := w.pack("same")
		w.approve("same")
		now := time.Now().Add(time.Hour)
		w.check(os.Chtimes(dir+"/backend/main.py", now, now))
		w.write(dir+"/backend/main.py", "print('hello')\n") // the same again
		w.check(w.client.Refresh(t.Context(), "same"))
		time.Sleep(50 * time.Millisecond) // for the watcher's own look
		if s := w.status("same"); s != "approved" {
			t.Errorf("status %s; want approved", s)
		}
	})
}

func deep(dir, file string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, file), []byte("x"), 0o644)
}

func swapForLink(path string) error {
	if err := os.Rename(path, path+".real"); err != nil {
		return err
	}
	return os.Symlink(filepath.Base(path)+".real", path)
}

func swapNames(d string) error {
	a, b, c := d+"/backend/main.py", d+"/backend/other.py", d+"/backend/third.py"
	for _, pair := range [][2]string{{a, c}, {b, a}, {c, b}} {
		if err := os.Rename(pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}

func replaceFolder(d string) error {
	if err := os.CopyFS(d+"_new", os.DirFS(d)); err != nil {
		return err
	}
	if err := os.WriteFile(d+"_new/backend/main.py", []byte("evil"), 0o644); err != nil {
		return err
	}
	if err := os.Rename(d, d+"_old"); err != nil {
		return err
	}
	return os.Rename(d+"_new", d)
}

// Whoever puts a pack in place says so, and then even the same bytes are a person's to decide about again.
func TestAReplacedPackIsModified(t *testing.T) {
	w := start(t)
	w.pack("demo")
	w.approve("demo")
	w.check(w.client.Refresh(t.Context(), "demo"))
	if s := w.status("demo"); s != "approved" {
		t.Errorf("a look made it %s; want approved", s)
	}
	w.check(w.client.Replaced(t.Context(), "demo"))
	if s := w.status("demo"); s != "modified" {
		t.Errorf("replaced, but %s; want modified", s)
	}
	w.eventually("the gate is closed", func() bool { s, _ := w.view.Get("demo"); return !s.Open })
	w.approve("demo")
	if got, want := w.entries("approval", "demo"), []string{"pack_registered", "pack_approved", "pack_modified", "pack_approved"}; !slices.Equal(got, want) {
		t.Errorf("audited %v, want %v", got, want)
	}
	if got := w.entries("security", "demo"); len(got) != 0 {
		t.Errorf("audited %v, though no hash differs; want none", got)
	}
}

func TestWhatCannotBeAPackIsInError(t *testing.T) {
	w := start(t)
	for name, c := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"a link":              {func(d string) error { return os.Symlink("/etc", d+"/etc") }, "symbolic link"},
		"another id":          {func(d string) error { return descriptor(d, `{"pack_id":"x","pack_identity":"y"}`) }, "pack_id mismatch"},
		"no identity":         {func(d string) error { return descriptor(d, `{"pack_id":"`+filepath.Base(d)+`"}`) }, "no pack_identity"},
		"no JSON":             {func(d string) error { return descriptor(d, `{`) }, "JSON"},
		"a duplicate key":     {func(d string) error { return descriptor(d, `{"pack_id":"a","pack_id":"b"}`) }, "a name stands twice"},
		"a huge ecosystem":    {func(d string) error { return descriptor(d, strings.Repeat(" ", 2<<20)) }, "larger"},
		"a folder for a file": {func(d string) error { os.Remove(d + "/ecosystem.json"); return os.Mkdir(d+"/ecosystem.json", 0o755) }, "ecosystem.json"},
	} {
		t.Run(name, func(t *testing.T) {
			id := "e-" + strings.ReplaceAll(name, " ", "-")
			dir := w.pack(id)
			w.check(c.spoil(dir))
			w.check(w.client.Refresh(t.Context(), id))
			if s := w.status(id); s != "error" {
				t.Errorf("status %s; want error", s)
			}
			_, err := w.call("POST", "/api/packs/"+id+"/approve", nil)
			if !fault.Is(err, fault.KindConflict) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("approve: %v, want %q", err, c.want)
			}
			w.check(os.RemoveAll(dir))
			w.pack(id)
			if s := w.status(id); s != "pending" {
				t.Errorf("mended, but status %s; want pending", s)
			}
		})
	}
}

func descriptor(dir, text string) error {
	return os.WriteFile(filepath.Join(dir, "ecosystem.json"), []byte(text), 0o644)
}

func TestBadInput(t *testing.T) {
	w := start(t)
	w.pack("known")
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/api/packs/unknown/status", "", 404, "Pack not found"},
		{"POST", "/api/packs/unknown/approve", "", 404, "Pack not found"},
		{"POST", "/api/packs/unknown/reject", `{"reason":"x"}`, 404, "Pack not found"},
		{"GET", "/api/packs/a%2Fb/status", "", 400, "Invalid pack_id"},
		{"GET", "/api/packs/%2e%2e/status", "", 404, "Not found"},
		{"GET", "/api/packs/%252e%252e/status", "", 400, "Invalid pack_id"},
		{"GET", "/api/packs/known%0A/status", "", 400, "Invalid pack_id"},
		{"GET", "/api/packs/" + strings.Repeat("a", 65) + "/status", "", 400, "Invalid pack_id"},
		{"POST", "/api/packs/known/reject", `{"reason":1}`, 400, "Invalid value for field 'reason': want a string"},
		{"POST", "/api/packs/known/reject", `{"raeson":"x"}`, 400, "Unknown field 'raeson' (known: reason)"},
		{"GET", "/internal/trees/sha256:x", "", 403, "Caller not allowed"},
	} {
		r, err := http.NewRequest(c.method, "https://approval"+c.path, strings.NewReader(c.body))
		w.check(err)
		response, err := w.gateway.RoundTrip(r)
		w.check(err)
		var answer struct {
			Error string `json:"error"`
		}
		w.check(json.UnmarshalRead(response.Body, &answer))
		response.Body.Close()
		if response.StatusCode != c.status || answer.Error != c.want {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, response.StatusCode, answer.Error, c.status, c.want)
		}
	}
}

// A restart must find what was acknowledged, and what changed while nobody looked.
func TestRestart(t *testing.T) {
	w := start(t)
	w.pack("kept")
	changed := w.pack("changed")
	w.approve("kept")
	w.approve("changed")
	w.check(w.server.Stop())
	w.eventuallyClosed("kept")
	w.write(filepath.Join(changed, "backend/main.py"), "evil")
	w.boot()
	w.eventually("kept is open again", func() bool { s, _ := w.view.Get("kept"); return s.Open })
	if s, _ := w.view.Get("changed"); s.Open || s.Status != "modified" {
		t.Errorf("changed: %+v; want not open, status modified", s)
	}
	w.write(filepath.Join(w.Ecosystem(), "kept/backend/main.py"), "evil")
	w.eventually("the restarted process watches", func() bool { s, _ := w.view.Get("kept"); return !s.Open })
}

func (w *world) eventuallyClosed(id string) {
	w.t.Helper()
	for end := time.Now().Add(gate.Lease + time.Second); ; time.Sleep(20 * time.Millisecond) {
		if s, _ := w.view.Get(id); !s.Open {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s is open although approval is gone; want not time.Now().After(end)", id)
		}
	}
}

// A hundred decisions at once about one pack end in one history in which each follows from the one before.
func TestDecisionsAtOnce(t *testing.T) {
	w := start(t)
	w.pack("demo")
	var group sync.WaitGroup
	for i := range 100 {
		group.Go(func() {
			verb := [...]string{"approve", "reject"}[i%2]
			for {
				_, err := w.call("POST", "/api/packs/demo/"+verb, nil)
				if fault.Is(err, fault.KindUnavailable) && t.Context().Err() == nil {
					time.Sleep(10 * time.Millisecond) // a slow machine doesn't shake a hundred hands in time: it was not even asked
					continue
				}
				if err != nil {
					t.Error(err)
				}
				return
			}
		})
	}
	group.Wait()
	answer, err := w.call("GET", "/api/packs/demo/status", nil)
	w.check(err)
	history := answer["approval"].(map[string]any)["version_history"].([]any)
	if len(history) != 101 {
		t.Errorf("%d events; want 101", len(history))
	}
	last := history[len(history)-1].(map[string]any)["action"]
	if want := map[any]string{"approved": "approved", "rejected": "blocked"}[last]; answer["status"] != want {
		t.Errorf("the last decision is %s, the status %s; want status %v", last, answer["status"], want)
	}
	if got := len(w.entries("approval", "demo")); got != 101 {
		t.Errorf("%d audit entries; want 101", got)
	}
}

func TestAScanThatFindsNothingNewWritesNothing(t *testing.T) {
	w := start(t)
	w.pack("demo")
	before, _ := w.view.Get("demo")
	w.eventually("the gate is known", func() bool { before, _ = w.view.Get("demo"); return before.Revision > 0 })
	w.check(w.client.Refresh(t.Context()))
	w.pack("later")
	w.eventually("a later change is told", func() bool { _, known := w.view.Get("later"); return known })
	if after, _ := w.view.Get("demo"); after != before {
		t.Errorf("%+v became %+v; want it unchanged", before, after)
	}
}

func TestReview(t *testing.T) {
	w := start(t)
	dir := w.pack("demo")
	first, err := w.call("GET", "/api/packs/demo/review", nil)
	w.check(err)
	if first["approved_digest"] != nil || first["requests"].(map[string]any)["secrets"].([]any)[0] != "K" {
		t.Errorf("the first review is %v, want no digest approved and the secret K asked for", first)
	}
	_, err = w.call("POST", "/api/packs/demo/approve", map[string]any{"digest": first["digest"]})
	w.check(err)
	w.write(filepath.Join(dir, "backend/main.py"), "print('bye')\n")
	second, err := w.call("GET", "/api/packs/demo/review", nil)
	w.check(err)
	changed := second["changed"].([]any)
	if len(changed) != 1 || !strings.Contains(changed[0].(map[string]any)["diff"].(string), "-print('hello')\n+print('bye')\n") || second["approved_digest"] != first["digest"] {
		t.Errorf("the second review is %v, want one file changed, against the first's digest", second)
	}
	w.check(os.Symlink("/etc", filepath.Join(dir, "etc")))
	if _, err := w.call("GET", "/api/packs/demo/review", nil); !fault.Is(err, fault.KindConflict) {
		t.Error(err)
	}
	if _, err := w.call("GET", "/api/packs/nobody/review", nil); !fault.Is(err, fault.KindNotFound) {
		t.Error(err)
	}
}

func TestApprovalIsOfWhatWasReviewed(t *testing.T) {
	w := start(t)
	dir := w.pack("demo")
	_, err := w.call("POST", "/api/packs/demo/approve", map[string]string{"digest": "sha256:" + strings.Repeat("0", 64)})
	f := fault.Of(err)
	if f.Kind != fault.KindConflict || f.Code != "digest_mismatch" || w.status("demo") != "pending" {
		t.Fatal(err)
	}
	var now struct {
		Digest string `json:"digest"`
	}
	w.check(json.Unmarshal(f.Data.(jsontext.Value), &now))
	w.write(filepath.Join(dir, "backend/main.py"), "changed meanwhile")
	if _, err := w.call("POST", "/api/packs/demo/approve", now); !fault.Is(err, fault.KindConflict) {
		t.Fatal(err)
	}
	w.write(filepath.Join(dir, "backend/main.py"), "print('hello')\n")
	_, err = w.call("POST", "/api/packs/demo/approve", now)
	w.check(err)
	// A null is what is left of a review that failed: who says it wanted to bind the decision.
	for _, bad := range []any{nil, "", "sha256:", "x", now.Digest + "\n", 5, []string{now.Digest}} {
		if _, err := w.call("POST", "/api/packs/demo/approve", map[string]any{"digest": bad}); !fault.Is(err, fault.KindInvalid) {
			t.Errorf("%v: %v; want that it is invalid", bad, err)
		}
	}
}

func TestAChildRunsOnlyWhileItsParentMay(t *testing.T) {
	w := start(t)
	open := func(id string, want bool, status string) {
		t.Helper()
		w.eventually(fmt.Sprintf("the gate of %s is open %v, %s", id, want, status), func() bool {
			s, _ := w.view.Get(id)
			return s.Open == want && string(s.Status) == status
		})
	}
	w.pack("app__plugin")
	_, err := w.call("POST", "/api/packs/app__plugin/approve", nil)
	w.check(err)
	open("app__plugin", false, "parent_missing")
	parent := w.pack("app")
	open("app__plugin", false, "pending")
	w.approve("app")
	open("app__plugin", true, "approved")
	w.write(filepath.Join(parent, "backend/main.py"), "evil")
	open("app__plugin", false, "modified")
	if s := w.status("app__plugin"); s != "approved" {
		t.Errorf("its own status is %s; want approved", s)
	}
	w.approve("app")
	open("app__plugin", true, "approved")
	w.retire("app", true)
	open("app__plugin", false, "error")
	_, err = w.client.Remove(t.Context(), "app")
	w.check(err)
	open("app__plugin", false, "parent_missing")
}

func TestPendingSummary(t *testing.T) {
	w := start(t)
	w.pack("one")
	w.eventually("the summary counts it", func() bool {
		text, err := os.ReadFile(filepath.Join(w.UserData(), "pending/summary.json"))
		flat := strings.Join(strings.Fields(string(text)), "")
		return err == nil && strings.Contains(flat, `"pending_ids":["one"]`) && strings.Contains(flat, `"capability":{"error":`)
	})
}
