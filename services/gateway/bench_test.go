package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

const inFlight = 16

// BenchmarkRead is design.md's number: authenticated reads through one service over mutual TLS, the rate limit on,
// 16 in flight. Load, gateway and service share the machine.
func BenchmarkRead(b *testing.B) {
	suite := servicetest.New(b, "gateway", "approval")
	w := &world{Suite: suite, t: b}
	w.setToken(apiToken)
	quiet := map[string]string{"RUMI_LOG_LEVEL": "error"}
	answer := []map[string]string{{"pack_id": "my_pack", "status": "approved"}}
	servicetest.Start(suite, "approval", service.Build[struct{}](func(_ context.Context, rt *service.Runtime, _ struct{}) error {
		rt.Mux().Route("GET /api/packs", rpc.Handle(func(context.Context, struct{}) ([]map[string]string, error) { return answer, nil }), "gateway")
		return nil
	}), quiet)
	server := servicetest.Start(suite, "gateway", build, map[string]string{"RUMI_LOG_LEVEL": "error", "RUMI_API_RATE_LIMIT": "10000000", "RUMI_API_RATE_WINDOW": "1"})
	load(b, server.Address, head("GET /api/packs"))
}

// BenchmarkBare is the same load on a net/http server that does nothing, to compare with in the same run.
func BenchmarkBare(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	plain := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = rpc.WriteData(w, "x") })}
	go plain.Serve(l)
	defer plain.Close()
	load(b, l.Addr().String(), head("GET /api/packs"))
}

// load sends request again and again over inFlight connections.
func load(b *testing.B, address string, request []byte) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(b.N))
	conns := make([]net.Conn, inFlight)
	for i := range conns {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		conns[i] = conn
	}
	b.ReportAllocs()
	b.ResetTimer()
	began, before := time.Now(), cpu()
	var wg sync.WaitGroup
	for _, conn := range conns {
		wg.Go(func() {
			in := bufio.NewReader(conn)
			for left.Add(-1) >= 0 {
				if _, err := conn.Write(request); err != nil {
					b.Error(err)
					return
				}
				if status, err := skipAnswer(in); err != nil || status != "200" {
					b.Errorf("the status is %q, %v; want 200", status, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "req/s")
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// cpu is what this process, load and all, has used of the processors: unlike req/s it doesn't depend on what else runs.
func cpu() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// skipAnswer reads an answer with as little work as there can be, so that the load doesn't take the time it measures.
func skipAnswer(in *bufio.Reader) (status string, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil || len(line) < 12 {
		return "", err
	}
	status = string(line[9:12])
	length := 0
	for {
		if line, err = in.ReadSlice('\n'); err != nil {
			return status, err
		}
		if len(line) == 2 {
			_, err = io.CopyN(io.Discard, in, int64(length))
			return status, err
		}
		const field = "Content-Length: "
		if len(line) > len(field) && string(line[:len(field)]) == field {
			for _, c := range line[len(field) : len(line)-2] {
				length = length*10 + int(c-'0')
			}
		}
	}
}
