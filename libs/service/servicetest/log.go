package servicetest

import (
	"log/slog"
	"testing"
)

func slogFor(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }
