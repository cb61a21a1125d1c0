// Package edge is the public HTTP side of Rumi: it admits requests and hands them to the services that own their paths.
//
// A request passes, in this order: token, rate, route, access (role and scopes), host and origin, size of its body. A scope may be for some packs
// only, and some routes name their pack in the body; such a request is decided about after its body was read. Whatever stops a request is
// answered in the envelope of contract.md.
package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/roster"
	declared "github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/rpc/telemetry"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/services/gateway/internal/auditquery"
	"github.com/rumi-ai/rumi/services/gateway/internal/clientaddr"
	"github.com/rumi-ai/rumi/services/gateway/internal/events"
	"github.com/rumi-ai/rumi/services/gateway/internal/limit"
	"github.com/rumi-ai/rumi/services/gateway/internal/metrics"
	"github.com/rumi-ai/rumi/services/gateway/internal/overview"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
	"github.com/rumi-ai/rumi/services/gateway/internal/site"
	"github.com/rumi-ai/rumi/services/gateway/internal/token"
)

const (
	// The actor of requests without a credential that is good.
	anonymous = "anonymous"

	// Failed authentications of one address that are answered 401 before they are answered 429 (contract.md).
	maxFailures    = 10
	failuresWindow = time.Minute
)

// Config has the parts of an Edge.
type Config struct {
	Who        principal.Authenticator
	Rate       *limit.Window // of authenticated requests; nil for no limit
	Proxies    *clientaddr.Proxies
	Site       *site.Policy
	Peer       func(service string) *client.Peer
	Audit      *audit.Log
	Log        *slog.Logger
	Recorder   *telemetry.Recorder
	Metrics    prometheus.Registerer
	Views      *overview.Views
	Tokens     *token.Service
	AuditLog   *auditquery.Log
	Events     *events.Server
	Readiness  func(context.Context) service.Readiness // the gateway's own
	Backups    func() api.Backups                      // how the scheduled backups are
	AllMetrics *metrics.Collector
	Seals      func() api.Seals // how the sealing of the audit log is
}

// Edge is the public http.Handler.
type Edge struct {
	cfg          Config
	table        *route.Table
	targets      map[*route.Route]target
	peers        map[string]*client.Peer // all services that own a path
	lastAnswers  map[string]*lastAnswer  // of these
	failures     *limit.Window           // of authentication, by address
	failureNotes *limit.Window           // audit entries which say that an address is over failures
	denials      *limit.Window           // calls for want of a right, by address
	denialNotes  *limit.Window           // audit entries which say that an address is over denials
	refusals     refusals
}

// target is where a route leads.
type target struct {
	name    string // of the route, in metrics and spans
	subject declared.Subject
	handler handler
}

// New makes an Edge over route.Routes, and registers its metrics.
func New(cfg Config) (*Edge, error) {
	table, err := route.NewTable(route.Routes)
	if err != nil {
		return nil, err
	}
	e := &Edge{
		cfg:          cfg,
		table:        table,
		targets:      map[*route.Route]target{},
		peers:        map[string]*client.Peer{},
		lastAnswers:  map[string]*lastAnswer{},
		failures:     limit.New(maxFailures, failuresWindow),
		failureNotes: limit.New(1, failuresWindow),
		denials:      limit.New(maxDenials, failuresWindow),
		denialNotes:  limit.New(1, failuresWindow),
		refusals:     newRefusals(cfg.Metrics),
	}
	proxies, own := map[string]*proxy{}, e.own()
	for i := range route.Routes {
		r := &route.Routes[i]
		to := target{name: r.Name(), subject: r.Subject(), handler: own[r.Name()]}
		if r.Owner != roster.Gateway {
			if proxies[r.Owner] == nil {
				e.peers[r.Owner], e.lastAnswers[r.Owner] = cfg.Peer(r.Owner), newLastAnswer()
				proxies[r.Owner] = newProxy(r.Owner, e.peers[r.Owner], e.lastAnswers[r.Owner], cfg.Log)
			}
			to.handler = proxies[r.Owner].serve
		}
		if to.handler == nil {
			return nil, fmt.Errorf("make routes: nobody answers %s", to.name)
		}
		e.targets[r] = to
	}
	return e, nil
}

