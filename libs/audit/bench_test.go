package audit_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/rumi-ai/rumi/libs/audit"
)

// BenchmarkWrite measures entries a second: of a category that isn't synced, and of one that is, by writers in flight.
func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct {
		category audit.Category
		writers  int
	}{{audit.Network, 1}, {audit.Network, 16}, {audit.Security, 1}, {audit.Security, 16}, {audit.Security, 256}} {
		b.Run(fmt.Sprintf("%s/%d", c.category, c.writers), func(b *testing.B) {
			log := open(b, b.TempDir())
			entry := audit.Entry{Category: c.category, Severity: audit.Warning, Action: "network_denied", OwnerPack: "weather",
				Details: map[string]any{"domain": "example.com", "port": 443, "blocked_reason": "grant_denied"}}
			b.SetParallelism(max(1, c.writers/2))
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := log.Write(context.Background(), entry); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
