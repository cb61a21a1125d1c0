package store_test

import (
	"errors"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
)

// A transaction that writes is a span below the one that it is made in, and one that reads is none.
func TestSpans(t *testing.T) {
	storetest.Run(t, migrations, func(t *testing.T, open func() *store.DB) {
		db := open()
		spans := tracetest.NewSpanRecorder()
		ctx, request := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("").Start(t.Context(), "request")
		failure := errors.New("no")
		if err := errors.Join(db.View(ctx, func(*store.Tx) error { return nil }), db.Tx(ctx, func(*store.Tx) error { return nil })); err != nil {
			t.Fatal(err)
		}
		if err := db.Tx(ctx, func(*store.Tx) error { return failure }); !errors.Is(err, failure) {
			t.Fatal(err)
		}
		ended := spans.Ended()
		if len(ended) != 2 || ended[0].Parent().SpanID() != request.SpanContext().SpanID() || ended[0].Status().Code != codes.Unset || ended[1].Status().Code != codes.Error {
			t.Errorf("the spans are %v, want one for each transaction that writes, below the request, the second one an error", ended)
		}
	})
}
