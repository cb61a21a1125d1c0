package gate

import (
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

// Routes serves the stream, and single gates, to those callers (names of services).
func (p *Publisher) Routes(mux *server.Mux, callers ...string) {
	stream, single := Stream.Route(), Single.Route()
	mux.Route(stream.Name(), rpc.Raw(p.serveStream), callers...)
	mux.Route(single.Name(), rpc.Handle(p.single), callers...)
}
