package service_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
	"github.com/rumi-ai/rumi/libs/testenv"
)

type config struct {
	Rate int `env:"RUMI_API_RATE_LIMIT" envDefault:"120"`
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func route(m *server.Mux) {
	m.Route("GET /x", rpc.Handle(func(context.Context, struct{}) (string, error) { return "x", nil }), "gateway")
}

// asRoot makes TestMain run a service that was started as root instead of the tests.
const asRoot = "SERVICE_TEST_AS_ROOT"

func TestMain(m *testing.M) {
	if os.Getenv(asRoot) != "" {
		os.Unsetenv(asRoot)
		os.Args = os.Args[:1]
		service.Main("secrets", func(_ context.Context, rt *service.Runtime, _ config) error {
			route(rt.Mux())
			groups, err := os.Getgroups()
			rt.Log.Info("runs as", "uid", os.Getuid(), "gid", os.Getgid(), "groups", groups)
			return errors.Join(err, errors.New("seen enough"))
		})
	}
	os.Exit(m.Run())
}

func TestServiceLife(t *testing.T) {
	suite := servicetest.New(t, "secrets")
	var order []string
	server := servicetest.Start(suite, "secrets", func(_ context.Context, rt *service.Runtime, cfg config) error {
		if cfg.Rate != 7 {
			t.Errorf("the rate is %d, want 7", cfg.Rate)
		}
		rt.OnStop("store", func(context.Context) error { order = append(order, "store"); return nil })
		rt.Go("watch", func(ctx context.Context) error { <-ctx.Done(); order = append(order, "watch"); return ctx.Err() })
		ready := time.Now()
		rt.ReadyWhen("warm", func(context.Context) error {
			if time.Since(ready) < 0 {
				return errors.New("cold")
			}
			return nil
		})
		route(rt.Mux())
		return nil
	}, map[string]string{"RUMI_API_RATE_LIMIT": "7", "RUMI_LOG_LEVEL": ""})

	if got, err := client.Call[string](t.Context(), suite.Peer("gateway", "secrets"), "GET", "/x", nil); err != nil || got != "x" {
		t.Fatalf("got %q, %v; want x", got, err)
	}
	if _, err := client.Call[string](t.Context(), suite.Peer("approval", "secrets"), "GET", "/x", nil); !fault.Is(err, fault.KindDenied) {
		t.Error(err)
	}
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": `"ready":true`, "/metrics": `http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="200",http_route="/x"} 1`} {
		response, err := http.Get("http://" + server.Admin + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s: got %d %.1000s, want 200 with %q", path, response.StatusCode, body, want)
		}
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"watch", "store"}; !slices.Equal(order, want) {
		t.Errorf("stopped %v, want %v", order, want)
	}
	if _, err := client.Call[string](t.Context(), suite.Peer("gateway", "secrets"), "GET", "/x", nil); !fault.Is(err, fault.KindUnavailable) {
		t.Error(err)
	}
	for category, want := range map[string][]string{"system": {"service_started", "service_stopped"}, "security": {"service_call_denied"}} {
		text := audittest.Text(t, filepath.Join(suite.UserData(), "audit"), category)
		for _, action := range want {
			if !strings.Contains(text, action) {
				t.Errorf("%s has no %s", category, action)
			}
		}
	}
}

func TestBadConfigurationIsFatalAndNamed(t *testing.T) {
	build := func(context.Context, *service.Runtime, config) error { return nil }
	for name, c := range map[string]struct{ entry, want string }{
		"a name that nobody knows": {"RUMI_API_RATE_LIMT=1", "RUMI_API_RATE_LIMT: secrets knows no such setting (RUMI_API_RATE_LIMIT?)"},
		"another service's":        {"RUMI_EGRESS_RATE_LIMIT=1", "RUMI_EGRESS_RATE_LIMIT"},
		"a word for a number":      {"RUMI_API_RATE_LIMIT=many", `RUMI_API_RATE_LIMIT="many": want a whole number`},
		"a level that is none":     {"RUMI_LOG_LEVEL=loud", `RUMI_LOG_LEVEL="loud": want debug, info, warn or error`},
		"peers that are none":      {"RUMI_PEERS=approval", "RUMI_PEERS"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := service.Start(t.Context(), "secrets", build, service.Options{Environ: []string{c.entry}})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v doesn't name %s", err, c.want)
			}
		})
	}
}

func TestAnErrorOfWorkInTheBackgroundStopsTheService(t *testing.T) {
	suite := servicetest.New(t, "secrets")
	stopped := make(chan struct{})
	server := servicetest.Start(suite, "secrets", func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		rt.Go("work", func(context.Context) error { return errors.New("disk full") })
		rt.OnStop("told", func(context.Context) error { close(stopped); return nil })
		route(rt.Mux())
		return nil
	}, nil)
	if err := server.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "run work: disk full") {
		t.Fatal(err)
	}
	<-stopped
}

// A process that starts as root must be another user before it does anything, member of the socket's group.
func TestRootIsDropped(t *testing.T) {
	testenv.NeedsRoot(t, "only it can become another user")
	home := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	suite := servicetest.New(t, "secrets")
	suite.Identity("secrets")
	must(filepath.Walk(suite.Home, func(path string, _ os.FileInfo, err error) error {
		return errors.Join(err, os.Chown(path, 1099, 1099))
	}))
	for dir := filepath.Dir(suite.Home); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		must(os.Chmod(dir, 0o755))
	}
	socket := filepath.Join(home, "docker.sock")
	must(os.WriteFile(socket, nil, 0o660))
	must(os.Chown(socket, 0, 4242))
	binary := filepath.Join(home, "service.test")
	text, err := os.ReadFile(os.Args[0])
	must(err)
	must(os.WriteFile(binary, text, 0o755))
	must(os.Chmod(home, 0o755))
	cmd := exec.Command(binary)
	cmd.Env = []string{asRoot + "=1", "RUMI_DOCKER_SOCKET=" + socket, "RUMI_USER_DATA=" + suite.UserData(), "RUMI_LISTEN=127.0.0.1:0", "RUMI_ADMIN_LISTEN=127.0.0.1:0"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: []uint32{0, 77}}}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "seen enough") {
		t.Fatalf("ended with %v: %s; want a failure that says that it has seen enough", err, out)
	}
	if want := `"uid":1099,"gid":1099,"groups":[77,4242]`; !strings.Contains(string(out), want) {
		t.Errorf("no %s in %s", want, out)
	}
}