// ServeHTTP implements http.Handler.
func (e *Edge) ServeHTTP(raw http.ResponseWriter, r *http.Request) {
	began := time.Now()
	w := &answerWriter{ResponseWriter: raw, ctx: r.Context(), code: http.StatusOK}
	if w.body = rpc.TrackBody(r); w.body != nil {
		_ = http.NewResponseController(raw).SetReadDeadline(began.Add(bodyTimeout))
	}
	public := !strings.HasPrefix(r.URL.Path, "/api/")
	var who principal.Principal
	var refused error
	if !public {
		who, refused = e.cfg.Who.Authenticate(bearer(r.Header))
	}

	from := origin.Origin{RequestID: r.Header.Get(rpc.RequestIDHeader), Actor: anonymous, Address: e.clientAddress(r)}
	if !origin.ValidRequestID(from.RequestID) {
		from.RequestID = origin.NewRequestID()
	}
	if !public && refused == nil {
		from.Actor, from.Role, from.Lineage = who.Name, who.Role, who.Lineage
		who.LastUse.Note(began, from.Address)
	}
	w.Header().Set(rpc.RequestIDHeader, from.RequestID)
	rpc.ForBrowsers(w.Header())
	if public || refused != nil { // a stranger neither joins a trace nor decides that one is recorded
		r.Header.Del("Traceparent")
	}
	ctx, span := e.cfg.Recorder.Begin(r)
	ctx = principal.With(origin.With(rpc.WithLogger(ctx, e.cfg.Log), from), &who)
	r = r.WithContext(ctx)

	var to target
	defer func() {
		p := recover()
		if p != nil && p != any(http.ErrAbortHandler) {
			e.cfg.Log.ErrorContext(ctx, "panicked", "panic", p, "stack", string(debug.Stack()))
			if w.wrote {
				p = http.ErrAbortHandler
			} else {
				rpc.WriteError(ctx, w, errors.New("panic"))
				p = nil
			}
		}
		e.cfg.Recorder.End(ctx, span, r, to.name, w.code, time.Since(began))
		if p != nil {
			panic(p)
		}
		w.body.Linger(raw)
	}()
	var err error
	switch {
	case public:
		err = serveOpen(w, r)
	case refused != nil:
		err = e.refuseUnauthenticated(w, r, refused)
		e.refusals.count(err)
	default:
		err = e.serveAPI(w, &request{Request: r, who: &who}, &to)
	}
	if err != nil {
		rpc.WriteError(ctx, w, err)
	}
}

// refuseUnauthenticated answers a request without the right token: 401, or 429 once its address has failed too often. Each refusal is
// audited until the address is over the limit, and from then on one a minute: an attacker that guesses tokens must not be able to fill the
// disk with audit entries. A right token is never refused for the failures of others: it doesn't come here.
//
// Where it can't be told whether a token is good, that is the answer (503), and nobody has failed.
func (e *Edge) refuseUnauthenticated(w http.ResponseWriter, r *http.Request, why error) error {
	if _, ok := errors.AsType[*fault.Fault](why); ok {
		return why
	}
	from := origin.Of(r.Context()).Address
	address := parseAddress(from)
	within, wait := e.failures.Allow(address)
	entry := audit.Entry{
		Category: audit.Security, Severity: audit.Warning, Action: "authentication_failed", Success: false,
		Details:         map[string]any{"address": from, "method": clip(r.Method), "path": clip(r.URL.Path), "limited": !within},
		RejectionReason: "no token or a wrong one",
	}
	if once, ok := errors.AsType[*principal.RefusedError](why); ok {
		entry.Details["token"], entry.RejectionReason = once.Name, once.Reason
	}
	if within {
		e.writeAudit(r.Context(), entry)
		w.Header().Set("WWW-Authenticate", challenge(r.Header, why))
		return fault.Unauthenticated("Unauthorized").With("unauthorized")
	}
	if first, _ := e.failureNotes.Allow(address); first {
		entry.RejectionReason = "too many failed authentications; further ones are not audited for a minute"
		e.writeAudit(r.Context(), entry)
	}
	return fault.Limited("Too many failed authentications").With("too_many_failures").After(wait)
}

