package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/audit/audittest"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

const apiToken = "right-token-0123456789"

// seen is what the owners of these tests answer: what reached them.
type seen struct {
	Method  string            `json:"method"`
	URI     string            `json:"uri"`
	Values  map[string]string `json:"values"`
	Header  http.Header       `json:"header"`
	Body    string            `json:"body"`
	Length  int64             `json:"length"`
	Host    string            `json:"host"`
	Request string            `json:"request"`
	Actor   string            `json:"actor"`
	Address string            `json:"address"`
}

func echo(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	from := origin.Of(r.Context())
	values := map[string]string{}
	for _, name := range []string{"pack_id", "candidate_key"} {
		if v := r.PathValue(name); v != "" {
			values[name] = v
		}
	}
	if len(body) > 1000 {
		body = body[:1000]
	}
	return rpc.WriteData(w, seen{
		Method: r.Method, URI: r.RequestURI, Values: values, Header: r.Header, Body: string(body), Length: r.ContentLength, Host: r.Host,
		Request: from.RequestID, Actor: from.Actor, Address: from.Address,
	})
}

// sick has approval fail one of its checks.
var sick atomic.Bool

// owners are the small real services behind the gateway.
var owners = map[string]service.Build[struct{}]{
	"approval": func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		mux := rt.Mux()
		rt.ReadyWhen("sockets", func(context.Context) error {
			if sick.Load() {
				return service.WithFix(errors.New("/run/rumi can't be written"), "run: docker compose up --detach")
			}
			return nil
		})
		mux.Route("GET /api/packs", rpc.Raw(echo), "gateway")
		mux.Route("GET /api/packs/{pack_id}/status", rpc.Raw(echo), "gateway")
		mux.Route("POST /api/packs/{pack_id}/approve", rpc.Handle(func(context.Context, packRequest) (struct{}, error) {
			return struct{}{}, errors.New("disk on fire at /secret/path")
		}), "gateway")
		mux.Route("POST /api/packs/{pack_id}/reject", rpc.Handle(func(_ context.Context, r packRequest) (packRequest, error) {
			return r, nil
		}), "gateway")
		mux.Route("GET /api/packs/pending", rpc.Raw(func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusTeapot)
			return nil
		}), "gateway")
		return nil
	},
	"pack-registry": func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		rt.Mux().Route("POST /api/packs/import", rpc.Raw(func(w http.ResponseWriter, r *http.Request) error {
			n, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				return fault.Invalid("upload broke off").Because(err)
			}
			return rpc.WriteData(w, n)
		}), "gateway")
		rt.Mux().Route("DELETE /api/packs/{pack_id}", rpc.Raw(echo), "gateway")
		return nil
	},
	"capability-broker": func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		mux := rt.Mux()
		mux.Route("POST /api/capability/requests/{candidate_key}/approve", rpc.Raw(echo), "gateway")
		mux.Route("GET /api/containers/{pack_id}/logs", rpc.Raw(follow), "gateway")
		mux.Route("GET /api/docker/status", rpc.Raw(func(w http.ResponseWriter, r *http.Request) error {
			time.Sleep(300 * time.Millisecond)
			return echo(w, r)
		}), "gateway")
		mux.Route("GET /api/containers", rpc.Handle(func(context.Context, struct{}) (struct{}, error) {
			return struct{}{}, fault.Unavailable("Docker is required but not available").With("docker_unavailable").After(7 * time.Second)
		}), "gateway")
		return nil
	},
}

type packRequest struct {
	PackID string `path:"pack_id" json:"-"`
	Reason string `json:"reason"`
	Port   int    `json:"port,omitzero"`
}

// follow sends an event at once and another when the test lets it.
func follow(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "text/event-stream")
	for i := 1; i <= 2; i++ {
		fmt.Fprintf(w, "data: %d\n\n", i)
		if err := http.NewResponseController(w).Flush(); err != nil {
			return err
		}
		select {
		case <-more:
		case <-r.Context().Done():
			return r.Context().Err()
		}
	}
	return nil
}

var more = make(chan struct{})

// world is a gateway with owners behind it.
type world struct {
	*servicetest.Suite
	t       testing.TB
	address string
	servers map[string]*servicetest.Server
}

