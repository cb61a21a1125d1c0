package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/telemetry"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/statecount"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/gateway/internal/auditindex"
	"github.com/rumi-ai/rumi/services/gateway/internal/auditquery"
	"github.com/rumi-ai/rumi/services/gateway/internal/backups"
	"github.com/rumi-ai/rumi/services/gateway/internal/clientaddr"
	"github.com/rumi-ai/rumi/services/gateway/internal/edge"
	"github.com/rumi-ai/rumi/services/gateway/internal/events"
	"github.com/rumi-ai/rumi/services/gateway/internal/limit"
	"github.com/rumi-ai/rumi/services/gateway/internal/metrics"
	"github.com/rumi-ai/rumi/services/gateway/internal/observer"
	"github.com/rumi-ai/rumi/services/gateway/internal/overview"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
	"github.com/rumi-ai/rumi/services/gateway/internal/seals"
	"github.com/rumi-ai/rumi/services/gateway/internal/site"
	tokenstore "github.com/rumi-ai/rumi/services/gateway/internal/store"
	"github.com/rumi-ai/rumi/services/gateway/internal/token"
)

func main() { service.Main(roster.Gateway, build) }

type config struct {
	RateLimit      int      `env:"RUMI_API_RATE_LIMIT" envDefault:"120"` // requests of one address a window; 0 is no limit
	RateWindow     int      `env:"RUMI_API_RATE_WINDOW" envDefault:"60"` // seconds
	AllowedHosts   []string `env:"RUMI_ALLOWED_HOSTS"`                   // beside localhost: host or host:port
	AllowedOrigins []string `env:"RUMI_ALLOWED_ORIGINS"`                 // of pages that may use the API: scheme://host[:port]
	TrustedProxies []string `env:"RUMI_TRUSTED_PROXIES"`                 // whose X-Forwarded-For counts: addresses, networks, "host"
	TLSCertFile    string   `env:"RUMI_TLS_CERT_FILE"`                   // PEM, the server's certificate first; with the key: HTTPS
	TLSKeyFile     string   `env:"RUMI_TLS_KEY_FILE"`                    // PEM, not encrypted; may be the same file
	OIDCIssuer     string   `env:"RUMI_OIDC_ISSUER"`                     // https://…, whose tokens are admitted; egress-proxy has it, too
	OIDCClientID   string   `env:"RUMI_OIDC_CLIENT_ID"`                  // Rumi's at the issuer
	OIDCGroups     string   `env:"RUMI_OIDC_GROUPS_CLAIM"`               // the claim with a person's groups
	OIDCRoles      string   `env:"RUMI_OIDC_ROLES"`                      // group=role,…
}

// SpareHeap lets less garbage lie than in other services, so that an upload stays under 32 MiB whatever was asked before it.
func (config) SpareHeap() int { return 8 << 20 }

func build(ctx context.Context, rt *service.Runtime, cfg config) error {
	if cfg.RateLimit < 0 || cfg.RateWindow < 1 {
		return errors.New("read configuration: RUMI_API_RATE_LIMIT is at least 0, RUMI_API_RATE_WINDOW at least 1")
	}
	policy, err := site.New(cfg.AllowedHosts, cfg.AllowedOrigins)
	if err != nil {
		return err
	}
	proxies, err := clientaddr.Parse(cfg.TrustedProxies, clientaddr.DefaultGateway, rt.Log)
	if err != nil {
		return err
	}
	key, err := openFile(ctx, rt)
	if err != nil {
		return err
	}
	tokens := openTokens(ctx, rt)
	uses := token.NewUses(tokens, key)
	rt.OnStop("last uses", uses.Flush)
	rt.Go("last uses", uses.Run)
	status := backups.View{Dir: filepath.Join(rt.UserData, "backup_status"), Log: rt.Log}
	sealing := seals.View{Dir: filepath.Join(rt.UserData, "seal_status"), Log: rt.Log}
	rt.Metrics.MustRegister(status, sealing)
	who := principal.Chain{tokens, key}
	signIns, err := openSignIns(rt, cfg)
	if err != nil {
		return err
	}
	if signIns != nil {
		who = principal.Chain{tokens, signIns, key}
	}
	entries, err := openAuditLog(rt)
	if err != nil {
		return err
	}
	observe(rt)
	log := events.NewLog(filepath.Join(rt.UserData, "audit"), rt.Log)
	rt.Go("events", log.Run)
	handler, err := edge.New(edge.Config{
		Who: who, Rate: limit.New(cfg.RateLimit, time.Duration(cfg.RateWindow)*time.Second), Proxies: proxies, Site: policy,
		Peer: rt.Peer, Audit: rt.Audit, Log: rt.Log, Recorder: telemetry.NewRecorder(rt.Log, rt.Metrics, rt.Tracer, slog.LevelInfo), Metrics: rt.Metrics,
		Views: &overview.Views{Peer: rt.Peer, UserData: rt.UserData}, Readiness: rt.Readiness,
		Backups: status.Health, Seals: sealing.Health, AuditLog: entries,
		AllMetrics: allMetrics(rt),
		Events:     events.New(log, events.NewMetrics(rt.Metrics), rt.Stopping()),
		Tokens:     token.NewService(tokens, key, uses, rt.Audit),
	})
	if err != nil {
		return err
	}
	rt.Public(handler)
	return serveTLS(rt, cfg)
}

