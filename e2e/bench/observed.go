package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/e2e/bench/internal/load"
	"github.com/rumi-ai/rumi/e2e/bench/internal/suite"
	"github.com/rumi-ai/rumi/e2e/bench/internal/table"
	"github.com/rumi-ai/rumi/libs/periodic"
)

const (
	scrapeInterval = time.Second      // fifteen times as often as deploy/monitoring does
	recordWait     = 30 * time.Second // until a suite has found the collector
)

// watching is how a suite is watched while it is measured.
type watching struct {
	name   string
	share  string // of the traces that are recorded; "" for none
	goal   float64
	suite  *suite.Suite
	world  *egressWorld
	spans  *spanSink
	ending []func() error
}

// observed measures what metrics and traces cost: gateway and egress of three suites in turns. Nobody watches the first one. The others are scraped
// each second, and record all traces or one of a hundred. The collector takes what comes, in this process, on the same processors.
func (b *bench) observed(ctx context.Context) (err error) {
	all := []*watching{{name: "nobody watches"}, {name: "all traces", share: "1", goal: 0.85}, {name: "1 % of traces", share: "0.01", goal: 0.95}}
	for _, w := range all {
		defer func() { err = errors.Join(err, w.end()) }()
		if err := b.watch(ctx, w); err != nil {
			return err
		}
	}
	for _, path := range []struct {
		name, service string
		open          func(*watching) func() (*load.Client, error)
	}{
		{"gateway, GET /api/network/list", "gateway", func(w *watching) func() (*load.Client, error) {
			request := fmt.Sprintf("GET /api/network/list HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", w.suite.API.Token)
			return load.HTTP("tcp", w.suite.Address("gateway"), request, 200, w.world.pack)
		}},
		{"egress request, framed", "egress-proxy", func(w *watching) func() (*load.Client, error) {
			return w.world.framed("http://"+w.world.upstream.Address()+"/x", load.UpstreamSays)
		}},
		{"egress request, plain HTTP", "egress-proxy", func(w *watching) func() (*load.Client, error) {
			return proxied("unix", w.world.socket, w.world.upstream.Address(), 200, load.UpstreamSays)
		}},
	} {
		var contestants []load.Contestant
		for _, w := range all {
			contestants = append(contestants, load.Contestant{Name: w.name, PIDs: []int{w.suite.PID(path.service)}, Open: path.open(w)})
		}
		s, err := load.Compare(ctx, b.plan(few), contestants...)
		if err != nil {
			return err
		}
		for i, w := range all[1:] {
			b.row(rate(fmt.Sprintf("%s, scraped, %s", path.name, w.name), table.Goal{Ratio: w.goal}, s[i+1], all[0].name, s[0], ""))
		}
	}
	return errors.Join(all[1].spans.check(), all[2].spans.check())
}

// watch starts a suite, and what watches it. The caller ends it, also after an error.
func (b *bench) watch(ctx context.Context, w *watching) (err error) {
	everywhere := map[string]string{}
	if w.share != "" {
		w.spans = newSpanSink()
		w.ending = append(w.ending, w.spans.close)
		everywhere = map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": w.spans.server.URL, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": w.share}
	}
	w.suite, err = suite.Start(ctx, suite.Config{Root: b.root, Build: b.build, Settings: settings(b.image), Everywhere: everywhere})
	if w.suite != nil {
		w.ending = append(w.ending, w.suite.Stop)
	}
	if err != nil {
		return err
	}
	own := &bench{config: b.config, suite: w.suite}
	if w.world, err = own.egressWorld(ctx, "bench-observed"); err != nil {
		return err
	}
	w.ending = append(w.ending, w.world.close)
	if w.share == "" {
		return nil
	}
	scraping, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- scrape(scraping, w.suite.Admins()) }()
	w.ending = append(w.ending, func() error { stop(); return <-ended })
	return own.until(ctx, recordWait, "spans of the suite", func() (bool, error) {
		_, err := w.suite.API.Get(ctx, "/api/network/list")
		return w.spans.bytes.Load() > 0, err
	})
}

// end ends what watch has started, the last first.
func (w *watching) end() error {
	var problems []error
	for i := len(w.ending) - 1; i >= 0; i-- {
		problems = append(problems, w.ending[i]())
	}
	return errors.Join(problems...)
}

// scrape reads the metrics of services, as Prometheus asks for them, until ctx ends. The error is the first.
func scrape(ctx context.Context, admins []string) error {
	var first error
	err := periodic.Run(ctx, scrapeInterval, func(ctx context.Context) {
		for _, admin := range admins {
			if err := scrapeOne(ctx, admin); first == nil && ctx.Err() == nil {
				first = err
			}
		}
	})
	if ctx.Err() == nil {
		return err
	}
	return first
}

func scrapeOne(ctx context.Context, admin string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return fmt.Errorf("scrape: %w", err)
	}
	r.Header.Set("Accept", "application/openmetrics-text;version=1.0.0")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("scrape: %w", err)
	}
	defer answer.Body.Close()
	if n, err := io.Copy(io.Discard, answer.Body); err != nil || n == 0 || answer.StatusCode != http.StatusOK {
		return fmt.Errorf("scrape %s: %s with %d bytes, %w", admin, answer.Status, n, err)
	}
	return nil
}

// spanSink is a collector that takes spans and keeps none.
type spanSink struct {
	server *httptest.Server
	bytes  atomic.Int64 // of spans, as they came
}

func newSpanSink() *spanSink {
	s := &spanSink{}
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		s.bytes.Add(n)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	return s
}

func (s *spanSink) close() error {
	s.server.Close()
	return nil
}

// check is an error if nothing was recorded: then nothing was measured.
func (s *spanSink) check() error {
	if s.bytes.Load() == 0 {
		return errors.New("measure traces: the collector got none")
	}
	return nil
}