// serveAPI answers a request whose principal is known. to is set as soon as the route is known, so that metrics name it also where the request
// is refused afterwards.
func (e *Edge) serveAPI(w *answerWriter, r *request, to *target) (err error) {
	admitted := false
	defer func() {
		if err != nil && !admitted {
			e.refusals.count(err)
		}
	}()
	if err := e.checkRate(r.Request); err != nil {
		return err
	}
	found, allow, err := e.table.Find(r.Request)
	if allow != nil {
		w.Header().Set("Allow", strings.Join(allow, ", "))
	}
	if found != nil {
		*to = e.targets[found]
	}
	if err != nil {
		return err
	}
	r.route, r.subject = found, to.subject
	packInBody, err := e.allow(r)
	if err != nil {
		return err
	}
	if err := e.checkSite(r.Request); err != nil {
		return err
	}
	if r.URL.RawQuery != "" { // or the proxy would drop what it can't parse, and a filter with it
		if _, err := rpc.ParseQuery(r.URL.RawQuery); err != nil {
			return err
		}
	}
	stop, err := boundBody(w.ResponseWriter, r.Request, found.Class)
	defer stop()
	if err != nil {
		return err
	}
	if packInBody {
		if err := e.allowBody(r); err != nil {
			return err
		}
	}
	if r.who.Session.Ended() { // while the body came
		return sessionOver()
	}
	defer r.endWithSession(w.ResponseWriter)()
	admitted = true
	return to.handler(w, r.Request, found.Class)
}

// checkRate refuses what is beyond the rate of its address.
func (e *Edge) checkRate(r *http.Request) error {
	if e.cfg.Rate == nil {
		return nil
	}
	if ok, wait := e.cfg.Rate.Allow(parseAddress(origin.Of(r.Context()).Address)); !ok {
		return fault.Limited("Rate limit exceeded").With("rate_limited").After(wait)
	}
	return nil
}

// checkSite refuses web pages from elsewhere.
func (e *Edge) checkSite(r *http.Request) error {
	err := e.cfg.Site.Check(r)
	if err != nil {
		e.writeAudit(r.Context(), audit.Entry{
			Category: audit.Security, Severity: audit.Warning, Action: "origin_refused", Success: false,
			Details: map[string]any{
				"host": clip(r.Host), "origin": clip(r.Header.Get("Origin")), "fetch_site": clip(r.Header.Get("Sec-Fetch-Site")),
				"method": clip(r.Method), "path": clip(r.URL.Path), "address": origin.Of(r.Context()).Address,
			},
			RejectionReason: fault.Of(err).Message,
		})
	}
	return err
}

// writeAudit audits a refusal. The refusal stands whether that succeeds or not; the audit log logs its own failures.
func (e *Edge) writeAudit(ctx context.Context, entry audit.Entry) { _ = e.cfg.Audit.Write(ctx, entry) }

// bearer is the token of the one Authorization header, "" for any other scheme or number of them. Between the scheme and the token
// are one or more spaces (RFC 9110, section 11.4).
func bearer(h http.Header) string {
	values := h["Authorization"]
	if len(values) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimLeft(token, " ")
}

// unquoted takes out what would end a quoted text, or is no part of one: a sign-in's reason may have the issuer's words in it.
var unquoted = strings.NewReplacer(`"`, "'", `\`, "/", "\r", " ", "\n", " ")

// challenge says in WWW-Authenticate what a request without the right token lacks (RFC 6750, section 3).
func challenge(h http.Header, why error) string {
	switch values := h["Authorization"]; {
	case len(values) == 0:
		return "Bearer"
	case bearer(h) == "":
		return `Bearer error="invalid_request", error_description="want: Authorization: Bearer TOKEN"`
	}
	said := "no such token"
	if once, ok := errors.AsType[*principal.RefusedError](why); ok {
		said = once.Reason
	}
	return `Bearer error="invalid_token", error_description="` + unquoted.Replace(said) + `"`
}

// clientAddress is the address from which r's client reached the first trusted proxy, or us; "" where the connection has none.
func (e *Edge) clientAddress(r *http.Request) string {
	if address := e.cfg.Proxies.Of(r); address.IsValid() {
		return address.String()
	}
	return ""
}

// parseAddress is the inverse of netip.Addr.String. All addresses that can't be read count as one client.
func parseAddress(s string) netip.Addr {
	address, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return address
}

// clip bounds what a client can put into the audit log.
func clip(s string) string { return text.Clip(s, 200) }
