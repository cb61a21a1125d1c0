package egress

import (
	"context"
	"testing"
)

// BenchmarkSpanOff is what a request pays for its span where nobody collects any.
func BenchmarkSpanOff(b *testing.B) {
	w := newWorld(b, func(c *Config) { c.Tracer = uncollected() })
	k, r := w.proxy.pack("p"), &result{}
	b.ReportAllocs()
	for b.Loop() {
		_, span := k.span(context.Background(), r)
		r.end(span, "p", "allowed", "ok")
	}
}
