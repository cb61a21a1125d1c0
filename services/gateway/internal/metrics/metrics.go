// Package metrics collects the metrics of all services into one exposition: GET /api/metrics, for operators who have no Prometheus beside the
// suite.
package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/service"
)

const (
	timeout  = 5 * time.Second // for all services; a readiness check that hangs takes 1.25 s of it
	maxBytes = 8 << 20         // of one service's answer; a service has a fiftieth of it
)

// Target is one instance of a service.
type Target struct {
	Service  string
	Instance string // its address, where the service has several; else ""
	Gather   func(context.Context) ([]*dto.MetricFamily, error)
}

// Remote is the target of another service's instance.
func Remote(name, instance string, peer *client.Peer) Target {
	return Target{name, instance, func(ctx context.Context) ([]*dto.MetricFamily, error) {
		answer, err := route.Open(ctx, peer, service.MetricsOf(name), struct{}{})
		if err != nil {
			return nil, err
		}
		defer answer.Body.Close()
		return read(io.LimitReader(answer.Body, maxBytes+1))
	}}
}

// read reads families until the end.
func read(from io.Reader) (families []*dto.MetricFamily, err error) {
	counted := &counter{Reader: from}
	decoder := expfmt.NewDecoder(counted, expfmt.NewFormat(expfmt.TypeProtoDelim))
	for {
		f := &dto.MetricFamily{}
		switch err := decoder.Decode(f); {
		case counted.n > maxBytes:
			return nil, errors.New("the metrics are too long")
		case errors.Is(err, io.EOF):
			return families, nil
		case err != nil:
			return nil, err
		}
		families = append(families, f)
	}
}

type counter struct {
	io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// Own is the target of the gateway itself.
func Own(registry prometheus.Gatherer) Target {
	return Target{Service: roster.Gateway, Gather: func(context.Context) ([]*dto.MetricFamily, error) { return registry.Gather() }}
}

// Collector collects from all targets.
type Collector struct {
	targets []Target
	log     *slog.Logger
	running chan struct{} // holds a token while somebody collects: many clients at once must not make the services gather as often
}

// New makes a Collector. The targets may be changed no more.
func New(targets []Target, log *slog.Logger) *Collector {
	return &Collector{targets: targets, log: log, running: make(chan struct{}, 1)}
}

// Write answers r with families, in the format that its Accept prefers.
func Write(w http.ResponseWriter, r *http.Request, families []*dto.MetricFamily) error {
	format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultOpenMetricsAcceptedFormats()...)
	w.Header().Set("Content-Type", string(format))
	to := expfmt.NewEncoder(w, format)
	for _, f := range families {
		if err := to.Encode(f); err != nil {
			return err
		}
	}
	if last, ok := to.(expfmt.Closer); ok {
		return last.Close()
	}
	return nil
}

// Collect asks all targets at once, within timeout, and merges what they answer. A target that is away has rumi_up 0, and a family that doesn't
// fit to that of another target is left out and logged. The error is a fault: 503 where others have kept the collection busy for too long.
func (c *Collector) Collect(ctx context.Context) ([]*dto.MetricFamily, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case c.running <- struct{}{}:
		defer func() { <-c.running }()
	case <-ctx.Done():
		return nil, fault.Unavailable("The metrics are being read by others: try again").With("service_unavailable").Because(ctx.Err())
	}
	answers := make([][]*dto.MetricFamily, len(c.targets))
	var asking sync.WaitGroup
	for i, t := range c.targets {
		asking.Go(func() { answers[i] = c.ask(ctx, t) })
	}
	asking.Wait()
	return c.merge(answers), nil
}

// ask returns the metrics of a target with its labels, and rumi_up.
func (c *Collector) ask(ctx context.Context, t Target) []*dto.MetricFamily {
	families, err := t.Gather(ctx)
	if err != nil {
		c.log.WarnContext(ctx, "a service has not told its metrics", "peer", t.Service, "instance", t.Instance, "error", err)
		families = nil
	}
	families = append(families, upFamily(err == nil))
	for _, f := range families {
		for _, m := range f.GetMetric() {
			m.Label = t.label(m.GetLabel())
		}
	}
	return families
}

// label adds the target's labels. Those that the service gives itself count for nothing: a service must not speak for another.
func (t Target) label(labels []*dto.LabelPair) []*dto.LabelPair {
	pair := func(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }
	labels = slices.DeleteFunc(slices.Clone(labels), func(l *dto.LabelPair) bool { return l.GetName() == "service" || l.GetName() == "instance" })
	labels = append(labels, pair("service", t.Service))
	if t.Instance != "" {
		labels = append(labels, pair("instance", t.Instance))
	}
	slices.SortFunc(labels, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
	return labels
}

func upFamily(up bool) *dto.MetricFamily {
	name, help, kind, value := "rumi_up", "1 if the service has answered the gateway with its metrics.", dto.MetricType_GAUGE, 0.0
	if up {
		value = 1
	}
	return &dto.MetricFamily{Name: &name, Help: &help, Type: &kind, Metric: []*dto.Metric{{Gauge: &dto.Gauge{Value: &value}}}}
}

// merge makes one exposition of all answers: a family once, with the help of the first that has it (services of two versions, during an
// upgrade, may have two texts). The library leaves out what would make the exposition invalid: another type, a bad name, the same series twice.
func (c *Collector) merge(answers [][]*dto.MetricFamily) []*dto.MetricFamily {
	first := map[string]*dto.MetricFamily{}
	var all prometheus.Gatherers
	for _, families := range answers {
		for _, f := range families {
			if before, ok := first[f.GetName()]; ok {
				f.Help, f.Unit = before.Help, before.Unit
			} else {
				first[f.GetName()] = f
			}
		}
		all = append(all, prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return families, nil }))
	}
	merged, err := all.Gather()
	if err != nil {
		c.log.Warn("some metrics of services were left out", "error", err)
	}
	return slices.DeleteFunc(merged, func(f *dto.MetricFamily) bool { return len(f.GetMetric()) == 0 })
}
