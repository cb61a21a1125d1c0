package tracing

import (
	"context"
	"errors"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// errNoCollector is the error of Upload where no collector was named.
var errNoCollector = errors.New("no collector is set")

// Collected says whether there is a collector that takes spans now.
func (t *Tracing) Collected() bool { return t.exporter != nil && t.exporter.here.Load() }

// Upload sends spans that somebody else made to the collector, with a client as the service's own spans have one. It waits for the answer, for
// exportTimeout at most. Its outcome doesn't count for Collected: whoever could make spans that the collector refuses would switch off the
// service's own.
func (t *Tracing) Upload(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	if t.exporter == nil {
		return errNoCollector
	}
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	return t.exporter.client.UploadTraces(ctx, spans)
}
