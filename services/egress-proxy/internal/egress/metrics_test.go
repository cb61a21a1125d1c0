package egress

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/dns"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/session"
)

// observations are how many values a histogram has, of those with a label's value where that isn't "".
func (w *world) observations(name, label string) (n uint64) {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				n += m.GetHistogram().GetSampleCount()
			}
		}
	}
	return n
}

// series is the number of time series that a scrape gives.
func (w *world) series() int {
	w.t.Helper()
	n, err := testutil.GatherAndCount(w.metrics)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// TestHostilePackMakesNoSeries: whatever a pack makes up, it makes no time series of it.
func TestHostilePackMakesNoSeries(t *testing.T) {
	w := newWorld(t)
	w.grants["p"] = []string{"*.granted.example", "10.0.0.1"}
	w.site("x.granted.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("X-"+r.URL.Path[1:], r.Method)
		rw.WriteHeader(200 + len(r.URL.Path)%400)
	})
	path := w.socket()
	before := w.series()
	for i := range 1000 {
		w.ask(fmt.Sprintf("METHOD%d", i), fmt.Sprintf("http://host-%d.example/", i))
		w.ask("GET", fmt.Sprintf("http://host-%d.granted.example:%d/%d", i, 1+i, i), "headers", map[string]string{fmt.Sprintf("X-Name-%d", i): "x"})
		w.ask("GET", fmt.Sprintf("http://x.granted.example/%d", i), "timeout_seconds", -i)
		w.raw(fmt.Sprintf(`{"field%d":`, i))
	}
	c := dialSocket(t, path)
	in := bufio.NewReader(c)
	for i := range 300 {
		fmt.Fprintf(c, "GET http://x.granted.example/%d HTTP/1.1\r\nHost: x.granted.example\r\nX-Made-Up-%d: %d\r\nTraceparent: 00-%032x-%016x-01\r\n\r\n", i, i, i, i+1, i+1)
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, r.Body)
	}
	for i := range 100 {
		c := dialSocket(t, path)
		fmt.Fprintf(c, "MADE%d http://y%d.example/ HTTP/%d.%d\r\nHost: z\r\n\r\n", i, i, i, i)
		io.Copy(io.Discard, c)
	}
	if after := w.series(); after != before {
		t.Errorf("%d series after what the pack made up, want %d as before", after, before)
	}
}

// TestDurations: each request has a duration and a decision, look-ups and connections have theirs, and reused ones have none.
func TestDurations(t *testing.T) {
	w := newWorld(t)
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "hello") })
	w.grants["p"] = []string{"x.example", "unknown.example", "93.184.216.35"}
	for range 3 {
		if r := w.ask("GET", "http://x.example/"); !r.Success {
			t.Fatal(r.errorText())
		}
	}
	w.ask("GET", "http://unknown.example/")
	w.ask("GET", "http://93.184.216.35/") // which nobody serves
	w.ask("GET", "http://denied.example/")
	for _, test := range []struct {
		name, result string
		want         uint64
	}{
		{"rumi_egress_request_duration_seconds", "", 6},
		{"rumi_egress_decision_duration_seconds", "", 6},
		{"rumi_egress_resolve_duration_seconds", resultOK, 1},
		{"rumi_egress_resolve_duration_seconds", resultNotFound, 1},
		{"rumi_egress_resolve_duration_seconds", resultFailed, 0},
		{"rumi_egress_connect_duration_seconds", resultOK, 1},
		{"rumi_egress_connect_duration_seconds", resultFailed, 1},
	} {
		if got := w.observations(test.name, test.result); got != test.want {
			t.Errorf("%s{%s}: %d values, want %d", test.name, test.result, got, test.want)
		}
	}
	if got := w.metric("rumi_egress_cached_names", ""); got != 2 { // that there is no such name is cached, too
		t.Errorf("%v names are cached, want 2", got)
	}
	if got := w.metric("rumi_egress_cached_names_limit", ""); got != 8192 {
		t.Errorf("the limit of cached names is %v, want 8192", got)
	}
}

