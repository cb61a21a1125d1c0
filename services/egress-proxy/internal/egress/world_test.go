package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/denials"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/dns"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/packspans"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/quota"
)

// world is everything around a proxy, in the hands of a test. Its Internet is a map from addresses to listeners on
// loopback: whatever the proxy dials, no packet leaves the machine.
type world struct {
	t       testing.TB
	proxy   *Proxy
	policy  *address.Policy
	metrics *prometheus.Registry
	spans   *tracetest.SpanRecorder
	tracing *sdktrace.TracerProvider
	packs   collector // of packs' own spans
	border  packtrace.Border

	mu       sync.Mutex
	gates    map[string]gate.State
	grants   map[string][]string // patterns; every port
	names    map[string][]string // addresses
	sites    map[string]string   // address:port → where it is served
	resolved []string
	dialled  []string
	entries  []audit.Entry
	early    []audit.Entry // of what was still under way
	traces   []string      // of each entry that was to be written
	auditErr error
	logs     bytes.Buffer
	roots    *x509.CertPool
}

// newWorld has one approved pack, "p".
func newWorld(t testing.TB, change ...func(*Config)) *world {
	spans := tracetest.NewSpanRecorder()
	w := &world{
		t: t, policy: address.NewPolicy(nil), spans: spans, tracing: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)), metrics: prometheus.NewRegistry(), roots: x509.NewCertPool(),
		gates:  map[string]gate.State{"p": {PackID: "p", Open: true, Status: "approved"}},
		border: packtrace.Border{Key: packtrace.Random(), Samples: func(trace.TraceID) bool { return true }},
		grants: map[string][]string{"p": {"*"}}, names: map[string][]string{}, sites: map[string]string{},
	}
	cfg := Config{
		Gates: w, Grants: w, Denials: denials.New(nil, slog.New(slog.DiscardHandler)), Quota: quota.New(nil, 0, slog.New(slog.DiscardHandler)), Addresses: w.policy, Resolver: w, Dial: w.dial, TLS: func() *tls.Config { return &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS12} },
		Audit: w, Log: slog.New(slog.NewJSONHandler(&w.logs, nil)), Metrics: w.metrics, Tracer: w.tracing.Tracer("test"), Border: w.border,
	}
	cfg.Spans = packspans.New(packspans.Config{Key: w.border.Key, Rate: 100, Traces: &w.packs, Log: cfg.Log, Metrics: w.metrics})
	for _, f := range change {
		f(&cfg)
	}
	w.proxy = New(cfg)
	t.Cleanup(func() {
		w.proxy.Cut("p")
		for kind, n := range w.counts() {
			if strings.HasSuffix(kind, "/other") {
				t.Errorf("%v requests were counted as %s: a reason is missing in decision.Reasons or decision.FailedKinds", n, kind)
			}
		}
	})
	return w
}

func (w *world) Get(id string) (gate.State, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.gates[id]
	return s, ok
}

func (w *world) Check(id string, host hostname.Host, shown string, _ uint16) grant.Decision {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, text := range w.grants[id] {
		if p, err := hostname.ParsePattern(text); err == nil && p.Match(host) {
			return grant.Decision{Allowed: true, Reason: grant.ReasonGranted}
		}
	}
	return grant.Decision{Reason: "Domain '" + shown + "' not in allowed list"}
}

func (w *world) Lookup(_ context.Context, name string) (dns.Answer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resolved = append(w.resolved, name)
	var addrs []netip.Addr
	for _, text := range w.names[name] {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	if addrs == nil {
		return dns.Answer{}, &dns.NotFoundError{Name: name}
	}
	return dns.Answer{Addrs: addrs, TTL: time.Minute}, nil
}

func (w *world) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	w.mu.Lock()
	w.dialled = append(w.dialled, to.String())
	site, ok := w.sites[to.String()]
	w.mu.Unlock()
	if !ok {
		return nil, errors.New("no such site in this test")
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", site)
}

func (w *world) Submit(ctx context.Context, entries ...audit.Entry) func() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.auditErr
	for _, e := range entries {
		w.traces = append(w.traces, trace.SpanContextFromContext(ctx).TraceID().String())
		if err != nil {
			continue
		}
		details := maps.Clone(e.Details)
		if details == nil {
			details = map[string]any{}
		}
		for _, a := range e.Attrs { // the caller's as soon as this returns
			details[a.Key] = a.Value.Any()
		}
		details["request_id"] = origin.Of(ctx).RequestID
		e.Details, e.Attrs = details, nil
		if e.Phase == "begin" || e.Phase == "progress" {
			w.early = append(w.early, e)
		} else {
			w.entries = append(w.entries, e)
		}
	}
	return func() error { return err }
}

