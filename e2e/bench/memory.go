package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/e2e/bench/internal/suite"
	"github.com/rumi-ai/rumi/e2e/bench/internal/table"
)

// memory measures the memory of the seven services before their first request.
func (b *bench) memory(ctx context.Context) error {
	select {
	case <-time.After(b.scale.idle):
	case <-ctx.Done():
		return ctx.Err()
	}
	m, err := suite.MemoryOf(b.suite.PIDs())
	if err != nil {
		return err
	}
	b.row(table.Row{
		Path: "memory, seven idle services", Unit: table.Bytes, Goal: table.Goal{Bound: 200e6}, Ours: float64(m.Resident),
		OursMore:  fmt.Sprintf("(PSS %s, without pages of files %s)", table.Bytes.Format(float64(m.Proportional)), table.Bytes.Format(float64(m.Anonymous))),
		Published: "original 46 MB in one process",
	})
	return nil
}
