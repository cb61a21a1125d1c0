package egress_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/gate/packsockets"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/egress"
)

// crowd is the sockets of many packs and idle clients of them. A client is a bare descriptor, so that what the process grows
// by is what it serves with.
type crowd struct {
	dir     string
	sockets *packsockets.Sockets
	clients []int
}

func gather(t testing.TB, packs int) *crowd {
	t.Helper()
	base, err := os.MkdirTemp("", "rumi") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	discard := slog.New(slog.DiscardHandler)
	log, err := audit.Open(filepath.Join(base, "audit"), "egress-proxy", discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	proxy := egress.New(egress.Config{Gates: gate.NewView(discard), Addresses: address.NewPolicy(nil), TLS: func() *tls.Config { return &tls.Config{} }, Rate: 600,
		Audit: log, Log: discard, Metrics: prometheus.NewRegistry(), Tracer: noop.NewTracerProvider().Tracer("")})
	c := &crowd{dir: filepath.Join(base, "packs")}
	c.sockets = packsockets.New(uds.SetConfig{Dir: c.dir, Mode: 0o660, GID: -1, Handler: proxy.Handler, Limits: uds.Limits{Request: egress.MaxRequest}, Log: discard}, proxy.Forget)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.sockets.Run(ctx) }()
	t.Cleanup(func() {
		for _, fd := range c.clients {
			unix.Close(fd)
		}
		cancel()
		<-done
	})
	for i := range packs {
		c.sockets.GateChanged(gate.Change{PackID: name(i), State: gate.State{PackID: name(i), Open: true, Status: "approved"}})
	}
	for i, began := 0, time.Now(); i < packs; {
		if c.sockets.Serving(name(i)) {
			i++
		} else if time.Since(began) > time.Minute {
			t.Fatalf("the socket of %s is not served", name(i))
		} else {
			time.Sleep(time.Millisecond)
		}
	}
	return c
}

// connect has a client connect to each of the first sockets, and waits until they are served.
func (c *crowd) connect(t testing.TB, packs int) {
	t.Helper()
	before := runtime.NumGoroutine()
	for i := range packs {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			c.clients = append(c.clients, fd)
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(c.dir, uds.DirName(name(i)), uds.SocketName)})
		}
		if err != nil {
			t.Fatalf("pack %d: %v", i, err)
		}
	}
	for began := time.Now(); runtime.NumGoroutine() < before+packs; time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%d goroutines serve %d clients, want one each within 10s", runtime.NumGoroutine()-before, packs)
		}
	}
}

func name(i int) string { return fmt.Sprintf("pack-%d", i) }

// memory is what Go holds, in bytes.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// resident is what the process holds, in bytes.
func resident(t testing.TB) int64 {
	raw, err := os.ReadFile("/proc/self/statm")
	var size, pages int64
	if _, scan := fmt.Sscan(string(raw), &size, &pages); err != nil || scan != nil {
		t.Fatalf("statm: %v, %v; want two numbers", err, scan)
	}
	return pages * int64(os.Getpagesize())
}

// spent is the process's CPU time.
func spent() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func descriptors(t testing.TB) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// The goal is 10,000 sockets in 100 MB; here it is a tenth of both.
func TestThousandSockets(t *testing.T) {
	const packs = 1000
	before, open, goroutines := memory(), descriptors(t), runtime.NumGoroutine()
	c := gather(t, packs)
	if grown := memory() - before; grown > 10<<20 {
		t.Errorf("%d sockets hold %d bytes, %d each", packs, grown, grown/packs)
	}
	if n := descriptors(t) - open; n > 2*packs+50 { // the socket and its lock
		t.Errorf("%d sockets hold %d descriptors, want at most %d", packs, n, 2*packs+50)
	}
	c.connect(t, packs)
	if grown := memory() - before; grown > 20<<20 {
		t.Errorf("%d sockets with an idle connection each hold %d bytes, %d each", packs, grown, grown/packs)
	}

	// All of them go, and with them all that was held.
	for i := range packs {
		c.sockets.Remove(name(i))
	}
	for began := time.Now(); runtime.NumGoroutine() > goroutines+packs/10; time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%d goroutines are left after 10s, want at most %d", runtime.NumGoroutine(), goroutines+packs/10)
		}
	}
	if n := descriptors(t) - open; n > packs+50 { // the clients' own ends
		t.Errorf("%d descriptors are left, want at most %d", n, packs+50)
	}
	if left, err := fs.Glob(os.DirFS(c.dir), "*"); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v; want no socket", left, err)
	}
}

// BenchmarkSockets has 10,000 packs' sockets open, or as many as descriptors allow, and tells what that costs: resident bytes
// as if they were 10,000, alone and with an idle connection on each, and how much of a CPU while nothing happens.
func BenchmarkSockets(b *testing.B) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	packs := min(10_000, int(limit.Cur-200)/4)
	before := resident(b)
	c := gather(b, packs)
	alone := resident(b) - before
	began, busy := time.Now(), spent()
	for b.Loop() {
		time.Sleep(5 * time.Second)
	}
	load := float64(spent()-busy) / float64(time.Since(began))
	c.connect(b, packs)
	time.Sleep(time.Second)
	connected := resident(b) - before
	b.ReportMetric(float64(packs), "sockets")
	b.ReportMetric(float64(alone)/float64(packs)/100, "MB/10000")
	b.ReportMetric(float64(connected)/float64(packs)/100, "MB/10000-connected")
	b.ReportMetric(load*100, "%cpu")
}
