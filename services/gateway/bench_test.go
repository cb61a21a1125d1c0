package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
	"github.com/rumi-ai/rumi/libs/store"
	tokenstore "github.com/rumi-ai/rumi/services/gateway/internal/store"
)

const inFlight = 16

// BenchmarkRead is design.md's number: authenticated reads through one service over mutual TLS, the rate limit on,
// 16 in flight. Load, gateway and service share the machine.
func BenchmarkRead(b *testing.B) {
	w := readWorld(b)
	load(b, w.address, head("GET /api/packs"))
}

// BenchmarkTokens is BenchmarkRead with a token of the database, alone or among ten thousand: design.md wants both to cost the same.
func BenchmarkTokens(b *testing.B) {
	for _, n := range []int{1, 10000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			w := readWorld(b)
			one := w.issue(b, `{"name": "one", "role": "viewer", "scopes": [{"verbs": ["*.read"]}]}`)
			w.multiply(b, one.Metadata.ID, n-1)
			if list := w.listed(b); len(list) != n+1 {
				b.Fatalf("the list has %d tokens, want %d and init", len(list), n)
			}
			load(b, w.address, []byte(strings.Replace(string(head("GET /api/packs")), apiToken, one.Token, 1)))
		})
	}
}

// multiply adds n tokens to the database that are like another one but for id, name and secret.
func (w *world) multiply(b *testing.B, id string, n int) {
	b.Helper()
	db, err := store.Open(b.Context(), store.Config{Dir: filepath.Join(w.UserData(), "state"), Service: "gateway"}, tokenstore.Migrations)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	err = db.Tx(b.Context(), func(tx *store.Tx) error {
		if _, err := tx.Exec("UPDATE token_revision SET revision = revision + 1"); err != nil {
			return err
		}
		for i := range n {
			_, err := tx.Exec(`INSERT INTO tokens SELECT ?, ?, role, scopes, notes, lineage, ?, old_hash, old_until, created_at, created_by, expires_at, rotated_at,
				rotated_by, revoked_at, revoked_by, r.revision FROM tokens, (SELECT revision FROM token_revision) AS r WHERE id = ?`,
				fmt.Sprintf("%012d", i), fmt.Sprintf("t%d", i), fmt.Sprintf("%064d", i), id)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	time.Sleep(time.Second) // until the gateway has read them
}

// readWorld starts a gateway before one service with one answer.
func readWorld(b *testing.B) *world {
	b.Helper()
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
	w.address = server.Address
	return w
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
