package egress

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// benchmark drives a proxy as it runs in production, with real sockets and a real audit log, from several connections.
// The frames are answered by a server on loopback; see design.md, "Numbers to reach".
func benchmark(b *testing.B, inFlight int, frame string, want string) {
	benchmarkTraced(b, inFlight, frame, want, uncollected())
}

func benchmarkTraced(b *testing.B, inFlight int, frame string, want string, tracer trace.Tracer) {
	w := newWorld(b, func(c *Config) {
		log, err := audit.Open(filepath.Join(b.TempDir(), "audit"), "egress-proxy", slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { log.Close() })
		c.Addresses = address.NewPolicy([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
		c.Audit, c.Log, c.Dial = log, slog.New(slog.NewJSONHandler(io.Discard, nil)), upstream.Dial
		c.TLS, c.Metrics = func() *tls.Config { return &tls.Config{} }, prometheus.NewRegistry()
		c.Tracer = tracer
	})
	w.grants["p"] = []string{"127.0.0.1", "10.0.0.1"}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "hello") }))
	b.Cleanup(server.Close)
	if want == "" {
		frame = fmt.Sprintf(frame, server.URL)
	}

	l, err := uds.Listen(uds.Config{Dir: b.TempDir(), Name: uds.DirName("p"), GID: -1})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { uds.Serve(ctx, l, w.proxy.Handler("p"), uds.Limits{}, slog.New(slog.DiscardHandler)) })
	b.Cleanup(func() { cancel(); serving.Wait() })

	var next sync.Mutex
	left := b.N
	var took []time.Duration
	var clients sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range inFlight {
		clients.Go(func() {
			c, err := net.Dial("unix", l.Path())
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			var buf []byte
			var mine []time.Duration
			for {
				next.Lock()
				left--
				over := left < 0
				next.Unlock()
				if over {
					break
				}
				began := time.Now()
				if err := uds.WriteFrame(c, []byte(frame)); err != nil {
					b.Error(err)
					return
				}
				if buf, err = uds.AppendFrame(buf[:0], c, 1<<20); err != nil {
					b.Error(err)
					return
				}
				mine = append(mine, time.Since(began))
			}
			if len(mine) == 0 {
				return
			}
			if r := decode(b, buf); r.errorType() != want {
				b.Errorf("got %s %q, want the error type %q", r.errorType(), r.errorText(), want)
			}
			next.Lock()
			took = append(took, mine...)
			next.Unlock()
		})
	}
	clients.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

const plainRequest = `{"method":"GET","url":"%s/x","headers":{"Accept":"application/json"},"body":null,"timeout_seconds":30}`

func BenchmarkRequest1(b *testing.B)  { benchmark(b, 1, plainRequest, "") }
func BenchmarkRequest16(b *testing.B) { benchmark(b, 16, plainRequest, "") }

func BenchmarkDenial1(b *testing.B) {
	benchmark(b, 1, `{"method":"GET","url":"https://other.example/x"}`, "grant_denied")
}

func BenchmarkDenial16(b *testing.B) {
	benchmark(b, 16, `{"method":"GET","url":"https://other.example/x"}`, "grant_denied")
}

func BenchmarkDenial256(b *testing.B) {
	benchmark(b, 256, `{"method":"GET","url":"https://other.example/x"}`, "grant_denied")
}

// BenchmarkTLS is a framed request to a server that speaks either HTTP version, 16 in flight, without audit log and socket.
func BenchmarkTLS(b *testing.B) {
	hello := func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "hello") }
	for name, serve := range map[string]func(w *world){
		"HTTP1": func(w *world) { w.site("x.example", "93.184.216.34", true, hello) },
		"HTTP2": func(w *world) { w.site2("x.example", "93.184.216.34", hello) },
	} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, func(c *Config) {
				c.Log, c.Audit = slog.New(slog.DiscardHandler), discardAudit{}
				c.Tracer = uncollected()
			})
			serve(w)
			h := w.proxy.Handler("p")
			b.SetParallelism(8)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				var answer []byte
				for pb.Next() {
					answer = h.Answer(context.Background(), []byte(`{"url":"https://x.example/"}`), answer[:0])
				}
				if answer != nil && !decode(b, answer).Success {
					b.Errorf("the answer is %s, want success", answer)
				}
			})
		})
	}
}

// uncollected is a tracer as where nobody collects spans.
func uncollected() trace.Tracer {
	return sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())).Tracer("")
}
