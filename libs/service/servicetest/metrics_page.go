package servicetest

import (
	"net/http"

	"github.com/rumi-ai/rumi/libs/metric/metricdoc"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/service"
)

// CheckMetrics compares what a service exposes with its section of docs/metrics.md; see metricdoc. It sends the service a request first, because
// the durations of requests have no series before. The gateway, which has no internal endpoint, calls metricdoc.Check itself.
func (s *Suite) CheckMetrics(server *Server) {
	s.t.Helper()
	_, err := client.Call[service.Readiness](s.t.Context(), s.Peer(roster.Gateway, server.Name), http.MethodGet, service.ReadyOf(server.Name).Route().Pattern, nil)
	must(s.t, err)
	metricdoc.Check(s.t, server.Metrics, server.Name)
}