func newWorld(t testing.TB, env map[string]string) *world {
	t.Helper()
	suite := servicetest.New(t, "gateway", "approval", "pack-registry", "capability-broker")
	w := &world{Suite: suite, t: t, servers: map[string]*servicetest.Server{}}
	w.setToken(apiToken)
	for name, build := range owners {
		w.servers[name] = servicetest.Start(suite, name, build, map[string]string{"RUMI_LOG_LEVEL": "error"})
	}
	all := map[string]string{"RUMI_API_RATE_LIMIT": "0", "RUMI_LOG_LEVEL": "error"}
	maps.Copy(all, env)
	w.servers["gateway"] = servicetest.Start(suite, "gateway", build, all)
	w.address = w.servers["gateway"].Address
	return w
}

func (w *world) setToken(token string) { w.SetToken(token) }

// audit joins the entries of a category.
func (w *world) audit(category string) string {
	w.t.Helper()
	return audittest.Text(w.t, filepath.Join(w.UserData(), "audit"), category)
}

// reply is an answer, checked to be an envelope with a request id.
type reply struct {
	status int
	header http.Header
	raw    string

	Success bool           `json:"success"`
	Data    jsontext.Value `json:"data"`
	Error   *string        `json:"error"`
	Code    string         `json:"error_code"`
}

func (r *reply) message() string {
	if r.Error == nil {
		return ""
	}
	return *r.Error
}

func (r *reply) seen(t testing.TB) seen {
	t.Helper()
	var s seen
	if err := json.Unmarshal(r.Data, &s); err != nil {
		t.Fatalf("%s: %v", r.raw, err)
	}
	return s
}

func readReply(t testing.TB, response *http.Response) *reply {
	t.Helper()
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := &reply{status: response.StatusCode, header: response.Header, raw: string(data)}
	if kind := response.Header.Get("Content-Type"); kind != "application/json; charset=utf-8" {
		t.Errorf("the Content-Type is %q of %d %s, want JSON", kind, response.StatusCode, data)
	}
	if ids := response.Header.Values("X-Request-Id"); len(ids) != 1 || !origin.ValidRequestID(ids[0]) {
		t.Errorf("the request IDs are %q, want one that is valid", ids)
	}
	if err := json.Unmarshal(data, got, json.RejectUnknownMembers(true)); err != nil {
		t.Fatalf("no envelope: %q: %v", data, err)
	}
	if got.Success != (response.StatusCode < 300) || got.Success != (got.Error == nil) || len(got.Data) == 0 {
		t.Errorf("the envelope of %d is %s, want success or an error, and data", response.StatusCode, data)
	}
	return got
}

// do sends a request with the token, unless header says otherwise ("-" takes a header out).
func (w *world) do(t testing.TB, method, target string, body io.Reader, header map[string]string) *reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.address+target, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+apiToken)
	for name, value := range header {
		switch {
		case value == "-":
			r.Header.Del(name)
		case name == "Host":
			r.Host = value
		default:
			r.Header.Set(name, value)
		}
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return readReply(t, response)
}

// raw sends bytes over a connection of its own and reads one answer.
func (w *world) raw(t testing.TB, method string, parts ...[]byte) *reply {
	t.Helper()
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		for _, p := range parts {
			if _, err := conn.Write(p); err != nil {
				return // the gateway has answered and closed
			}
		}
	}()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	return readReply(t, response)
}

func head(line string, fields ...string) []byte {
	return []byte(line + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + apiToken + "\r\n" + strings.Join(fields, "\r\n") +
		strings.Repeat("\r\n", min(len(fields), 1)) + "\r\n")
}

func wantFailure(t testing.TB, got *reply, status int, message string) {
	t.Helper()
	if got.status != status || got.message() != message || got.Code == "" {
		t.Errorf("answered %d %s, want %d %q", got.status, got.raw, status, message)
	}
}

// status sends a request with the token whose answer has no body.
func (w *world) status(t testing.TB, method, target string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+w.address+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+apiToken)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	response.Body.Close()
	if response.Header.Get("X-Request-Id") == "" {
		t.Errorf("%s %s: no X-Request-Id, want one", method, target)
	}
	return response.StatusCode
}
