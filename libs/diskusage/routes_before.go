package diskusage

import (
	"context"

	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

// Route serves what list finds, for the gateway.
func Route(mux *server.Mux, list List) {
	mux.Route("GET /internal/storage", rpc.Handle(func(ctx context.Context, _ struct{}) (Report, error) {
		items, err := list(ctx)
		if err != nil {
			return Report{}, err
		}
		return NewReport(items), nil
	}), "gateway")
}