// observe has the outages of other services written into the audit log.
func observe(rt *service.Runtime) {
	others := roster.Where(func(s roster.Service) bool { return s.Name != roster.Gateway })
	o := observer.New(observer.Config{
		Dir: filepath.Join(rt.UserData, "state"), Services: others, Audit: rt.Audit, Log: rt.Log,
		Answers: func(ctx context.Context, name string) bool {
			_, err := route.Call(ctx, rt.Peer(name), service.ReadyOf(name), struct{}{})
			return err == nil || !fault.Is(err, fault.KindUnavailable) && errors.As(err, new(*fault.Fault))
		},
	})
	rt.Go("observer", o.Run)
}

// allMetrics collects the metrics of all services.
func allMetrics(rt *service.Runtime) *metrics.Collector {
	targets := []metrics.Target{metrics.Own(rt.Metrics)}
	for _, name := range roster.Names() {
		if name == roster.Gateway {
			continue
		}
		for instance, peer := range rt.Instances(name) {
			targets = append(targets, metrics.Remote(name, instance, peer))
		}
	}
	return metrics.New(targets, rt.Log)
}

// openFile opens the file of init's token.
func openFile(ctx context.Context, rt *service.Runtime) (*token.File, error) {
	key, err := token.Open(filepath.Join(rt.UserData, "settings", "gateway", "api_token"), rt.Log, func() {
		err := rt.Audit.Write(context.WithoutCancel(ctx), audit.Entry{
			Category: audit.Security, Severity: audit.Warning, Action: "api_token_changed", Success: true,
		})
		if err != nil {
			rt.Log.Error("a change of the API token could not be audited", "error", err)
		}
	})
	if err != nil {
		return nil, err
	}
	rt.ReadyWhen("api token", func(context.Context) error { return key.Ready() })
	rt.Go("api token", key.Follow)
	return key, nil
}

// openTokens opens the tokens of the database. The gateway starts without one, too: init's token works, and the operator sees in the health
// of the services what is wrong.
func openTokens(ctx context.Context, rt *service.Runtime) *token.Cache {
	var opened atomic.Pointer[store.DB]
	rt.OnStop("store", func(context.Context) error {
		if db := opened.Load(); db != nil {
			return db.Close()
		}
		return nil
	})
	tokens := token.NewCache(func(ctx context.Context) (token.Store, error) {
		db, err := store.Open(ctx, rt.Store(), tokenstore.Migrations)
		if err != nil {
			return nil, err
		}
		opened.Store(db)
		return tokenstore.NewTokens(db), nil
	}, rt.Log, rt.Metrics)
	if err := tokens.Connect(ctx); err != nil {
		rt.Log.Error("the API tokens can't be read; only init's is good until they can be", "error", err)
	}
	rt.ReadyWhen("store", func(context.Context) error { return tokens.Ready() })
	rt.ReadyWhenWritable("state folder", "state", filepath.Join(rt.UserData, "state"))
	rt.Metrics.MustRegister(statecount.New("rumi_api_tokens", "API tokens of the database by state.", "state",
		[]string{string(token.Active), string(token.Expired), string(token.Revoked), string(token.Damaged)}, tokens.Count))
	rt.Go("api tokens", tokens.Run)
	rt.Go("sessions", tokens.Enforce)
	return tokens
}

// openAuditLog makes what answers questions to the audit log, and keeps its index.
func openAuditLog(rt *service.Runtime) (*auditquery.Log, error) {
	dir, err := auditfile.OpenDir(filepath.Join(rt.UserData, "audit"))
	if err != nil {
		return nil, err
	}
	rt.OnStop("audit folder", func(context.Context) error { return dir.Close() })
	index := auditindex.Open(filepath.Join(rt.UserData, "audit_index"), dir, auditindex.DefaultSizes, rt.Log)
	rt.Go("audit index", index.Run)
	log := auditquery.New(dir, index)
	log.Metrics = auditquery.NewMetrics(rt.Metrics, log)
	return log, nil
}
