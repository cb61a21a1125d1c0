package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/dns"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/resolve"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/session"
)

// What became of a look-up or of an attempt to connect, as a label.
const (
	resultOK       = "ok"
	resultNotFound = "not_found"
	resultRefused  = "refused"
	resultTimeout  = "timeout"
	resultCanceled = "cancelled"
	resultFailed   = "failed"
)

var waitBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// timings are durations by result.
type timings map[string]prometheus.Observer

func newTimings(registry prometheus.Registerer, name, help string, results ...string) timings {
	vec := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: waitBuckets}, []string{"result"})
	registry.MustRegister(vec)
	all := make(timings, len(results))
	for _, result := range results {
		all[result] = vec.WithLabelValues(result)
	}
	return all
}

func (t timings) observe(result string, began time.Time) {
	t[result].Observe(time.Since(began).Seconds())
}

// observedResolver measures the look-ups of a resolver. It stands behind the cache, which costs no time worth knowing.
type observedResolver struct {
	resolve.Resolver
	timings timings
	running prometheus.Gauge
}

func observeResolver(r resolve.Resolver, registry prometheus.Registerer) observedResolver {
	o := observedResolver{r, newTimings(registry, "rumi_egress_resolve_duration_seconds",
		"Time of look-ups of names that were not cached.", resultOK, resultNotFound, resultTimeout, resultFailed),
		prometheus.NewGauge(prometheus.GaugeOpts{Name: "rumi_egress_resolves_running", Help: "Look-ups of names under way."})}
	registry.MustRegister(o.running)
	return o
}

// Lookup implements resolve.Resolver.
func (o observedResolver) Lookup(ctx context.Context, name string) (dns.Answer, error) {
	o.running.Inc()
	defer o.running.Dec()
	began := time.Now()
	found, err := o.Resolver.Lookup(ctx, name)
	o.timings.observe(lookupResult(err), began)
	return found, err
}

func lookupResult(err error) string {
	var none *dns.NotFoundError
	switch {
	case err == nil:
		return resultOK
	case errors.As(err, &none):
		return resultNotFound
	case timedOut(err):
		return resultTimeout
	}
	return resultFailed
}

func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT)
}

// dialer is Config.Dial.
type dialer func(ctx context.Context, to netip.AddrPort) (net.Conn, error)

// observeDial measures attempts to connect. A request to a name with several addresses may need more than one.
func observeDial(dial dialer, registry prometheus.Registerer) dialer {
	t := newTimings(registry, "rumi_egress_connect_duration_seconds",
		"Time of attempts to connect to an address of a server, without TLS; cancelled are those that another address was faster than, or that nobody needed any more.",
		resultOK, resultRefused, resultTimeout, resultCanceled, resultFailed)
	return func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		began := time.Now()
		conn, err := dial(ctx, to)
		t.observe(connectResult(ctx, err), began)
		return conn, err
	}
}

// connectResult classifies an attempt. The dialer's own error of a context that was cancelled doesn't wrap the context's.
func connectResult(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return resultOK
	case errors.Is(err, syscall.ECONNREFUSED):
		return resultRefused
	case errors.Is(ctx.Err(), context.Canceled):
		return resultCanceled
	case timedOut(err), ctx.Err() != nil:
		return resultTimeout
	}
	return resultFailed
}

// observePacks registers what is counted when it is scraped.
func observePacks(packs *session.Packs, names *resolve.Cache, registry prometheus.Registerer) {
	gauge := func(name, help string, value func() float64) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("rumi_egress_requests_waiting", "Framed requests that wait because their pack has 64 at servers.", func() float64 { return float64(packs.Waiting()) })
	gauge("rumi_egress_cached_names", "Resolved names in the cache.", func() float64 { n, _ := names.Len(); return float64(n) })
	gauge("rumi_egress_cached_names_limit", "Resolved names that the cache holds at most.", func() float64 { _, n := names.Len(); return float64(n) })
}
