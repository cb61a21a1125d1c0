package telemetry_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/discovery"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

// TestSpans: a call makes a client span under the caller's and a server span under that, named for the route.
func TestSpans(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracing := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	authority, err := identity.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name string) *identity.Identity {
		dir := t.TempDir()
		if err := authority.Issue(name, dir, time.Now()); err != nil {
			t.Fatal(err)
		}
		id, err := identity.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	log := slog.New(slog.DiscardHandler)
	mux := server.NewMux(server.Config{Log: log, Metrics: prometheus.NewRegistry(), Tracing: tracing})
	mux.Route("GET /things/{id}", rpc.Handle(func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil }), "gateway")
	mux.Route("GET /broken", rpc.Handle(func(context.Context, struct{}) (struct{}, error) {
		return struct{}{}, fault.Unavailable("Down")
	}), "gateway")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go server.Serve(tls.NewListener(l, issue("approval").Server()))
	defer server.Close()
	peer := client.NewPeer("approval", discovery.Static{"approval": {l.Addr().String()}}.Instancer("approval"),
		client.Config{Log: log, Tracing: tracing, Identity: issue("gateway")}, client.NewMetrics(prometheus.NewRegistry()))

	ctx, top := tracing.Tracer("test").Start(origin.With(t.Context(), origin.Origin{RequestID: "r1"}), "top")
	if _, err := client.Call[struct{}](ctx, peer, "GET", "/things/7", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Call[struct{}](ctx, peer, "GET", "/broken", nil); !fault.Is(err, fault.KindUnavailable) {
		t.Fatal(err)
	}
	top.End()
	if err := server.Shutdown(t.Context()); err != nil { // ends the server's spans
		t.Fatal(err)
	}
	named := map[string][]sdktrace.ReadOnlySpan{}
	for _, s := range spans.Ended() {
		named[s.Name()] = append(named[s.Name()], s)
		if s.SpanContext().TraceID() != top.SpanContext().TraceID() {
			t.Errorf("%s is in a trace of its own", s.Name())
		}
	}
	clients, served, broken := named["approval GET"], named["GET /things/{id}"], named["GET /broken"]
	if len(clients) != 2 || len(served) != 1 || len(broken) != 1 {
		t.Fatalf("the spans are %v, want two of the client, one served and one broken", named)
	}
	if clients[0].Parent().SpanID() != top.SpanContext().SpanID() || clients[0].SpanKind() != trace.SpanKindClient {
		t.Errorf("the client's span is %v, want a client's, below the test's", clients[0])
	}
	if served[0].Parent().SpanID() != clients[0].SpanContext().SpanID() || served[0].SpanKind() != trace.SpanKindServer {
		t.Errorf("the server's span is %v, want a server's, below the client's", served[0])
	}
	if clients[0].Status().Code == codes.Error || clients[1].Status().Code != codes.Error || broken[0].Status().Code != codes.Error {
		t.Error("only the failure is an error")
	}
	host, port, _ := net.SplitHostPort(l.Addr().String())
	for _, c := range []struct {
		span sdktrace.ReadOnlySpan
		want map[string]string
	}{
		{clients[1], map[string]string{"http.request.method": "GET", "server.address": host, "server.port": port,
			"http.response.status_code": "503", "error.type": "503"}},
		{broken[0], map[string]string{"http.request.method": "GET", "http.route": "/broken", "url.path": "/broken", "url.scheme": "https",
			"http.response.status_code": "503", "error.type": "503", "network.protocol.version": "1.1", "rumi.request_id": "r1"}},
		{served[0], map[string]string{"http.request.method": "GET", "http.route": "/things/{id}", "url.path": "/things/7", "url.scheme": "https",
			"http.response.status_code": "200", "network.protocol.version": "1.1", "rumi.request_id": "r1"}},
	} {
		got := map[string]string{}
		for _, a := range c.span.Attributes() {
			got[string(a.Key)] = a.Value.String()
		}
		if !maps.Equal(got, c.want) {
			t.Errorf("%s: the attributes are %v, want %v", c.span.Name(), got, c.want)
		}
	}
}
