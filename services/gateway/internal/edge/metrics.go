package edge

import (
	"net/http"

	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/services/gateway/internal/metrics"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
)

// allMetrics answers api.GetMetrics.
func (e *Edge) allMetrics(w http.ResponseWriter, r *http.Request, _ route.Class) error {
	if _, err := rpc.Decode[struct{}](r); err != nil {
		return err
	}
	families, err := e.cfg.AllMetrics.Collect(r.Context())
	if err != nil {
		return err
	}
	if err := withheld(r); err != nil {
		return err
	}
	return metrics.Write(w, r, families)
}
