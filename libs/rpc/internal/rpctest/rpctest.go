// Package rpctest has a suite in small for the tests of libs/rpc: an authority, services with its certificates, peers that call them.
package rpctest

import (
	"bytes"
	"context"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/rumi-ai/rumi/libs/discovery"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

// Patience is how long what must happen may take on a machine that does a lot else.
const Patience = 30 * time.Second

// World is an authority and what its services log.
type World struct {
	t         testing.TB
	authority *identity.Authority
	Logs      *bytes.Buffer
}

// New makes a World without services.
func New(t testing.TB) *World {
	a, err := identity.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &World{t, a, &bytes.Buffer{}}
}

// Identity issues a certificate to the service name.
func (w *World) Identity(name string) *identity.Identity {
	w.t.Helper()
	return w.IdentityOf(name, time.Now())
}

// IdentityOf is Identity with a certificate that was issued at a time.
func (w *World) IdentityOf(name string, issued time.Time) *identity.Identity {
	w.t.Helper()
	return w.issue(w.authority, name, issued)
}

// Short is Identity with a certificate that lives for seconds.
func (w *World) Short(name string) *identity.Identity {
	w.t.Helper()
	short := *w.authority
	short.Life = identity.MinLife
	return w.issue(&short, name, time.Now())
}

// Elsewhere issues a certificate of the same authority for another home.
func (w *World) Elsewhere(name string) *identity.Identity {
	w.t.Helper()
	other := *w.authority
	other.Home = identity.NewHome()
	return w.issue(&other, name, time.Now())
}

func (w *World) issue(a *identity.Authority, name string, issued time.Time) *identity.Identity {
	w.t.Helper()
	dir := w.t.TempDir()
	if err := a.Issue(name, dir, issued); err != nil {
		w.t.Fatal(err)
	}
	id, err := identity.Load(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *World) log() *slog.Logger { return slog.New(slog.NewTextHandler(w.Logs, nil)) }

// Mux is one with these routes, each for the gateway.
func (w *World) Mux(routes map[string]http.Handler) *server.Mux {
	m := server.NewMux(server.Config{Log: w.log(), Metrics: prometheus.NewRegistry(), Tracing: noop.NewTracerProvider()})
	for pattern, h := range routes {
		m.Route(pattern, h, "gateway")
	}
	return m
}

// Serve runs a Mux as the service "approval" and returns its address.
func (w *World) Serve(routes func(*server.Mux)) string {
	mux := w.Mux(nil)
	routes(mux)
	s := httptest.NewUnstartedServer(mux)
	s.Listener = server.Listener(s.Listener, w.Identity("approval"), nil)
	s.Start()
	w.t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// Peer is the service "approval" at addresses, for the service as.
func (w *World) Peer(as string, addresses ...string) *client.Peer {
	return client.NewPeer("approval", discovery.Static{"approval": addresses}.Instancer("approval"),
		client.Config{Log: w.log(), Tracing: noop.NewTracerProvider(), Identity: w.Identity(as)}, client.NewMetrics(prometheus.NewRegistry()))
}

// CountedServer is a server that counts its connections.
type CountedServer struct {
	*httptest.Server
	Connections atomic.Int32
}

// ServeCounted serves h as the service "approval" at an address, any where it is "".
func (w *World) ServeCounted(h http.Handler, address string) *CountedServer {
	w.t.Helper()
	s := &CountedServer{Server: httptest.NewUnstartedServer(h)}
	if address != "" {
		l, err := net.Listen("tcp", address)
		if err != nil {
			w.t.Fatal(err)
		}
		s.Listener.Close()
		s.Listener = l
	}
	s.TLS = w.Identity("approval").Server()
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that end in their handshake are part of it
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.Connections.Add(1)
		}
	}
	s.StartTLS()
	w.t.Cleanup(s.Close)
	return s
}

// Address is where s listens.
func (s *CountedServer) Address() string { return s.Listener.Addr().String() }

// Number is the request and the answer of Double.
type Number struct {
	N int `json:"n"`
}

// Double is a route that answers with twice the number that it is asked.
var Double = rpc.Handle(func(_ context.Context, n Number) (Number, error) { return Number{2 * n.N}, nil })
