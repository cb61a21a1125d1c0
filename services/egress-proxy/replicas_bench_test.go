package main

import (
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkRevoke measures how long after a revoke was answered by one replica another one still lets a request through,
// with real requests over its own socket. The goal is design.md's: p99 under 100 ms. Both share one SQLite file.
func BenchmarkRevoke(b *testing.B) {
	r := newRig(b, nil)
	url, port := upstreamServer(b, func(http.ResponseWriter, *http.Request) {})
	env := maps.Clone(r.env)
	env["RUMI_EGRESS_SOCK_DIR"] = filepath.Join(b.TempDir(), "other") // both serve, so that both can be asked
	other := secondReplica(r, env)
	r.pack("p", "approved")
	mine, theirs := r.dial("p"), other.dial("p")
	var took []time.Duration
	for b.Loop() {
		r.grant("p", `"127.0.0.1"`, port)
		other.eventually("granted there", func() bool { return other.ask(theirs, url).Success })
		r.mustCall("POST", "/api/network/revoke", `{"pack_id":"p"}`)
		began := time.Now()
		if r.ask(mine, url).Success {
			b.Fatal("granted after the answer at the replica that gave it")
		}
		for other.ask(theirs, url).Success {
		}
		took = append(took, time.Since(began))
		mine.SetDeadline(time.Now().Add(time.Minute))
		theirs.SetDeadline(time.Now().Add(time.Minute))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
}
