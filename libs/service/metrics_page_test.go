package service_test

import (
	"context"
	"errors"
	"testing"

	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/metric/metricdoc"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

// nobody renews no certificate.
type nobody struct{}

func (nobody) Sign(context.Context, []byte) ([]byte, error) { return nil, errors.New("nobody signs") }

func (nobody) Follow(ctx context.Context, _ func([]identity.Denied)) error {
	<-ctx.Done()
	return nil
}

// TestMetricsPage: a service without anything of its own has what all have.
func TestMetricsPage(t *testing.T) {
	suite := servicetest.New(t, "secrets")
	server := servicetest.Start(suite, "secrets", func(_ context.Context, rt *service.Runtime, _ config) error {
		rt.CertificatesBy(nobody{}) // secrets would be a peer, and not every service has one
		route(rt.Mux())
		return nil
	}, nil)
	readiness(t, suite, server) // a request, so that there is a route
	metricdoc.Check(t, server.Metrics, metricdoc.Common)
}
