package main

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"time"

	"github.com/rumi-ai/rumi/api/approval"
	api "github.com/rumi-ai/rumi/api/egress"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/gate/packsockets"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/statecount"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/snapshot"
	"github.com/rumi-ai/rumi/libs/tracing"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/denials"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/dns"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/egress"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/httpapi"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/issuer"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/packspans"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/quota"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/resolve"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/selfaddr"
	grantstore "github.com/rumi-ai/rumi/services/egress-proxy/internal/store"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

func main() { service.Main(api.Service, builder(resolvers)) }

// resolvers returns one resolver for packs and one for ourselves, so that packs can't exhaust the slots of ours.
func resolvers(cfg config) (packs, suite resolve.Resolver) {
	if len(cfg.DNS) > 0 {
		return dns.New(cfg.DNS), dns.System()
	}
	return dns.System(), dns.System()
}

// builder returns the function that wires the service up. Tests give it other resolvers.
func builder(resolvers func(config) (packs, suite resolve.Resolver)) service.Build[config] {
	return func(ctx context.Context, rt *service.Runtime, cfg config) error {
		verify, err := newVerification(rt, cfg)
		if err != nil {
			return err
		}
		db, err := store.Open(ctx, rt.Store(), grantstore.Migrations)
		if err != nil {
			return err
		}
		rt.OnStop("store", func(context.Context) error { return db.Close() })
		rt.ReadyWhen("store", db.Ping)
		rt.ReadyWhenWritable("state folder", "state", filepath.Join(rt.UserData, "state"))
		ceiling, err := rt.OpenPolicy()
		if err != nil {
			return err
		}
		rows := grantstore.NewGrants(db)
		grants, err := grant.Open(ctx, rows, ceiling, rt.Log, snapshot.NewPropagation(rt.Metrics, "network_grants", rows.Changed))
		if err != nil {
			return err
		}
		rt.Metrics.MustRegister(countGrants(grants))
		denied := denials.New(grantstore.NewDenials(db), rt.Log)
		rt.OnStop("denials", denied.Flush)
		rt.Go("denials", denied.Run)
		daily := quota.New(grantstore.NewUsage(db), int64(cfg.DailyBytes), rt.Log)
		if err := daily.Flush(ctx); err != nil { // reads what packs sent today before this process started
			return fmt.Errorf("read bytes sent today: %w", err)
		}
		rt.OnStop("quota", daily.Flush)
		rt.Go("quota", daily.Run)
		view, policy := gate.NewView(rt.Log), cfg.addresses()
		rt.Metrics.MustRegister(view)
		view.Trace(rt.Tracer)
		resolver, suite := resolvers(cfg)
		finder := &selfaddr.Finder{Policy: policy, Listening: rt.Listening(), Directory: neighbours(rt), Lookup: suite.Lookup}
		finder.Scan(ctx)
		rt.Go("own addresses", finder.Run)

		border := rt.PackBorder()
		spans := packspans.New(packspans.Config{Key: border.Key, Rate: int(cfg.SpanLimit), Traces: rt.Tracing, Log: rt.Log, Metrics: rt.Metrics})
		rt.Go("spans of packs", spans.Run)
		proxy := egress.New(egress.Config{
			Gates: view, Grants: grants, Addresses: policy, Resolver: resolver, Dial: upstream.Dial, TLS: verify.config,
			Denials: denied, Quota: daily, Rate: int(cfg.RateLimit), Refusals: int(cfg.Refusals), Audit: rt.Audit, Log: rt.Log, Metrics: rt.Metrics, Tracer: rt.Tracer, Border: border, Spans: spans,
		})
		rt.OnStop("refusals", proxy.Flush)
		rt.Go("refusals", proxy.Record)
		rt.Go("idle connections", proxy.Sweep)
		if err := auditMode(ctx, rt.Audit, cfg); err != nil {
			return err
		}
		sockets := packsockets.New(uds.SetConfig{
			Dir: cfg.SockDir, Home: rt.Identity.Home, Mode: fs.FileMode(cfg.SockMode), GID: cfg.SockGID, Handler: proxy.Handler,
			Limits: uds.Limits{Request: egress.MaxRequest}, Log: rt.Log, Metrics: rt.Metrics,
		}, func(packID string) { proxy.Forget(packID); spans.Forget(packID) })
		rt.Go("sockets", sockets.Run)
		rt.ReadyWhen("sockets", func(context.Context) error {
			return service.WithFix(sockets.Ready(), "run: docker compose up --detach")
		})

		grants.OnNarrow(proxy.Cut)
		rt.Go("grants", grants.Follow)
		view.OnChange(proxy.GateChanged)
		view.OnChange(sockets.GateChanged)
		rt.Go("gates", func(ctx context.Context) error { return view.Follow(ctx, rt.Peer(approval.Service)) })
		parts := httpapi.Parts{Grants: grant.NewService(grants, view, rt.Audit), Denials: denied, Addresses: policy, Ceiling: ceiling, Remove: sockets.Remove}
		if cfg.OIDCIssuer != "" {
			if parts.Issuer, err = issuer.New(issuer.Config{Issuer: cfg.OIDCIssuer, Addresses: policy, Resolver: resolver, TLS: verify.config}); err != nil {
				return err
			}
		}
		return httpapi.Serve(rt.Mux(), parts)
	}
}

// neighbours gives the host:port of the other services, of the database and of the collector of traces, by name, as far as they are configured.
func neighbours(rt *service.Runtime) map[string][]string {
	all := map[string][]string{}
	maps.Copy(all, rt.Directory())
	for name, at := range map[string]struct{ url, port string }{"postgres": {rt.Store().URL, "5432"}, "collector": {tracing.CollectorURL(), "4318"}} {
		if u, err := url.Parse(at.url); err == nil && u.Host != "" {
			all[name] = []string{net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), at.port))}
		}
	}
	return all
}

// auditMode writes an audit entry if packs' sockets are open to every process that can enter their folder (RUMI_EGRESS_SOCKET_MODE=0666).
func auditMode(ctx context.Context, log *audit.Log, cfg config) error {
	if !cfg.SockMode.relaxed() {
		return nil
	}
	return log.Write(ctx, audit.Entry{
		Category: audit.Security, Severity: audit.Warning, Action: "socket_mode_relaxed", Success: true,
		Details: map[string]any{"socket": "egress", "mode": "0666"},
	})
}

// countGrants is the gauge of the grants in memory.
func countGrants(grants *grant.Cache) *statecount.Gauge {
	return statecount.New("rumi_grants", "Grants by state: active, or suspended by the policy. Revoked and expired ones are not counted.", "state",
		[]string{"active", "suspended"}, statecount.Memory(func() statecount.Counts {
			active, suspended := grants.Counts(time.Now())
			return statecount.Counts{"active": active, "suspended": suspended}
		}))
}
