package client_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/rpc/internal/rpctest"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

func TestFaultsSurviveAHop(t *testing.T) {
	w := rpctest.New(t)
	secret := errors.New("dial tcp 10.0.0.7:5432: password hunter2")
	faults := map[string]error{
		"conflict": fault.Conflict("SHA-256 mismatch").With("sha256_mismatch").Carrying(map[string]any{"digest": "x"}),
		"limited":  fault.Limited("Slow down").After(2500 * time.Millisecond),
		"down":     fault.Unavailable("Docker is required but not available"),
		"surprise": secret,
		"panic":    nil,
	}
	address := w.Serve(func(m *server.Mux) {
		m.Route("GET /fail/{how}", rpc.Handle(func(_ context.Context, req struct {
			How string `json:"-" path:"how"`
		}) (struct{}, error) {
			if req.How == "panic" {
				panic("hunter2")
			}
			return struct{}{}, faults[req.How]
		}), "gateway")
	})
	peer := w.Peer("gateway", address)
	call := func(how string) *fault.Fault {
		_, err := client.Call[struct{}](t.Context(), peer, "GET", "/fail/"+how, nil)
		if err == nil {
			t.Fatalf("%s: the call succeeds, want an error", how)
		}
		return fault.Of(err)
	}
	if f := call("conflict"); f.Kind != fault.KindConflict || f.Message != "SHA-256 mismatch" || f.Code != "sha256_mismatch" || f.Data == nil {
		t.Errorf("conflict: got %#v, want a conflict with its text, code and data", f)
	}
	if f := call("limited"); f.Kind != fault.KindLimited || f.RetryAfter != 3*time.Second {
		t.Errorf("limited: got %#v, want limited, to be tried after 3s", f)
	}
	if f := call("down"); f.Kind != fault.KindUnavailable || f.RetryAfter != time.Second {
		t.Errorf("down: got %#v, want unavailable, to be tried after 1s", f)
	}
	for _, how := range []string{"surprise", "panic"} {
		if f := call(how); f.Kind != fault.KindInternal || strings.Contains(f.Message, "hunter2") {
			t.Errorf("%s: got %#v, want internal, without what the server's error says", how, f)
		}
	}
	if !strings.Contains(w.Logs.String(), "hunter2") {
		t.Error("the log doesn't have the surprise")
	}
}

func TestAPeerThatIsDownIsUnavailableAtOnce(t *testing.T) {
	w := rpctest.New(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	served := 0
	up := w.Serve(func(m *server.Mux) {
		m.Route("GET /x", rpc.Handle(func(context.Context, struct{}) (struct{}, error) { served++; return struct{}{}, nil }), "gateway")
		m.Route("POST /x", rpc.Handle(func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil }), "gateway")
	})
	t.Run("every instance", func(t *testing.T) {
		peer := w.Peer("gateway", closed)
		for range 20 { // through the breaker, too
			if _, err := client.Call[struct{}](t.Context(), peer, "GET", "/x", nil); !fault.Is(err, fault.KindUnavailable) {
				t.Fatal(err)
			}
		}
	})
	t.Run("one of two: what may be repeated is", func(t *testing.T) {
		peer := w.Peer("gateway", closed, up)
		for range 20 {
			if _, err := client.Call[struct{}](t.Context(), peer, "GET", "/x", nil); err != nil {
				t.Fatal(err)
			}
		}
		failed, balanced := 0, w.Peer("gateway", closed, up)
		for range 2 {
			if _, err := client.Call[struct{}](t.Context(), balanced, "POST", "/x", struct{}{}); err != nil {
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
		_, err = client.Call[struct{}](t.Context(), w.Peer("gateway", silent.Addr().String()), "POST", "/x", nil)
		if !fault.Is(err, fault.KindUnavailable) || time.Since(began) > 6*time.Second {
			t.Fatalf("got %v after %v, want unavailable within 6s", err, time.Since(began))
		}
	})
}
