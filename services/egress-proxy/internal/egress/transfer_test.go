package egress

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/record"
)

// eventually waits for what another goroutine does.
func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	for began := time.Now(); !is(); time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			w.t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// metric is the sum of a metric's values, of those with a label's value where that isn't "".
func (w *world) metric(name, label string) (sum float64) {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func (w *world) streams(kind record.Kind) float64 {
	return w.metric("rumi_egress_streams", string(kind))
}

// moved is what the metrics say of bytes, both ways.
func (w *world) moved() float64 {
	return w.metric("rumi_egress_sent_bytes_total", "") + w.metric("rumi_egress_received_bytes_total", "")
}

// What lasts is in the audit log from its decision on, so that a crash loses nothing of that, and its bytes are as they move.
func TestWhatLastsIsWrittenDownAtOnce(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	serve := func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			echoUpgrade("websocket")(rw, r)
			return
		}
		if r.URL.Path == "/events" {
			rw.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			io.WriteString(rw, "data: 1\n\n")
			rw.(http.Flusher).Flush()
		}
		io.Copy(io.Discard, r.Body)
		<-release
	}
	w.site("x.example", "93.184.216.34", false, serve)
	w.site("x.example", "93.184.216.34", true, serve)
	path := w.socket()
	open := func(text string) io.Closer {
		c := dialSocket(t, path)
		io.WriteString(c, strings.ReplaceAll(text, "\n", "\r\n"))
		return c
	}
	for _, test := range []struct {
		kind   record.Kind
		method string
		open   func() io.Closer
	}{
		{record.KindTunnel, "CONNECT", func() io.Closer {
			c := tls.Client(connect(t, path, "x.example:443"), &tls.Config{ServerName: "x.example", RootCAs: w.roots})
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			return c
		}},
		{record.KindWebSocket, "GET", func() io.Closer {
			return open("GET ws://x.example/ws HTTP/1.1\nHost: x.example\nConnection: Upgrade\nUpgrade: websocket\n\nhello")
		}},
		{record.KindHTTP, "GET", func() io.Closer { return open("GET http://x.example/events HTTP/1.1\nHost: x.example\n\n") }},
		{record.KindHTTP, "POST", func() io.Closer {
			return open("POST http://x.example/upload HTTP/1.1\nHost: x.example\nTransfer-Encoding: chunked\n\n5\nhello\n")
		}},
		{record.KindHTTP, "PUT", func() io.Closer {
			return open("PUT http://x.example/upload HTTP/1.1\nHost: x.example\nContent-Length: 70000\n\nhello")
		}},
	} {
		before := w.moved()
		c := test.open()
		var begin string
		w.eventually(test.method+": an entry at its beginning", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.early) == 1
		})
		e := w.recordedEarly()[0]
		begin, _ = e.Details["request_id"].(string)
		if e.Phase != "begin" || e.Details["method"] != test.method || e.Details["domain"] != "x.example" || e.Details["allowed"] != true || begin == "" {
			t.Errorf("%s: the early entry is %+v, want the begin of an allowed request to x.example, with an ID", test.method, e)
		}
		w.eventually(test.method+": the gauge and the bytes", func() bool {
			w.proxy.recorder.Observe(time.Now())
			return w.streams(test.kind) == 1 && w.moved() > before
		})
		if all := w.recordedEarly(); len(all) != 0 {
			t.Errorf("%s: a second entry within minutes: %+v, want none", test.method, all)
		}
		w.proxy.recorder.Observe(time.Now().Add(record.ProgressEvery))
		all := w.recordedEarly()
		if len(all) != 1 || all[0].Phase != "progress" || all[0].Details["request_id"] != begin || all[0].Details["bytes"].(int64)+all[0].Details["bytes_sent"].(int64) <= 0 {
			t.Errorf("%s: after some minutes: %+v; want one progress of the request, with its bytes", test.method, all)
		}
		c.Close()
		last := w.recorded(1)[0]
		if last.Phase != "end" || last.Details["request_id"] != begin {
			t.Errorf("%s: at the end: %+v, want request_id %s", test.method, last, begin)
		}
		if n := w.streams(test.kind); n != 0 {
			t.Errorf("%s: %v are under way at the end", test.method, n)
		}
	}
	close(release)
}

