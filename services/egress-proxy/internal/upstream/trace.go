package upstream

import (
	"context"
	"crypto/tls"
	"net/netip"

	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
)

// connected notes in the span of the request that a new connection was made for it, and to which address.
func connected(ctx context.Context, t *Target, addr netip.Addr) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.AddEvent("connected", trace.WithAttributes(semconv.NetworkPeerAddress(addr.String()), semconv.NetworkPeerPort(int(t.Port))))
	}
}

// securedTLS notes in the span of the request that TLS was begun for it.
func securedTLS(ctx context.Context, conn *tls.Conn) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.AddEvent("secured", trace.WithAttributes(semconv.TLSProtocolVersion(tls.VersionName(conn.ConnectionState().Version))))
	}
}
