package uds

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// gauges gathers the gauges by name.
func gauges(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		values[f.GetName()] = f.Metric[0].Gauge.GetValue()
	}
	return values
}

// What sockets hold is counted while it is held, and given back with them.
func TestLoadIsMeasured(t *testing.T) {
	dir, err := os.MkdirTemp("", "rumi") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	registry := prometheus.NewRegistry()
	set := NewSet(SetConfig{Dir: dir, GID: -1, Handler: func(string) Handler { return newEcho("") }, Log: slog.New(slog.DiscardHandler), Metrics: registry})
	defer set.Close()
	becomes := func(what string, sockets, connections float64) {
		t.Helper()
		var got map[string]float64
		for range 5000 {
			got = gauges(t, registry)
			if got["rumi_sockets"] == sockets && got["rumi_socket_connections"] == connections {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Errorf("%s: %v, want %v sockets and %v connections", what, got, sockets, connections)
	}
	becomes("at first", 0, 0)
	set.Ensure("a")
	set.Ensure("b")
	becomes("made", 2, 0)
	conn, err := net.Dial("unix", filepath.Join(dir, DirName("a"), SocketName))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	becomes("connected", 2, 1)
	set.Remove("a")
	becomes("one removed", 1, 0)
	set.Close()
	becomes("closed", 0, 0)

	all := newBudget(10, set.load)
	if err := all.Acquire(context.Background(), 4); err != nil || !all.TryAcquire(3) || all.TryAcquire(4) {
		t.Fatalf("a budget of 10 gave something else than 4 and 3 (%v)", err)
	}
	all.Release(2)
	if got := gauges(t, registry)["rumi_socket_memory_reserved_bytes"]; got != 5 {
		t.Errorf("%v bytes are reserved, want 5", got)
	}
}