// TestDecisionIsMeasuredFromTheWholeRequest: a pack that sends its request's head slowly makes no decision look slow.
func TestDecisionIsMeasuredFromTheWholeRequest(t *testing.T) {
	w := newWorld(t)
	w.grants["p"] = nil
	c := dialSocket(t, w.socket())
	io.WriteString(c, "GET http://x.example/ HTTP/1.1\r\n")
	time.Sleep(300 * time.Millisecond)
	io.WriteString(c, "Host: x.example\r\n\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
		t.Fatal(err)
	}
	if n := w.observations("rumi_egress_decision_duration_seconds", ""); n != 1 {
		t.Fatalf("%d decisions, want 1", n)
	}
	if sum := w.histogramSum("rumi_egress_decision_duration_seconds"); sum > 0.2 {
		t.Errorf("the decision took %v s, want less than the 0.3 s that the pack took to ask", sum)
	}
}

func (w *world) histogramSum(name string) (sum float64) {
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetHistogram().GetSampleSum()
			}
		}
	}
	return sum
}

// TestDurationsHaveTheTrace: the durations of a request and of its decision lead to its trace, however it came and whatever came of it.
func TestDurationsHaveTheTrace(t *testing.T) {
	for name, ask := range map[string]func(w *world){
		"frame":  func(w *world) { w.ask("GET", "http://x.example/") },
		"http":   func(w *world) { w.browser().Get("http://x.example/") },
		"denied": func(w *world) { w.ask("GET", "http://other.example/") },
	} {
		w := newWorld(t)
		w.grants["p"] = []string{"x.example"}
		w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "hello") })
		ask(w)
		w.eventually(name+": a span", func() bool { return len(w.spans.Ended()) > 0 })
		want := w.spans.Ended()[0].SpanContext().TraceID().String()
		for _, histogram := range []string{"rumi_egress_request_duration_seconds", "rumi_egress_decision_duration_seconds"} {
			if got := w.exemplar(histogram); got != want {
				t.Errorf("%s: the exemplar of %s is %q, want %s", name, histogram, got, want)
			}
		}
	}
}

// exemplar is the trace of a histogram's exemplar, "" for none.
func (w *world) exemplar(name string) (trace string) {
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, b := range f.GetMetric()[0].GetHistogram().GetBucket() {
			if e := b.GetExemplar(); e != nil {
				trace = e.GetLabel()[0].GetValue()
			}
		}
	}
	return trace
}

// TestLookupsUnderWay: a look-up that hangs is counted while it does, and its result is its time-out.
func TestLookupsUnderWay(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	w := newWorld(t, func(c *Config) {
		c.Resolver = lookupFunc(func() (dns.Answer, error) {
			arrived <- struct{}{}
			<-release
			return dns.Answer{}, fmt.Errorf("ask: %w", os.ErrDeadlineExceeded)
		})
	})
	asked := make(chan reply)
	go func() { asked <- w.ask("GET", "http://x.example/") }()
	<-arrived
	if got := w.metric("rumi_egress_resolves_running", ""); got != 1 {
		t.Errorf("%v look-ups are under way, want 1", got)
	}
	release <- struct{}{}
	<-asked
	if got := w.metric("rumi_egress_resolves_running", ""); got != 0 {
		t.Errorf("%v look-ups are under way afterwards, want 0", got)
	}
	if got := w.observations("rumi_egress_resolve_duration_seconds", resultTimeout); got != 1 {
		t.Errorf("%d look-ups timed out, want 1", got)
	}
}

type lookupFunc func() (dns.Answer, error)

func (f lookupFunc) Lookup(context.Context, string) (dns.Answer, error) { return f() }

