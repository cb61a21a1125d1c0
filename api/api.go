// Package api gathers the endpoints of the suite. Each service's are declared in the package of its name below this one: routes.go has the
// endpoints with their requests and responses, client.go the client that other services use. The packages import libs and never a
// service.
package api

import (
	"slices"

	"github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/api/egress"
	"github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/route"
)

// tables are those of all services, the gateway's last: of a path with several methods, a 405 lists the owner's first.
var tables = []route.Table{
	approval.Routes, registry.Routes, egress.Routes, broker.Routes, pip.Routes, secrets.Routes, gateway.Routes,
}

// Routes are the endpoints of all services, the internal ones too.
func Routes() route.Table {
	var all route.Table
	for _, table := range tables {
		all = append(all, table...)
	}
	return all
}

// Examples are requests to public endpoints with their answers, for the document of the API. Only its generator calls this.
func Examples() []route.Example {
	return slices.Concat(registry.Examples(), egress.Examples(), broker.Examples(), secrets.Examples())
}