// An ordinary request leaves one entry, unless it takes long.
func TestOrdinaryRequestsLeaveOneEntry(t *testing.T) {
	w := newWorld(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-release
		}
		rw.(http.Flusher).Flush() // of unknown length
		io.WriteString(rw, "hello")
	})
	c := w.browser()
	for _, ask := range []func(path string){
		func(path string) { w.ask("GET", "http://x.example"+path) },
		func(path string) { w.ask("POST", "http://x.example"+path, "body", strings.Repeat("x", 1<<20-1000)) },
		func(path string) {
			if r, err := c.Post("http://x.example"+path, "text/plain", strings.NewReader("body")); err == nil {
				io.Copy(io.Discard, r.Body)
			}
		},
	} {
		ask("/")
		if e := w.recorded(1)[0]; e.Phase != "" || len(w.recordedEarly()) != 0 {
			t.Errorf("entry of an ordinary request: %+v, want no phase, and no entry before it", e)
		}
		go ask("/slow")
		<-arrived
		w.proxy.recorder.Observe(time.Now())
		if all := w.recordedEarly(); len(all) != 0 {
			t.Errorf("at once: %+v; want no progress yet", all)
		}
		w.proxy.recorder.Observe(time.Now().Add(record.BeginAfter))
		all := w.recordedEarly()
		release <- struct{}{}
		e := w.recorded(1)[0]
		if len(all) != 1 || all[0].Phase != "begin" || e.Phase != "end" || all[0].Details["request_id"] != e.Details["request_id"] {
			t.Errorf("after a second: %+v, at the end: %+v; want a begin and an end of one request", all, e)
		}
	}
}

// What can't be written down doesn't happen.
func TestNothingLastsThatIsNotWrittenDown(t *testing.T) {
	w := newWorld(t)
	got := w.quietSite("x.example", "93.184.216.34", "443")
	w.at("x.example", "93.184.216.34", "80", w.sites["93.184.216.34:443"])
	w.auditErr = fmt.Errorf("no space left")
	path := w.socket()
	for _, request := range []string{
		"CONNECT x.example:443 HTTP/1.1\r\nHost: x.example:443\r\n\r\n",
		"POST http://x.example/ HTTP/1.1\r\nHost: x.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	} {
		c := dialSocket(t, path)
		io.WriteString(c, request)
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := readRefusal(t, r); r.StatusCode != 500 || got.ErrorType != "internal_error" {
			t.Errorf("%.20q: got %d %+v, want 500 internal_error", request, r.StatusCode, got)
		}
	}
	if _, dialled := w.contacts(); dialled != nil {
		t.Errorf("dialled %v and sent %d times, want neither", dialled, len(got))
	}
}

// What has an entry of its beginning has one of its end, also if more fail than have entries of their own.
func TestWhatLastsHasAnEnd(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Refusals = 1 })
	w.site("x.example", "93.184.216.34", true, func(http.ResponseWriter, *http.Request) {})
	path := w.socket()
	const tunnels = 5
	for range tunnels {
		c := dialSocket(t, path)
		io.WriteString(c, "CONNECT x.example:443 HTTP/1.1\r\nHost: x.example:443\r\n\r\n")
		tls.Client(c, &tls.Config{ServerName: "other.example", InsecureSkipVerify: true}).Handshake() // is refused
		c.Close()
	}
	ends := 0
	for _, e := range w.recorded(2 * tunnels) { // each with one of the denial
		if e.Phase == "end" {
			ends++
		}
	}
	if begins := len(w.recordedEarly()); begins != tunnels || ends != tunnels {
		t.Errorf("%d entries of beginnings and %d of ends, want %d of each", begins, ends, tunnels)
	}
}
