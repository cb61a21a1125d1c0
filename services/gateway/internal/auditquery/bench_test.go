package auditquery

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/services/gateway/internal/auditindex"
)

// benchDays is over how many days the entries are spread; the last one is today.
const benchDays = 30

// fill writes a log: nine of ten entries are requests of 200 packs to 500 hosts, a tenth of these is refused.
func fill(b *testing.B, dir string, entries int) {
	b.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	today := auditfile.DayOf(time.Now())
	for back := range auditfile.Day(benchDays) {
		for _, share := range []struct {
			category audit.Category
			percent  int
		}{{audit.Network, 88}, {audit.Permission, 6}, {audit.Security, 4}, {audit.Approval, 1}, {audit.System, 1}} {
			id := auditfile.ID{Category: share.category, Day: today - back}
			f, err := os.Create(filepath.Join(dir, id.Name()))
			if err != nil {
				b.Fatal(err)
			}
			w := bufio.NewWriterSize(f, 1<<20)
			n := entries / benchDays * share.percent / 100
			for i := range n {
				at := id.Day.Start().Add(time.Duration(float64(i) / float64(n) * float64(24*time.Hour)))
				writeEntry(w, rng, id, at)
			}
			if err := w.Flush(); err != nil {
				b.Fatal(err)
			}
			if err := f.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func writeEntry(w *bufio.Writer, rng *rand.Rand, id auditfile.ID, at time.Time) {
	pack, host, refused := rng.IntN(200), rng.IntN(500), rng.IntN(10) == 0
	result, reason := `"allowed":true`, ""
	if refused {
		result, reason = `"allowed":false,"blocked_reason":"grant_denied"`, `,"rejection_reason":"host-`+strconv.Itoa(host)+`.example.com:443 is in no grant of the pack"`
	}
	fmt.Fprintf(w, `{"ts":"%s","category":"%s","severity":"info","action":"network_request","success":%v,"owner_pack":"pack-%d","details":{%s,"method":"GET","host":"host-%d.example.com","port":443,"path":"/v1/items/%d","status":200,"sent_bytes":%d,"received_bytes":%d,"duration_seconds":0.0%d}%s,"request_id":"%016X%010X","trace_id":"%016x%016x","actor":"pack:pack-%d","service":"egress-proxy"}`+"\n",
		at.Format("2006-01-02T15:04:05.000000Z"), id.Category, !refused, pack, result, host, rng.IntN(10_000), rng.IntN(2000), rng.IntN(200_000), rng.IntN(100_000), reason,
		rng.Uint64(), rng.Uint64()>>24, rng.Uint64(), rng.Uint64(), pack)
}

// BenchmarkQuestions asks a log of a million entries, or of RUMI_BENCH_AUDIT_ENTRIES. RUMI_BENCH_AUDIT_DIR keeps log and index for the next run.
func BenchmarkQuestions(b *testing.B) {
	entries, _ := strconv.Atoi(os.Getenv("RUMI_BENCH_AUDIT_ENTRIES"))
	if entries == 0 {
		entries = 1_000_000
	}
	home := os.Getenv("RUMI_BENCH_AUDIT_DIR")
	if home == "" {
		home = b.TempDir()
	}
	folder := filepath.Join(home, "audit")
	if _, err := os.Stat(folder); err != nil {
		if err := os.MkdirAll(folder, 0o750); err != nil {
			b.Fatal(err)
		}
		fill(b, folder, entries)
	}
	dir, err := auditfile.OpenDir(folder)
	if err != nil {
		b.Fatal(err)
	}
	defer dir.Close()
	index := auditindex.Open(filepath.Join(home, "index"), dir, auditindex.DefaultSizes, slog.New(slog.DiscardHandler))
	began := time.Now()
	if err := index.Update(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.Logf("the index of %d entries was up to date after %v", entries, time.Since(began).Round(time.Millisecond))
	log := New(dir, index)
	night := time.Now().UTC().Truncate(24 * time.Hour).Add(-9 * 24 * time.Hour)
	for _, c := range []struct {
		name  string
		query auditfile.Query
	}{
		{"newest", auditfile.Query{}},
		{"a pack's last night", auditfile.Query{PackID: "pack-17", Since: night.Format(time.RFC3339), Until: night.Add(8 * time.Hour).Format(time.RFC3339)}},
		{"what of it was refused", auditfile.Query{PackID: "pack-17", Success: "false", Since: night.Format(time.RFC3339), Until: night.Add(8 * time.Hour).Format(time.RFC3339)}},
		{"request id that is nowhere", auditfile.Query{RequestID: "0123456789ABCDEF0123456789"}},
		{"pack that is nowhere", auditfile.Query{PackID: "nobody"}},
		{"refused in one category", auditfile.Query{Category: "security", Success: "false"}},
		{"common text", auditfile.Query{Q: "host-17.example.com"}},
		{"rare text", auditfile.Query{Q: "/v1/items/777\"", PackID: "pack-17", Category: "approval"}},
		{"text that is nowhere", auditfile.Query{Q: "evil.example.net"}},
	} {
		filter, err := c.query.Filter()
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.name, func(b *testing.B) {
			var answer *Answer
			for b.Loop() {
				if answer, err = log.Ask(context.Background(), Question{Filter: filter, Limit: DefaultLimit}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(answer.Scanned), "lines/op")
			if !answer.Complete {
				b.Error("the answer isn't complete, want one within the time of a question")
			}
		})
	}
}
