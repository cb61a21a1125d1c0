package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/rumi-ai/rumi/libs/tracing/tracingtest"
)

// ownSpans is a body of OTLP with n spans of a name, gzipped. Ids begin with first.
func ownSpans(t testing.TB, name string, first, n int) []byte {
	t.Helper()
	now := uint64(time.Now().UnixNano())
	spans := make([]*tracepb.Span, n)
	for i := range spans {
		id := binary.BigEndian.AppendUint64(nil, uint64(first+i))
		spans[i] = &tracepb.Span{TraceId: append(id, id...), SpanId: id, Name: name, StartTimeUnixNano: now, EndTimeUnixNano: now}
	}
	plain, err := proto.Marshal(&collectorpb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{Spans: spans}}}}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(plain)
	z.Close()
	return out.Bytes()
}

// sendSpans sends a body over a connection, and returns the status of the answer.
func sendSpans(c net.Conn, in *bufio.Reader, body []byte) (status int, err error) {
	head := fmt.Sprintf("POST /v1/traces HTTP/1.1\r\nHost: 127.0.0.1:4318\r\nContent-Type: application/x-protobuf\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n", len(body))
	if _, err := c.Write(append([]byte(head), body...)); err != nil {
		return 0, err
	}
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, r.Body)
	return r.StatusCode, err
}

// ofPack are the spans that a collector got of a pack.
func ofPack(collector *tracingtest.Receiver, pack string) (n int) {
	for _, s := range collector.Spans() {
		if s.Resource["service.name"] == "pack:"+pack {
			n++
		}
	}
	return n
}

// flood is a pack that sends as many spans as it can, over many connections, until stop is called.
func (r *rig) flood(pack string) (stop func() (answers int64)) {
	r.Helper()
	body := ownSpans(r, "flood", 1, 1024)
	var stopped atomic.Bool
	var answers atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		c := r.dial(pack)
		all.Go(func() {
			in := bufio.NewReader(c)
			for !stopped.Load() {
				if _, err := sendSpans(c, in, body); err != nil {
					return
				}
				answers.Add(1)
			}
		})
	}
	return func() int64 {
		stopped.Store(true)
		all.Wait()
		return answers.Load()
	}
}

// requests counts the requests of a pack to a server that are answered within a time, one after the other.
func (r *rig) requests(c net.Conn, url string, within time.Duration) (n int) {
	r.Helper()
	for began := time.Now(); time.Since(began) < within; n++ {
		if a := r.ask(c, url); !a.Success {
			r.Fatalf("the request was answered %+v, want success", a)
		}
	}
	return n
}

// A pack that floods the proxy with spans costs others nothing: their spans all arrive, and their requests are as fast.
func TestFloodOfSpans(t *testing.T) {
	collector := tracingtest.New(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	r := newRig(t, map[string]string{"RUMI_LOG_LEVEL": "error"})
	url, port := upstreamServer(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	for _, id := range []string{"flood", "quiet", "busy"} {
		r.pack(id, "approved")
	}
	busy, quiet := r.dial("busy"), r.dial("quiet")
	r.grant("busy", `"127.0.0.1"`, port)
	in, sent := bufio.NewReader(quiet), 0
	send := func() {
		sent++
		if status, err := sendSpans(quiet, in, ownSpans(t, "quiet", sent, 1)); status != http.StatusOK {
			t.Errorf("a span of the quiet pack was answered %d, %v; want 200", status, err)
		}
	}
	r.eventually("the collector to be found", func() bool { send(); time.Sleep(50 * time.Millisecond); return ofPack(collector, "quiet") > 0 })

	collector.Forget()
	sent = 0
	const round = 700 * time.Millisecond
	var alone, beside int
	var answers int64
	began := time.Now()
	for range 3 { // in turns, since the machine has other work
		alone += r.requests(busy, url, round)
		stop := r.flood("flood")
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 10 {
				send()
				time.Sleep(round / 10)
			}
		}()
		beside += r.requests(busy, url, round)
		<-done
		answers += stop()
	}
	took := time.Since(began)
	r.eventually("all spans of the quiet pack", func() bool { return ofPack(collector, "quiet") == sent })
	flooded := ofPack(collector, "flood")
	t.Logf("requests: %d alone, %d beside a flood (%.2f); the flood got %d answers in %v, and %d spans to the collector", alone, beside, float64(beside)/float64(alone), answers, took, flooded)
	if float64(beside) < 0.5*float64(alone) {
		t.Errorf("%d requests beside a flood of spans, %d without; want about as many", beside, alone)
	}
	if most := 2048 + 100*int(took.Seconds()+2); flooded > most {
		t.Errorf("%d spans of the flood came through, want %d at most", flooded, most)
	}
}

// The collector believes what it is sent. A pack may not reach it itself, whatever is opened and granted.
func TestCollectorIsNoDestination(t *testing.T) {
	collector := tracingtest.New(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	r := newRig(t, nil)
	r.pack("p", "approved")
	c := r.dial("p")
	r.grant("p", `"127.0.0.1"`, collector.URL[len("http://127.0.0.1:"):])
	if a := r.ask(c, collector.URL+"/v1/traces"); a.Success || a.ErrorType != "blocked" {
		t.Errorf("a request to the collector was answered %+v, want that it is blocked", a)
	}
}
