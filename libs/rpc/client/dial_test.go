package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/rpc/internal/rpctest"
)

// replicas are servers at several addresses of this machine, on one port.
func replicas(t *testing.T, w *rpctest.World, addresses ...string) (port string, asked []*atomic.Int32, servers []*httptest.Server) {
	t.Helper()
	port = "0"
	for _, address := range addresses {
		l, err := net.Listen("tcp", net.JoinHostPort(address, port))
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ = net.SplitHostPort(l.Addr().String())
		n := &atomic.Int32{}
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			n.Add(1)
			fmt.Fprint(rw, `{"success":true,"data":{"n":7},"error":null}`)
		}))
		server.Listener.Close()
		server.Listener, server.TLS = l, w.Identity("approval").Server()
		server.StartTLS()
		t.Cleanup(server.Close)
		asked, servers = append(asked, n), append(servers, server)
	}
	return port, asked, servers
}

func resolving(t *testing.T, to func() []string) {
	t.Helper()
	t.Cleanup(client.SetLookup(func(_ context.Context, _, host string) ([]netip.Addr, error) {
		if host != "approval" {
			return nil, errors.New("no such host")
		}
		var found []netip.Addr
		for _, a := range to() {
			found = append(found, netip.MustParseAddr(a))
		}
		return found, nil
	}))
}

// Three tasks behind one name share what is asked of it, whether or not connections are kept.
func TestAddressesOfANameAreCalledInTurn(t *testing.T) {
	all := []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"}
	resolving(t, func() []string { return all })
	w := rpctest.New(t)
	port, asked, _ := replicas(t, w, all...)
	peer := w.Peer("gateway", net.JoinHostPort("approval", port))
	for i := range 300 {
		method, body := "GET", any(nil)
		if i%2 == 0 {
			method, body = "POST", rpctest.Number{N: 1}
		}
		if _, err := client.Call[rpctest.Number](t.Context(), peer, method, "/x", body); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range asked {
		if got := n.Load(); got < 90 || got > 110 {
			t.Errorf("%s got %d of 300 requests, want 100 or nearly so", all[i], got)
		}
	}
}

// An address that nobody answers at costs no request, even one that must not be sent twice, and one that comes later gets its share.
func TestAddressesOfANameAreFollowed(t *testing.T) {
	var now atomic.Pointer[[]string]
	now.Store(&[]string{"127.0.0.1", "127.0.0.4"})
	resolving(t, func() []string { return *now.Load() })
	w := rpctest.New(t)
	port, asked, servers := replicas(t, w, "127.0.0.1", "127.0.0.2")
	peer := w.Peer("gateway", net.JoinHostPort("approval", port))
	for range 20 {
		if _, err := client.Call[rpctest.Number](t.Context(), peer, "POST", "/x", rpctest.Number{N: 1}); err != nil {
			t.Fatalf("with one address of two that nobody answers at: %v", err)
		}
	}
	servers[0].CloseClientConnections()
	servers[0].Close()
	now.Store(&[]string{"127.0.0.2"})
	for range 20 {
		if _, err := client.Call[rpctest.Number](t.Context(), peer, "GET", "/x", nil); err != nil {
			t.Fatalf("after the service has moved: %v", err)
		}
	}
	if asked[0].Load() != 20 || asked[1].Load() != 20 {
		t.Errorf("asked %d and %d times, want 20 each", asked[0].Load(), asked[1].Load())
	}
}
