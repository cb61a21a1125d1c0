package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

func readiness(t *testing.T, suite *servicetest.Suite, server *servicetest.Server) (status int, answer service.Readiness) {
	t.Helper()
	response, err := http.Get("http://" + server.Admin + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	inside, err := client.Call[service.Readiness](t.Context(), suite.Peer("gateway", "secrets"), "GET", "/internal/ready", nil)
	if err != nil || inside.Ready != answer.Ready {
		t.Errorf("/internal/ready says %+v, %v, /readyz %+v", inside, err, answer)
	}
	return response.StatusCode, answer
}

func TestReadinessNamesEachCheck(t *testing.T) {
	suite := servicetest.New(t, "secrets")
	hung := make(chan struct{})
	defer close(hung)
	var calls, hanging sync.Map
	server := servicetest.Start(suite, "secrets", func(_ context.Context, rt *service.Runtime, _ config) error {
		rt.ReadyWhen("sockets", func(context.Context) error {
			if _, broken := calls.Load("broken"); broken {
				return service.WithFix(errors.New("/run/x can't be written"), "run: docker compose up --detach")
			}
			return nil
		})
		rt.ReadyWhen("mount", func(context.Context) error {
			if _, hangs := calls.Load("hangs"); hangs {
				if _, again := hanging.LoadOrStore("once", true); again {
					t.Error("a check that hangs was begun twice")
				}
				<-hung
			}
			return nil
		})
		route(rt.Mux())
		return nil
	}, nil)

	status, answer := readiness(t, suite, server)
	if status != 200 || !answer.Ready || answer.Service != "secrets" || answer.Version == "" || answer.Uptime <= 0 || len(answer.Checks) != 4 {
		t.Errorf("got %d %+v, want four checks that are ok, a version and an uptime", status, answer)
	}
	calls.Store("broken", true)
	status, answer = readiness(t, suite, server)
	want := service.Check{Name: "sockets", Detail: "/run/x can't be written", Fix: "run: docker compose up --detach"}
	if status != 503 || answer.Ready || !slices.Contains(answer.Checks, want) || !slices.Contains(answer.Checks, service.Check{Name: "mount", OK: true}) {
		t.Errorf("got %d %+v, want 503 and %+v", status, answer, want)
	}
	calls.Store("hangs", true)
	began := time.Now()
	status, answer = readiness(t, suite, server)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a check that hangs held the answer up for %v", took)
	}
	if status != 503 || !strings.Contains(answer.Checks[2].Detail, "no answer within") {
		t.Errorf("got %d %+v, want the check that hangs named", status, answer)
	}
}

// What is wrong with a folder is in the readiness, and what its disk has is in the metrics where that can be told.
func TestFolderConditions(t *testing.T) {
	top := t.TempDir()
	file := filepath.Join(top, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	suite := servicetest.New(t, "secrets")
	server := servicetest.Start(suite, "secrets", func(_ context.Context, rt *service.Runtime, _ config) error {
		rt.ReadyWhenWritable("good", "a", top)
		rt.ReadyWhenWritable("file", "b", file)
		rt.ReadyWhenWritable("none", "c", filepath.Join(top, "none"))
		rt.ReadyWhen("readable", service.ReadableFolder(top))
		route(rt.Mux())
		return nil
	}, nil)
	_, answer := readiness(t, suite, server)
	for name, want := range map[string]string{"good": "", "readable": "", "file": "is no folder", "none": "no such file"} {
		i := slices.IndexFunc(answer.Checks, func(c service.Check) bool { return c.Name == name })
		if c := answer.Checks[i]; c.OK != (want == "") || !strings.Contains(c.Detail, want) {
			t.Errorf("%s is %+v, want %q", name, c, want)
		}
	}
	text, err := testutil.CollectAndFormat(server.Metrics, expfmt.TypeTextPlain, "rumi_ready", "rumi_condition_ready", "rumi_disk_free_bytes", "rumi_disk_size_bytes")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"rumi_ready 0\n", `rumi_condition_ready{condition="good"} 1`, `rumi_condition_ready{condition="file"} 0`,
		`rumi_disk_free_bytes{folder="a"} `, `rumi_disk_size_bytes{folder="audit"} `} {
		if !strings.Contains(string(text), want) {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
	if strings.Contains(string(text), `{folder="b"}`) {
		t.Errorf("a folder that can't be read has a disk:\n%s", text)
	}
}

// Log lines are JSON in which no name is twice, whatever callers add.
func TestLogLinesHaveEachNameOnce(t *testing.T) {
	suite := servicetest.New(t, "secrets")
	var logs lockedBuffer
	api, admin := listen(t), listen(t)
	rt, err := service.Start(t.Context(), "secrets", func(_ context.Context, rt *service.Runtime, _ config) error {
		rt.Log.With("service", "other", "k", 1, "k", 2).Info("said", "k", 3, "msg", "x", "time", "y", "level", "z", "request_id", "r")
		rt.Log.Info("odd", slog.Group("h", "a", 1, "a", 2, slog.Group("i", "b", 1, "b", 2)), "nan", math.NaN(), "inf", math.Inf(1), "bytes", "\xff\xfe\x00")
		rt.Log.WithGroup("g").Info("grouped", "service", "inner", "service", "again")
		rt.Mux().Route("GET /fails", rpc.Handle(func(ctx context.Context, _ struct{}) (string, error) {
			rt.Log.InfoContext(ctx, "mine", "request_id", "my own", "trace_id", 5)
			return "", errors.New("unforeseen")
		}), "gateway")
		return nil
	}, service.Options{Environ: suite.Environ("secrets"), API: api, Admin: admin, Logs: &logs})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: suite.Identity("gateway").Client("secrets")}}
	for _, path := range []string{"/fails", "/nowhere/" + strings.Repeat("x", 1000)} {
		response, err := client.Get("https://" + api.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	if err := rt.Stop(); err != nil {
		t.Fatal(err)
	}
	text := logs.String()
	for line := range strings.Lines(text) {
		fields := map[string]any{}
		if err := jsonv2.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("%v: %s", err, line)
		}
		if fields["service"] != "secrets" || fields["version"] != service.Version() {
			t.Errorf("no service or version in %s", line)
		}
		if path, ok := fields["path"].(string); ok && (len(path) > 200 || !strings.HasPrefix(path, "/")) {
			t.Errorf("path %q, want what was asked for, bounded", path)
		}
		if _, ok := fields["took"]; ok {
			t.Errorf("a time without a unit in %s", line)
		}
	}
	for _, want := range []string{`"path":"/nowhere/x`, `"duration_seconds":`, `"request_id_2":"my own"`, `"failed unexpectedly"`, `"k":1,"k_2":2`, `"h":{"a":1,"a_2":2,"i":{"b":1,"b_2":2}}`, `"msg":"request"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
