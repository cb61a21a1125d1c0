package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/rumi-ai/rumi/e2e/bench/internal/baseline"
	"github.com/rumi-ai/rumi/e2e/bench/internal/load"
	"github.com/rumi-ai/rumi/e2e/bench/internal/table"
)

// gateway measures authenticated reads through the gateway, beside reverse proxies that check nothing. These stand before the same service, to
// which they show the gateway's certificate, and before an upstream that costs almost no time.
func (b *bench) gateway(ctx context.Context) (err error) {
	const pack = "bench-gateway"
	if err := errors.Join(b.install(ctx, pack, nil), b.grantNetwork(ctx, pack, 443, "api.example.com")); err != nil {
		return err
	}
	upstream, err := load.NewUpstream()
	if err != nil {
		return err
	}
	defer upstream.Close()
	tools, stop, err := b.reverseProxies(ctx, upstream.Address())
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return err
	}
	if err := b.manyTokens(ctx, pack); err != nil {
		return err
	}
	for i, read := range []struct{ path, service string }{{"/api/network/list", "egress-proxy"}, {"/api/packs", "approval"}} {
		client := func(address, want string) func() (*load.Client, error) {
			return load.HTTP("tcp", address, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", read.path, b.suite.API.Token), 200, want)
		}
		contestants := []load.Contestant{{Name: "the gateway", PIDs: []int{b.suite.PID("gateway")}, Open: client(b.suite.Address("gateway"), pack)}}
		var rows []reverseProxy
		for _, t := range tools {
			want := pack
			if t.service == "" && i == 0 {
				want = load.UpstreamSays
			} else if t.service != read.service {
				continue
			}
			rows = append(rows, t)
			if t.tool != nil {
				contestants = append(contestants, load.Contestant{Name: t.name, PIDs: t.tool.PIDs(), Open: client(t.tool.Address, want)})
			}
		}
		s, err := load.Compare(ctx, b.plan(few), contestants...)
		if err != nil {
			return err
		}
		b.gatewayRows(read.path, rows, s)
	}
	return nil
}

// gatewayRows compares the gateway's summary, the first, with those of the reverse proxies that are installed, in the order of rows.
func (b *bench) gatewayRows(path string, rows []reverseProxy, summaries []load.Summary) {
	ours, rest := summaries[0], summaries[1:]
	for _, t := range rows {
		var theirs load.Summary
		if t.tool != nil {
			theirs, rest = rest[0], rest[1:]
		}
		b.row(rate("gateway, GET "+path+", 16 in flight", gatewayRates[t.name], ours, t.name, theirs, gatewayPublished[t.name]))
		if t.name == "nginx" {
			b.row(table.Row{
				Path: "gateway, GET " + path + ", CPU of a request", Unit: table.Seconds, Goal: table.Goal{Ratio: 2.2},
				Ours: ours.CPU.Seconds(), Beside: t.name, Theirs: theirs.CPU.Seconds(),
			})
		}
	}
}

// gatewayPublished are numbers from elsewhere, for the reader.
var gatewayPublished = map[string]string{"Caddy": "Caddy 12,100/s; original 800–1,100/s", "nginx": "nginx 31,000/s"}

// gatewayRates are the goals beside the reverse proxies before the same service. These check no token, count nothing and trace nothing.
var gatewayRates = map[string]table.Goal{"Caddy": {Ratio: 1.3}, "nginx": {Ratio: 0.7}}

// manyTokens makes tokens, and compares reads with one of them with reads with init's token, which is in no database.
func (b *bench) manyTokens(ctx context.Context, pack string) error {
	one, err := b.makeTokens(ctx)
	if err != nil {
		return err
	}
	contestant := func(name, token string) load.Contestant {
		request := fmt.Sprintf("GET /api/network/list HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n", token)
		return load.Contestant{Name: name, PIDs: []int{b.suite.PID("gateway")}, Open: load.HTTP("tcp", b.suite.Address("gateway"), request, 200, pack)}
	}
	s, err := load.Compare(ctx, b.plan(few), contestant("one of them", one), contestant("init's token", b.suite.API.Token))
	if err != nil {
		return err
	}
	b.row(rate(fmt.Sprintf("gateway, one of %d tokens, %d in flight", b.scale.tokens, few), table.Goal{Ratio: 0.9}, s[0], "init's token", s[1], ""))
	return nil
}

// makeTokens makes all tokens, some at a time, and returns one of them.
func (b *bench) makeTokens(ctx context.Context) (one string, err error) {
	var next atomic.Int64
	made := make([]string, few)
	problems := make([]error, few)
	var work sync.WaitGroup
	for worker := range few {
		work.Go(func() {
			for i := next.Add(1); i <= int64(b.scale.tokens) && problems[worker] == nil; i = next.Add(1) {
				var issued struct {
					Token string `json:"token"`
				}
				problems[worker] = b.post(ctx, "/api/tokens", map[string]any{"name": fmt.Sprintf("bench-%d", i), "role": "viewer"}, &issued)
				made[worker] = issued.Token
			}
		})
	}
	work.Wait()
	return made[0], errors.Join(problems...)
}

// reverseProxy is a tool before a service, or before the bare upstream where service is "".
type reverseProxy struct {
	name, service string
	tool          *baseline.Tool // nil where it isn't installed
}

// reverseProxies starts Caddy and nginx before each service and before the bare upstream. The caller calls stop, also after an error.
func (b *bench) reverseProxies(ctx context.Context, upstream string) (tools []reverseProxy, stop func() error, err error) {
	stop = func() error {
		var problems []error
		for _, t := range tools {
			if t.tool != nil {
				problems = append(problems, t.tool.Stop())
			}
		}
		return errors.Join(problems...)
	}
	for _, service := range []string{"egress-proxy", "approval", ""} {
		to, before := baseline.Target{Address: upstream}, " before a bare upstream"
		if service != "" {
			to, before = baseline.Target{Address: b.suite.Address(service), Name: service, Identity: b.suite.Identity("gateway")}, ""
		}
		for name, start := range map[string]func(context.Context, string, baseline.Target) (*baseline.Tool, error){"Caddy": baseline.Caddy, "nginx": baseline.Nginx} {
			dir, err := b.suite.Dir(name)
			if err != nil {
				return tools, stop, err
			}
			tool, err := start(ctx, dir, to)
			if err != nil && !errors.Is(err, baseline.ErrAbsent) {
				return tools, stop, err
			}
			tools = append(tools, reverseProxy{name + before, service, tool})
		}
	}
	slices.SortStableFunc(tools, func(x, y reverseProxy) int { return strings.Compare(x.name, y.name) })
	return tools, stop, nil
}