// TestWaitingRequests: of a pack's framed requests, those beyond its slots are shown as waiting.
func TestWaitingRequests(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) { <-release })
	var all sync.WaitGroup
	for range session.MaxInFlight + 3 {
		all.Go(func() { w.ask("GET", "http://x.example/") })
	}
	w.eventually("3 requests wait", func() bool { return w.metric("rumi_egress_requests_waiting", "") == 3 })
	if got := w.metric("rumi_egress_streams", "frame"); got != session.MaxInFlight+3 {
		t.Errorf("%v requests are under way, want %d", got, session.MaxInFlight+3)
	}
	close(release)
	all.Wait()
	if got := w.metric("rumi_egress_requests_waiting", ""); got != 0 {
		t.Errorf("%v requests wait at the end, want 0", got)
	}
}

// TestConnectResults: what the dialer says is one of five results.
func TestConnectResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		late, cancelLate := context.WithTimeout(t.Context(), time.Second)
		defer cancelLate()
		time.Sleep(2 * time.Second)
		for _, test := range []struct {
			ctx  context.Context
			err  error
			want string
		}{
			{t.Context(), nil, resultOK},
			{t.Context(), &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, resultRefused},
			{t.Context(), &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ETIMEDOUT)}, resultTimeout},
			{late, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, resultTimeout},
			{canceled, &net.OpError{Op: "dial", Err: net.ErrClosed}, resultCanceled},
			{t.Context(), &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}, resultFailed},
		} {
			if got := connectResult(test.ctx, test.err); got != test.want {
				t.Errorf("%v: got %s, want %s", test.err, got, test.want)
			}
		}
	})
}

// TestReasonsAreDocumented: the page of the API has each reason of a denial.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "rumi_egress_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			reason, result := m.GetLabel()[0].GetValue(), m.GetLabel()[1].GetValue()
			if result == "denied" && reason != "other" && !strings.Contains(string(page), "`"+reason+"`") {
				t.Errorf("docs/api.md lacks the reason %s", reason)
			}
		}
	}
}

// TestBytesFlow: the bytes of what takes long are counted while they move, on every way to send some, and once.
func TestBytesFlow(t *testing.T) {
	const half = 100_000
	for name, ask := range map[string]func(w *world){
		"frame": func(w *world) { w.ask("POST", "http://x.example/", "body", strings.Repeat("x", half)) },
		"http": func(w *world) {
			if r, err := w.browser().Post("http://x.example/", "text/plain", strings.NewReader(strings.Repeat("x", half))); err == nil {
				io.Copy(io.Discard, r.Body)
			}
		},
	} {
		w := newWorld(t)
		release := make(chan struct{})
		w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			rw.Write(make([]byte, half))
			rw.(http.Flusher).Flush()
			<-release
			rw.Write(make([]byte, half))
		})
		var asking sync.WaitGroup
		asking.Go(func() { ask(w) })
		const sent, received = "rumi_egress_sent_bytes_total", "rumi_egress_received_bytes_total"
		w.eventually(name+": half of the answer", func() bool {
			w.proxy.recorder.Observe(time.Now())
			return w.metric(received, "") == half && w.metric(sent, "") == half
		})
		close(release)
		asking.Wait()
		w.eventually(name+": all of it", func() bool { return w.metric(received, "") == 2*half })
		if n := w.metric(sent, ""); n != half {
			t.Errorf("%s: %v bytes were sent, want %d", name, n, half)
		}
	}
}

// TestBytesOfBrokenAnswersAreCounted: what a server has sent counts, even if its answer is of no use.
func TestBytesOfBrokenAnswersAreCounted(t *testing.T) {
	w := newWorld(t)
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Length", "10")
		io.WriteString(rw, "hello")
	})
	if r := w.ask("GET", "http://x.example/"); r.errorType() != "upstream_error" {
		t.Fatalf("got %s, want upstream_error", r.errorType())
	}
	if n := w.metric("rumi_egress_received_bytes_total", ""); n != 5 {
		t.Errorf("%v bytes were received, want 5", n)
	}
}
