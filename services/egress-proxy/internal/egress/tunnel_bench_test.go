package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/clienthello"
)

// sink is a server that takes in a ClientHello, then sends chunks for ever.
func sink(b *testing.B, chunk int) string {
	return listen(b, func(c net.Conn) {
		if _, _, err := clienthello.Read(c); err != nil {
			return
		}
		for buf := make([]byte, chunk); ; {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	})
}

type discardAudit struct{}

func (discardAudit) Submit(context.Context, ...audit.Entry) func() error {
	return func() error { return nil }
}

const benchChunk = 256 << 10

// greet sends a ClientHello for a name, and nothing else of TLS.
func greet(b *testing.B, c net.Conn, name string) {
	near, far := net.Pipe()
	go func() {
		tls.Client(near, &tls.Config{ServerName: name}).Handshake()
	}()
	hello, _, err := clienthello.Read(far)
	if err != nil {
		b.Fatal(err)
	}
	far.Close()
	if _, err := c.Write(hello); err != nil {
		b.Fatal(err)
	}
}

func drain(b *testing.B, c net.Conn) {
	buf := make([]byte, benchChunk)
	if _, err := io.ReadFull(c, buf); err != nil { // it flows
		b.Fatal(err)
	}
	b.SetBytes(benchChunk)
	b.ResetTimer()
	for range b.N {
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
}

// BenchmarkTunnel moves bytes from a server to a pack, over the socket and as code behind PID 1's relay sees it; compare
// with BenchmarkPlainRelay of the same run.
func BenchmarkTunnel(b *testing.B) {
	w := newWorld(b, func(c *Config) {
		c.Tracer = uncollected()
		c.Log, c.Metrics = slog.New(slog.NewJSONHandler(io.Discard, nil)), prometheus.NewRegistry()
	})
	w.at("x.example", "93.184.216.34", "443", sink(b, benchChunk))
	path := w.socket()
	for name, c := range map[string]func(*testing.B) net.Conn{
		"socket":   func(b *testing.B) net.Conn { return dialBench(b, "unix", path) },
		"loopback": func(b *testing.B) net.Conn { return dialBench(b, "tcp", plainRelay(b, "unix", path)) },
	} {
		b.Run(name, func(b *testing.B) {
			c := c(b)
			fmt.Fprint(c, "CONNECT x.example:443 HTTP/1.1\r\nHost: x.example:443\r\n\r\n")
			if r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: "CONNECT"}); err != nil || r.StatusCode != 200 {
				b.Fatalf("CONNECT: got %v, %v; want 200", r, err)
			}
			greet(b, c, "x.example")
			drain(b, c)
		})
	}
}

// BenchmarkPlainRelay is a relay that decides nothing, with TCP on both sides.
func BenchmarkPlainRelay(b *testing.B) {
	c := dialBench(b, "tcp", plainRelay(b, "tcp", sink(b, benchChunk)))
	greet(b, c, "x.example")
	drain(b, c)
}

func dialBench(b *testing.B, network, address string) net.Conn {
	c, err := net.Dial(network, address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c
}

// plainRelay passes TCP connections on to an address.
func plainRelay(b *testing.B, network, address string) string {
	return listen(b, func(c net.Conn) {
		server, err := net.Dial(network, address)
		if err != nil {
			return
		}
		go func() { io.Copy(server, c); server.Close() }()
		io.Copy(c, server)
	})
}

// BenchmarkForward is BenchmarkRequest1's request as plain HTTP.
func BenchmarkForward(b *testing.B) {
	w := newWorld(b, func(c *Config) {
		c.Tracer = uncollected()
		c.Log, c.Metrics, c.Audit = slog.New(slog.NewJSONHandler(io.Discard, nil)), prometheus.NewRegistry(), discardAudit{}
	})
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "hello") }))
	b.Cleanup(s.Close)
	w.at("x.example", "93.184.216.34", "80", s.Listener.Addr().String())
	path := w.socket()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("unix", path)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		in := bufio.NewReader(c)
		for pb.Next() {
			io.WriteString(c, "GET http://x.example/ HTTP/1.1\r\nHost: x.example\r\n\r\n")
			r, err := http.ReadResponse(in, nil)
			if err != nil {
				b.Error(err)
				return
			}
			io.Copy(io.Discard, r.Body)
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}
