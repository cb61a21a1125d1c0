package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/rumi-ai/rumi/libs/discovery"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/rpc"
)

type world struct {
	t         *testing.T
	authority *identity.Authority
	logs      *bytes.Buffer
}

func newWorld(t *testing.T) *world {
	a, err := identity.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &world{t, a, &bytes.Buffer{}}
}

func (w *world) config(name string) rpc.Config {
	w.t.Helper()
	dir := w.t.TempDir()
	if err := w.authority.Issue(name, dir, time.Now()); err != nil {
		w.t.Fatal(err)
	}
	id, err := identity.Load(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	return rpc.Config{Log: slog.New(slog.NewTextHandler(w.logs, nil)), Metrics: prometheus.NewRegistry(), Tracing: noop.NewTracerProvider(), Identity: id}
}

// serve runs a mux as the service "approval" and gives its address.
func (w *world) serve(routes func(*rpc.Mux)) string {
	cfg := w.config("approval")
	mux := rpc.NewMux(cfg)
	routes(mux)
	server := httptest.NewUnstartedServer(mux)
	server.Listener = rpc.Listener(server.Listener, cfg.Identity)
	server.Start()
	w.t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func (w *world) peer(as string, addresses ...string) *rpc.Peer {
	cfg := w.config(as)
	return rpc.NewPeer("approval", discovery.Static{"approval": addresses}.Instancer("approval"), cfg, rpc.NewPeerMetrics(cfg.Metrics))
}

type grant struct {
	PackID string `json:"-" path:"pack_id"`
	Status string `json:"-" query:"status"`
	Tail   int    `json:"-" query:"tail"`
	Name   string `json:"name"`
	Ports  []int  `json:"ports"`
	On     *bool  `json:"on"`
	Nested struct {
		Level int `json:"level"`
	} `json:"nested"`
}

func TestRequestsAreDecodedStrictly(t *testing.T) {
	w := newWorld(t)
	address := w.serve(func(m *rpc.Mux) {
		m.Route("POST /packs/{pack_id}", rpc.Handle(func(_ context.Context, g grant) (map[string]any, error) {
			return map[string]any{"id": g.PackID, "status": g.Status, "tail": g.Tail, "name": g.Name, "ports": g.Ports}, nil
		}), "gateway")
	})
	client := &http.Client{Transport: w.peer("gateway", address)}
	long := strings.Repeat("x", rpc.MaxBody)
	for _, c := range []struct {
		name, path, body string
		status           int
		want             string // in the answer
	}{
		{"a whole request", "/packs/a%3Ab%2Fc?status=x&tail=3", `{"name":"n","ports":[1,2]}`, 200, `{"success":true,"data":{"id":"a:b/c","name":"n","ports":[1,2],"status":"x","tail":3},"error":null}`},
		{"no body", "/packs/a", ``, 200, `"id":"a"`},
		{"white space", "/packs/a", " \r\n\t", 200, `"id":"a"`},
		{"empty lists are lists", "/packs/a", `{}`, 200, `"ports":[]`},
		{"unknown field", "/packs/a", `{"nmae":1}`, 400, `"error":"Unknown field 'nmae' (known: name, ports, on, nested)","error_code":"unknown_field"`},
		{"long unknown field", "/packs/a", `{"` + strings.Repeat("é", 80) + `":1}`, 400, "'" + strings.Repeat("é", 50) + "…'"},
		{"the same, off by one", "/packs/a", `{"x` + strings.Repeat("é", 80) + `":1}`, 400, "'x" + strings.Repeat("é", 49) + "…'"},
		{"other case", "/packs/a", `{"Name":"x"}`, 400, `Unknown field 'Name'`},
		{"path field in the body", "/packs/a", `{"pack_id":"b"}`, 400, `Unknown field 'pack_id'`},
		{"string for a number", "/packs/a", `{"ports":["443"]}`, 400, `Invalid value for field 'ports[0]': want a whole number in range`},
		{"number for a string", "/packs/a", `{"name":7}`, 400, `Invalid value for field 'name': want a string`},
		{"fraction for a whole number", "/packs/a", `{"nested":{"level":1.5}}`, 400, `Invalid value for field 'nested.level'`},
		{"number out of range", "/packs/a", `{"ports":[99999999999999999999]}`, 400, `'ports[0]'`},
		{"object for a list", "/packs/a", `{"ports":{}}`, 400, `Invalid value for field 'ports': want an array such as [1, 2]`},
		{"unknown field of an object", "/packs/a", `{"nested":{"levle":1}}`, 400, `"error":"Unknown field 'nested.levle' (known: level)"`},
		{"duplicate key", "/packs/a", `{"name":"a","name":"b"}`, 400, `Invalid JSON in request body: line 1, column 13: a name stands twice in one object`},
		{"single quotes", "/packs/a", `{'name':"a"}`, 400, `"error":"Invalid JSON in request body: line 1, column 2: a name must be in double quotes","error_code":"invalid_json"`},
		{"trailing comma", "/packs/a", "\n{\"name\":\"a\",}", 400, `Invalid JSON in request body: line 2, column 12: a comma before }`},
		{"no JSON at all", "/packs/a", `name=a`, 400, `Invalid JSON in request body: line 1, column`},
		{"invalid UTF-8", "/packs/a", "{\"name\":\"\xff\"}", 400, `Invalid JSON in request body`},
		{"an array", "/packs/a", `[]`, 400, `Invalid JSON in request body: want an object, such as`},
		{"null", "/packs/a", `null`, 400, `Invalid JSON in request body`},
		{"half of it", "/packs/a", `{"name":`, 400, `Invalid JSON in request body`},
		{"something after it", "/packs/a", `{} {}`, 400, `Invalid JSON in request body`},
		{"NaN", "/packs/a", `{"nested":{"level":NaN}}`, 400, `Invalid JSON in request body`},
		{"bad query", "/packs/a?tail=x", ``, 400, `"error":"Invalid value for field 'tail': want a whole number","error_code":"invalid_field"`},
		{"misspelt query", "/packs/a?sttus=x&tail=1", ``, 400, `"error":"Unknown parameter 'sttus' (known: status, tail)","error_code":"unknown_parameter"`},
		{"a path value as query", "/packs/a?pack_id=b", ``, 400, `Unknown parameter 'pack_id'`},
		{"query twice", "/packs/a?tail=1&tail=2", ``, 400, `Field 'tail' stands twice in the query`},
		{"bad escape", "/packs/a?status=%zz", ``, 400, `"error":"Invalid query: a percent sign is no escape; write it as %25","error_code":"invalid_query"`},
		{"semicolon", "/packs/a?status=pending;x=1", ``, 400, `Invalid query: a semicolon`},
		{"semicolon behind another", "/packs/a?tail=1;status=x", ``, 400, `Invalid query: a semicolon`},
		{"over the limit", "/packs/a", `{"name":"` + long + `"}`, 413, `Request body too large`},
		{"unknown path", "/pack", ``, 404, `"data":null,"error":"Not found","error_code":"not_found"`},
		{"path that needs cleaning", "/packs//a", ``, 404, `Not found`},
		{"one that does once it is unescaped", "/packs/%2e%2e", ``, 404, `Not found`},
	} {
		t.Run(c.name, func(t *testing.T) {
			response, err := client.Post("https://approval"+c.path, "application/json", strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			if response.StatusCode != c.status || !strings.Contains(string(body), c.want) {
				t.Fatalf("%d %s, want %d with %s", response.StatusCode, body, c.status, c.want)
			}
			if got := response.Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
				t.Errorf("Content-Type %q", got)
			}
			if response.Header.Get("X-Request-Id") == "" {
				t.Error("no X-Request-Id")
			}
		})
	}
	t.Run("another method", func(t *testing.T) {
		response, err := client.Get("https://approval/packs/a")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != 405 {
			t.Fatal(response.StatusCode)
		}
	})
}

func TestFaultsSurviveAHop(t *testing.T) {
	w := newWorld(t)
	secret := errors.New("dial tcp 10.0.0.7:5432: password hunter2")
	faults := map[string]error{
		"conflict": fault.Conflict("SHA-256 mismatch").With("sha256_mismatch").Carrying(map[string]any{"digest": "x"}),
		"limited":  fault.Limited("Slow down").After(2500 * time.Millisecond),
		"down":     fault.Unavailable("Docker is required but not available"),
		"surprise": secret,
		"panic":    nil,
	}
	address := w.serve(func(m *rpc.Mux) {
		m.Route("GET /fail/{how}", rpc.Handle(func(_ context.Context, req struct {
			How string `json:"-" path:"how"`
		}) (struct{}, error) {
			if req.How == "panic" {
				panic("hunter2")
			}
			return struct{}{}, faults[req.How]
		}), "gateway")
	})
	peer := w.peer("gateway", address)
	call := func(how string) *fault.Fault {
		_, err := rpc.Call[struct{}](t.Context(), peer, "GET", "/fail/"+how, nil)
		if err == nil {
			t.Fatalf("%s: no error", how)
		}
		return fault.Of(err)
	}
	if f := call("conflict"); f.Kind != fault.KindConflict || f.Message != "SHA-256 mismatch" || f.Code != "sha256_mismatch" || f.Data == nil {
		t.Errorf("conflict: %#v", f)
	}
	if f := call("limited"); f.Kind != fault.KindLimited || f.RetryAfter != 3*time.Second {
		t.Errorf("limited: %#v", f)
	}
	if f := call("down"); f.Kind != fault.KindUnavailable || f.RetryAfter != time.Second {
		t.Errorf("down: %#v", f)
	}
	for _, how := range []string{"surprise", "panic"} {
		if f := call(how); f.Kind != fault.KindInternal || strings.Contains(f.Message, "hunter2") {
			t.Errorf("%s: %#v", how, f)
		}
	}
	if !strings.Contains(w.logs.String(), "hunter2") {
		t.Error("the log doesn't have the surprise")
	}
}

func TestRoutesAdmitOnlyNamedCallers(t *testing.T) {
	w := newWorld(t)
	var saw atomic.Value
	address := w.serve(func(m *rpc.Mux) {
		m.Route("GET /who", rpc.Handle(func(ctx context.Context, _ struct{}) (struct{}, error) {
			saw.Store(origin.Of(ctx))
			return struct{}{}, nil
		}), "gateway", "secrets")
		m.Route("GET /nobody", rpc.Handle(func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil }))
	})
	ctx := origin.With(t.Context(), origin.Origin{RequestID: "r-1", Actor: "operator", Address: "127.0.0.9"})
	if _, err := rpc.Call[struct{}](ctx, w.peer("secrets", address), "GET", "/who", nil); err != nil {
		t.Fatal(err)
	}
	if got, want := saw.Load(), (origin.Origin{RequestID: "r-1", Actor: "operator", Caller: "secrets", Address: "127.0.0.9"}); got != want {
		t.Errorf("origin %+v, want %+v", got, want)
	}
	for as, path := range map[string]string{"egress-proxy": "/who", "gateway": "/nobody"} {
		if _, err := rpc.Call[struct{}](ctx, w.peer(as, address), "GET", path, nil); !fault.Is(err, fault.KindDenied) {
			t.Errorf("%s at %s: %v", as, path, err)
		}
	}
}

func TestAPeerThatIsDownIsUnavailableAtOnce(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	served := 0
	up := w.serve(func(m *rpc.Mux) {
		m.Route("GET /x", rpc.Handle(func(context.Context, struct{}) (struct{}, error) { served++; return struct{}{}, nil }), "gateway")
		m.Route("POST /x", rpc.Handle(func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil }), "gateway")
	})
	t.Run("every instance", func(t *testing.T) {
		peer := w.peer("gateway", closed)
		for range 20 { // through the breaker, too
			if _, err := rpc.Call[struct{}](t.Context(), peer, "GET", "/x", nil); !fault.Is(err, fault.KindUnavailable) {
				t.Fatal(err)
			}
		}
	})
	t.Run("one of two: what may be repeated is", func(t *testing.T) {
		peer := w.peer("gateway", closed, up)
		for range 20 {
			if _, err := rpc.Call[struct{}](t.Context(), peer, "GET", "/x", nil); err != nil {
				t.Fatal(err)
			}
		}
		failed, balanced := 0, w.peer("gateway", closed, up)
		for range 2 {
			if _, err := rpc.Call[struct{}](t.Context(), balanced, "POST", "/x", struct{}{}); err != nil {
				failed++
			}
		}
		if failed == 0 {
			t.Error("a POST was tried twice")
		}
	})
	t.Run("one that never answers", func(t *testing.T) {
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		began := time.Now()
		_, err = rpc.Call[struct{}](t.Context(), w.peer("gateway", silent.Addr().String()), "POST", "/x", nil)
		if !fault.Is(err, fault.KindUnavailable) || time.Since(began) > 6*time.Second {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
	})
}

func TestAStreamThatFailsIsCutNotEnded(t *testing.T) {
	w := newWorld(t)
	address := w.serve(func(m *rpc.Mux) {
		m.Route("GET /stream/{when}", rpc.Raw(func(rw http.ResponseWriter, r *http.Request) error {
			if r.PathValue("when") == "late" {
				rw.Write([]byte("half of"))
			}
			return fault.NotFound("No such tree")
		}), "gateway")
	})
	peer := w.peer("gateway", address)
	if _, err := peer.Stream(t.Context(), "GET", "/stream/early", nil); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("early: %v", err)
	}
	response, err := peer.Stream(t.Context(), "GET", "/stream/late", nil)
	if err == nil {
		defer response.Body.Close()
		_, err = io.ReadAll(response.Body)
	}
	if err == nil {
		t.Error("late: the reader took a part for the whole")
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{}`, `{"name":"x","ports":[1]}`, `{"nested":{"level":1e3}}`, `[`, "\xff", `{"a":{"b":{}}}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		got, err := rpc.Decode[grant](r)
		if err != nil {
			if kind := fault.Of(err).Kind; kind != fault.KindInvalid {
				t.Fatalf("%v is no invalid request", err)
			}
			return
		}
		if _, err := json.Marshal(got); err != nil {
			t.Fatal(err)
		}
	})
}
