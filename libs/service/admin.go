package service

import (
	"fmt"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

func newTLSListener(l net.Listener, id *identity.Identity) net.Listener {
	return server.Listener(l, id)
}

// adminHandler serves /metrics, /healthz (the process answers) and /readyz (it can do its work; a Readiness).
func (rt *Runtime) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(rt.Metrics, promhttp.HandlerOpts{Registry: rt.Metrics}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", rt.readyz)
	return mux
}
