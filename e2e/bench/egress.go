package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/e2e/bench/internal/baseline"
	"github.com/rumi-ai/rumi/e2e/bench/internal/load"
	"github.com/rumi-ai/rumi/e2e/bench/internal/table"
)

// The numbers of requests in flight. many is for denials: each one waits until its audit entry is on the disk, and those that wait at the same
// time share a sync.
const (
	few  = 16
	many = 256
)

// egressWorld is a pack that is granted an upstream on loopback, and a squid that allows the same upstream.
type egressWorld struct {
	pack     string
	socket   string
	upstream *load.Upstream
	squid    *baseline.Tool // nil where it isn't installed
}

func (w *egressWorld) close() error {
	err := w.upstream.Close()
	if w.squid != nil {
		err = errors.Join(err, w.squid.Stop())
	}
	return err
}

func (b *bench) egressWorld(ctx context.Context, pack string) (*egressWorld, error) {
	if err := b.install(ctx, pack, nil); err != nil {
		return nil, err
	}
	upstream, err := load.NewUpstream()
	if err != nil {
		return nil, err
	}
	w := &egressWorld{pack: pack, socket: b.suite.Socket("egress", pack), upstream: upstream}
	if err := b.grantNetwork(ctx, pack, upstream.Port(), "127.0.0.1"); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// framed opens clients that send a request as a frame on the pack's socket, as rumi_syscall does.
func (w *egressWorld) framed(url, want string) func() (*load.Client, error) {
	frame := fmt.Sprintf(`{"method":"GET","url":%q,"headers":{"Accept":"application/json"},"body":null,"timeout_seconds":30}`, url)
	return load.Frames(w.socket, []byte(frame), want)
}

// proxied opens clients that send the same request in plain HTTP to a proxy, as code that reads HTTP_PROXY does.
func proxied(network, address, target string, status int, want string) func() (*load.Client, error) {
	return load.HTTP(network, address, fmt.Sprintf("GET http://%s/x HTTP/1.1\r\nHost: %s\r\nAccept: application/json\r\n\r\n", target, target), status, want)
}

// egress measures allowed and denied requests, beside squid's.
func (b *bench) egress(ctx context.Context) (err error) {
	w, err := b.egressWorld(ctx, "bench-egress")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	dir, err := b.suite.Dir("squid")
	if err != nil {
		return err
	}
	if w.squid, err = baseline.Squid(ctx, dir, "127.0.0.1", w.upstream.Port()); err != nil && !errors.Is(err, baseline.ErrAbsent) {
		return err
	}
	target, ours := w.upstream.Address(), []int{b.suite.PID("egress-proxy")}
	allowed := []load.Contestant{
		{Name: "framed requests", PIDs: ours, Open: w.framed("http://"+target+"/x", load.UpstreamSays)},
		{Name: "plain HTTP requests", PIDs: ours, Open: proxied("unix", w.socket, target, 200, load.UpstreamSays)},
	}
	refused := []load.Contestant{
		{Name: "framed denials", PIDs: ours, Open: w.framed("http://other.example/x", `grant_denied`)},
		{Name: "plain HTTP denials", PIDs: ours, Open: proxied("unix", w.socket, "other.example", 403, "denied")},
	}
	if w.squid != nil {
		allowed = append(allowed, load.Contestant{Name: "squid's requests", PIDs: w.squid.PIDs(), Open: proxied("tcp", w.squid.Address, target, 200, load.UpstreamSays)})
		refused = append(refused, load.Contestant{Name: "squid's denials", PIDs: w.squid.PIDs(), Open: proxied("tcp", w.squid.Address, "other.example", 403, "ERR_ACCESS_DENIED")})
	}

	kinds := []string{"framed", "plain HTTP"}
	s, err := load.Compare(ctx, b.plan(few), allowed...)
	if err != nil {
		return err
	}
	for i, kind := range kinds {
		b.row(rate("egress request, "+kind+", 16 in flight", table.Goal{Bound: 12000, Ratio: 1}, s[i], "squid", third(s),
			"squid 11,800/s; Smokescreen 5,300/s; original 690/s"))
	}
	if s, err = load.Compare(ctx, b.plan(1), allowed...); err != nil {
		return err
	}
	for i, kind := range kinds {
		b.row(latency("egress request, "+kind+", 1 in flight, p50", table.Goal{Bound: 200e-6}, s[i], "squid", third(s),
			"squid 370 µs; Smokescreen 386 µs; original 1.25 ms"))
	}
	for _, inFlight := range []int{many, few} {
		if s, err = load.Compare(ctx, b.plan(inFlight), refused...); err != nil {
			return err
		}
		for i, kind := range kinds {
			var goal table.Goal
			if kind == "framed" && inFlight == many {
				goal.Bound = 50000
			}
			b.row(rate(fmt.Sprintf("egress denial, %s, %d in flight", kind, inFlight), goal, s[i], "squid", third(s), "original 2,200–3,600/s"))
		}
	}
	return nil
}

func (b *bench) plan(inFlight int) load.Plan {
	return load.Plan{InFlight: inFlight, Rounds: b.scale.rounds, Each: b.scale.each}
}

// third is the summary of the third contestant, squid; zero if it isn't installed.
func third(s []load.Summary) load.Summary {
	if len(s) < 3 {
		return load.Summary{}
	}
	return s[2]
}

// rate is a row of requests a second.
func rate(path string, goal table.Goal, ours load.Summary, name string, theirs load.Summary, published string) table.Row {
	return table.Row{
		Path: path, Unit: table.PerSecond, Goal: goal, Ours: ours.Rate, OursMore: processors(ours, theirs),
		Beside: name, Theirs: theirs.Rate, Published: published,
	}
}

// latency is a row of median latencies.
func latency(path string, goal table.Goal, ours load.Summary, name string, theirs load.Summary, published string) table.Row {
	return table.Row{
		Path: path, Unit: table.Seconds, Goal: goal, Ours: ours.P50.Seconds(), OursMore: "(p99 " + table.Seconds.Format(ours.P99.Seconds()) + ")",
		Beside: name, Theirs: theirs.P50.Seconds(), Published: published,
	}
}

// processors is a text with the processor time of a request. Unlike rates, it hardly depends on the other work of the machine.
func processors(ours, theirs load.Summary) string {
	if ours.CPU == 0 {
		return ""
	}
	text := "(" + microseconds(ours.CPU)
	if theirs.CPU > 0 {
		text += ", theirs " + microseconds(theirs.CPU)
	}
	return text + " of CPU each)"
}

func microseconds(d time.Duration) string { return fmt.Sprintf("%d µs", d.Microseconds()) }