// site serves h under a name, at an address, as plain HTTP on port 80 or with TLS on 443.
func (w *world) site(name, addr string, secure bool, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	port := "80"
	if secure {
		s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(w.t, w.roots, name)}}
		s.StartTLS()
		port = "443"
	} else {
		s.Start()
	}
	w.t.Cleanup(s.Close)
	w.at(name, addr, port, s.Listener.Addr().String())
	return s
}

func (w *world) at(name, addr, port, listener string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.names[name], addr) {
		w.names[name] = append(w.names[name], addr)
	}
	w.sites[net.JoinHostPort(addr, port)] = listener
}

// reply is an answer as a pack reads it.
type reply struct {
	Success    bool              `json:"success"`
	Status     *int              `json:"status_code"`
	Headers    map[string]string `json:"headers"`
	HeaderList [][2]string       `json:"header_list"`
	Body       *string           `json:"body"`
	Error      *string           `json:"error"`
	ErrorType  *string           `json:"error_type"`
	LatencyMS  *float64          `json:"latency_ms"`
	Hops       *int              `json:"redirect_hops"`
	BytesRead  *int              `json:"bytes_read"`
	FinalURL   *string           `json:"final_url"`
}

func (r reply) errorType() string {
	if r.ErrorType == nil {
		return ""
	}
	return *r.ErrorType
}

func (r reply) errorText() string {
	if r.Error == nil {
		return ""
	}
	return *r.Error
}

// raw sends a frame as pack "p".
func (w *world) raw(frame string) reply {
	w.t.Helper()
	return decode(w.t, w.proxy.Handler("p").Answer(context.Background(), []byte(frame), nil))
}

func decode(t testing.TB, answer []byte) reply {
	t.Helper()
	var r reply
	if err := json.Unmarshal(answer, &r, json.RejectUnknownMembers(true)); err != nil {
		t.Fatalf("answer %.300q: %v", answer, err)
	}
	if r.LatencyMS == nil || r.Hops == nil || r.BytesRead == nil || r.Success == (r.Error != nil) || r.Success == (r.ErrorType != nil) {
		t.Fatalf("the answer lacks a field or has both success and an error: %.300s", answer)
	}
	return r
}

// ask sends a request as pack "p"; pairs are further fields of the message.
func (w *world) ask(method, url string, pairs ...any) reply {
	w.t.Helper()
	m := map[string]any{"method": method, "url": url}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	frame, err := json.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.raw(string(frame))
}

// contacts are the lookups and connections since the last call.
func (w *world) contacts() (resolved, dialled []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	resolved, dialled = w.resolved, w.dialled
	w.resolved, w.dialled = nil, nil
	return resolved, dialled
}

// recordedEarly takes the entries of what was still under way when they were written.
func (w *world) recordedEarly() []audit.Entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	entries := w.early
	w.early = nil
	return entries
}

// audited takes the entries since the last call, but for those of recordedEarly.
func (w *world) audited() []audit.Entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	entries := w.entries
	w.entries = nil
	return entries
}

// counts are the request counters, "result/reason", as far as they are not zero.
func (w *world) counts() map[string]float64 {
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "rumi_egress_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			slices.Reverse(labels) // by name: reason, result
			if n := m.GetCounter().GetValue(); n != 0 {
				counts[strings.Join(labels, "/")] = n
			}
		}
	}
	return counts
}
