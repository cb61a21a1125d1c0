package egress

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/uds"
)

// BenchmarkDenials measures denials a second over a pack's real socket by connections and requests in flight on each,
// with an audit log on a real disk: each denial has its entry in security before it is answered ("each"), or is counted
// once the pack has left as many as it may ("counted"). The goal is design.md's: 50,000 a second.
func BenchmarkDenials(b *testing.B) {
	for _, c := range []struct {
		name              string
		conns, each, most int
	}{
		{"each/16x1", 16, 1, 0}, {"each/64x1", 64, 1, 0}, {"each/256x1", 256, 1, 0}, {"each/16x16", 16, 16, 0}, {"each/64x4", 64, 4, 0},
		{"counted/16x1", 16, 1, 100}, {"counted/16x16", 16, 16, 100},
	} {
		b.Run(c.name, func(b *testing.B) { benchmarkDenials(b, c.conns, c.each, c.most) })
	}
}

func benchmarkDenials(b *testing.B, conns, each, most int) {
	dir := b.TempDir()
	discard := slog.New(slog.DiscardHandler)
	log, err := audit.Open(dir, "egress-proxy", discard)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { log.Close() })
	// The service's log goes to a pipe that somebody reads, as it does in a container.
	sink, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { sink.Close() })
	w := newWorld(b, func(c *Config) {
		c.Audit, c.Log, c.Metrics, c.Refusals, c.Tracer = log, slog.New(slog.NewJSONHandler(sink, nil)), prometheus.NewRegistry(), most, uncollected()
	})
	w.grants["p"] = []string{"api.example.com"}
	l, err := uds.Listen(uds.Config{Dir: dir, Name: uds.DirName("p"), GID: -1})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { uds.Serve(ctx, l, w.proxy.Handler("p"), uds.Limits{}, discard) })
	b.Cleanup(func() { cancel(); serving.Wait() })

	share := max(1, b.N/conns/each) * each
	var clients sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for i := range conns {
		clients.Go(func() { sendDenied(b, l.Path(), i, share, each) })
	}
	clients.Wait()
	b.StopTimer()
	b.ReportMetric(float64(share*conns)/b.Elapsed().Seconds(), "denials/s")
	if err := w.proxy.Flush(ctx); err != nil {
		b.Error(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "security_*.jsonl"))
	lines := 0
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		lines += bytes.Count(raw, []byte(`"network_denied"`))
	}
	if most == 0 && lines != share*conns {
		b.Errorf("%d entries of %d denials, want one each", lines, share*conns)
	}
}

// sendDenied is a client that costs as little as can be: it sends each requests by one write and reads their answers.
func sendDenied(b *testing.B, path string, client, total, each int) {
	c, err := net.Dial("unix", path)
	if err != nil {
		b.Error(err)
		return
	}
	defer c.Close()
	var frames []byte
	for i := range each {
		request := fmt.Sprintf(`{"method":"GET","url":"https://host-%d-%d.example/x"}`, client, i)
		frames = binary.BigEndian.AppendUint32(frames, uint32(len(request)))
		frames = append(frames, request...)
	}
	buf, have := make([]byte, 64<<10), 0
	for range total / each {
		if _, err := c.Write(frames); err != nil {
			b.Error(err)
			return
		}
		for answered := 0; answered < each; {
			n, err := c.Read(buf[have:])
			if err != nil {
				b.Error(err)
				return
			}
			have += n
			at := 0
			for have-at >= 4 && have-at-4 >= int(binary.BigEndian.Uint32(buf[at:])) {
				end := at + 4 + int(binary.BigEndian.Uint32(buf[at:]))
				if !bytes.Contains(buf[at:end], []byte(`"error_type":"grant_denied"`)) {
					b.Errorf("the answer is %s, want grant_denied", buf[at:end])
					return
				}
				at = end
				answered++
			}
			have = copy(buf, buf[at:have])
		}
	}
}
