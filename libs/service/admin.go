package service

import (
	"fmt"
	"net/http"
)

// adminHandler serves /metrics, /healthz (the process answers) and /readyz (it can do its work; a Readiness).
func (rt *Runtime) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", rt.metricsHandler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", rt.readyz)
	return mux
}
