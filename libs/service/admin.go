package service

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/rpc"
)

func newTLSListener(l net.Listener, id *identity.Identity) net.Listener {
	return rpc.Listener(l, id)
}

// adminHandler serves /metrics, /healthz (the process answers) and /readyz (it can do its work).
func (rt *Runtime) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(rt.Metrics, promhttp.HandlerOpts{Registry: rt.Metrics}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := rt.checkReady(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

func (rt *Runtime) checkReady(ctx context.Context) error {
	rt.mu.Lock()
	checks := maps.Clone(rt.ready)
	rt.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		if err := checks[name](ctx); err != nil {
			return fault.Unavailable("Not ready: %s", name).With("not_ready").Because(err)
		}
	}
	return nil
}
