package client

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/discovery"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

// BenchmarkUnaryCall compares direct with http.Transport: a whole Call over mutual TLS to a Mux in the same process, so that caller and
// service count. The two take turns, block by block, so that whatever else the machine does meets both. It reports medians over the blocks
// of the processor time, the wall time and the allocations of a call, and of direct's share of http.Transport's, with
// the quartiles of the processor time's. Run it with
//
//	go test -run '^$' -bench UnaryCall -benchtime 31x ./libs/rpc/client
//
// The numbers of the decision are in docs/adr/own-http-client.md.
func BenchmarkUnaryCall(b *testing.B) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		for _, callers := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/callers=%d", method, callers), func(b *testing.B) { compareUnary(b, method, callers) })
		}
	}
}

// block is how many calls are measured at once.
const block = 1600

// cost is what one call took.
type cost struct{ cpu, wall, allocs float64 } // ns, ns, objects

func compareUnary(b *testing.B, method string, callers int) {
	peers := [2]*Peer{
		benchmarkPeer(b, takes),
		benchmarkPeer(b, func(*http.Request) bool { return false }),
	}
	var costs [2][]cost
	for _, p := range peers { // connections, pools
		calls(b, p, method, callers)
	}
	for i := range b.N {
		for j := range peers {
			j = (i + j) % 2
			costs[j] = append(costs[j], measure(func() { calls(b, peers[j], method, callers) }))
		}
	}
	shares := func(of func(cost) float64) []float64 {
		list := make([]float64, len(costs[0]))
		for i := range list {
			list[i] = of(costs[0][i]) / of(costs[1][i])
		}
		slices.Sort(list)
		return list
	}
	cpu := func(c cost) float64 { return c.cpu }
	wall := func(c cost) float64 { return c.wall }
	for j, name := range []string{"direct", "transport"} {
		b.ReportMetric(median(costs[j], cpu), name+"-cpu-ns")
		b.ReportMetric(median(costs[j], wall), name+"-wall-ns")
		b.ReportMetric(median(costs[j], func(c cost) float64 { return c.allocs }), name+"-allocs")
	}
	of := shares(cpu)
	b.ReportMetric(of[len(of)/2], "cpu-share")
	b.ReportMetric(of[len(of)/4], "cpu-share-q1")
	b.ReportMetric(of[len(of)*3/4], "cpu-share-q3")
	of = shares(wall)
	b.ReportMetric(of[len(of)/2], "wall-share")
	b.ReportMetric(0, "ns/op") // of a pair of blocks, which says nothing
}

// calls makes a block of calls.
func calls(b *testing.B, p *Peer, method string, callers int) {
	type number struct{ N int }
	var body any
	if method == http.MethodPost {
		body = number{4}
	}
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range block / callers {
				if got, err := Call[number](context.Background(), p, method, "/number", body); err != nil || got.N != 8 {
					b.Errorf("got %v, %v; want 8", got, err)
				}
			}
		})
	}
	all.Wait()
}

func measure(f func()) cost {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, began := cpuTime(), time.Now()
	f()
	wall, used := time.Since(began), cpuTime()-cpu
	runtime.ReadMemStats(&after)
	return cost{float64(used) / block, float64(wall) / block, float64(after.Mallocs-before.Mallocs) / block}
}

// cpuTime is what this process has used, user and system.
func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(costs []cost, of func(cost) float64) float64 {
	list := make([]float64, len(costs))
	for i, c := range costs {
		list[i] = of(c)
	}
	slices.Sort(list)
	return list[len(list)/2]
}

// benchmarkPeer is a service with one route, called as the gateway calls it.
func benchmarkPeer(b *testing.B, takes func(*http.Request) bool) *Peer {
	authority, err := identity.NewAuthority(time.Now())
	if err != nil {
		b.Fatal(err)
	}
	issue := func(name string) *identity.Identity {
		dir := b.TempDir()
		if err := authority.Issue(name, dir, time.Now()); err != nil {
			b.Fatal(err)
		}
		id, err := identity.Load(dir)
		if err != nil {
			b.Fatal(err)
		}
		return id
	}
	type number struct{ N int }
	log := slog.New(slog.DiscardHandler)
	mux := server.NewMux(server.Config{Log: log, Metrics: prometheus.NewRegistry(), Tracing: noop.NewTracerProvider()})
	mux.Route("GET /number", rpc.Handle(func(context.Context, struct{}) (number, error) { return number{8}, nil }), "gateway")
	mux.Route("POST /number", rpc.Handle(func(_ context.Context, n number) (number, error) { return number{2 * n.N}, nil }), "gateway")
	s := httptest.NewUnstartedServer(mux)
	s.Listener = server.Listener(s.Listener, issue("approval"), nil)
	s.Start()
	b.Cleanup(s.Close)
	return newPeer("approval", discovery.Static{"approval": {s.Listener.Addr().String()}}.Instancer("approval"),
		Config{Log: log, Tracing: noop.NewTracerProvider(), Identity: issue("gateway")}, NewMetrics(prometheus.NewRegistry()), takes)
}
