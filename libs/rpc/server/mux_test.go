package server_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/rpc/internal/rpctest"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

func TestRoutesAdmitOnlyNamedCallers(t *testing.T) {
	w := rpctest.New(t)
	var saw atomic.Value
	address := w.Serve(func(m *server.Mux) {
		m.Route("GET /who", rpc.Handle(func(ctx context.Context, _ struct{}) (struct{}, error) {
			saw.Store(origin.Of(ctx))
			return struct{}{}, nil
		}), "gateway", "secrets")
		m.Route("GET /nobody", rpc.Handle(func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil }))
	})
	ctx := origin.With(t.Context(), origin.Origin{RequestID: "r-1", Actor: "alice", Role: access.Operator, Lineage: "init", Address: "127.0.0.9"})
	if _, err := client.Call[struct{}](ctx, w.Peer("secrets", address), "GET", "/who", nil); err != nil {
		t.Fatal(err)
	}
	if got, want := saw.Load(), (origin.Origin{RequestID: "r-1", Actor: "alice", Role: access.Operator, Lineage: "init", Caller: "secrets", Address: "127.0.0.9"}); got != want {
		t.Errorf("origin %+v, want %+v", got, want)
	}
	for as, path := range map[string]string{"egress-proxy": "/who", "gateway": "/nobody"} {
		if _, err := client.Call[struct{}](ctx, w.Peer(as, address), "GET", path, nil); !fault.Is(err, fault.KindDenied) {
			t.Errorf("%s at %s: got %v, want denied", as, path, err)
		}
	}
}
