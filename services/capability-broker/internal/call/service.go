package call

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/builtin"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

// Gates are approval's decisions about packs, in memory; *gate.View is them.
type Gates interface {
	Get(packID string) (gate.State, bool)
}

// Grants are the capability grants, in memory; *grant.Cache is them.
type Grants interface {
	// Chain returns the grants of a principal and its parents for a permission.
	Chain(principal, permission string) grant.Chain
	// Use counts a call that is about to start. grant.ErrChanged means that a grant has changed, so the call must be decided about again.
	Use(ctx context.Context, c grant.Chain) (grant.Reason, error)
}

// Handlers is the trust in handlers, in memory; *handler.Registry is it.
type Handlers interface {
	// For lists the handlers that are trusted to serve a permission.
	For(permission string) []*handler.Trust
}

// Runner runs calls in handlers' workers; *worker.Pool is one. Its errors are those of package worker.
type Runner interface {
	Run(ctx context.Context, job worker.Job) (jsontext.Value, error)
}

// Audit is the audit log; *audit.Log is one. Write returns when the entry is on the disk.
type Audit interface {
	audit.Submitter
	Write(ctx context.Context, e audit.Entry) error
}

// Config has the parts that a Service uses.
type Config struct {
	Gates    Gates
	Grants   Grants
	Handlers Handlers
	Runner   Runner
	Builtins builtin.Table
	Audit    Audit
	Log      *slog.Logger
	Tracer   trace.Tracer
	Border   packtrace.Border
	Metrics  prometheus.Registerer

	// Refusals is how many refused calls leave audit entries of their own, for each pack and day; the others are counted in a summary. 0 is
	// any number. Calls that were allowed and failed are bounded by the same number, and so are claims to be another pack. Without a bound,
	// a pack that is refused in a loop would fill the disk.
	Refusals int
	// Rate is how many calls a principal may make in a minute where neither its grants nor the permission set a rate; 0 is any number. Each
	// call leaves an audit entry, so a pack must not be able to make any number of them.
	Rate int
}

// Service decides about calls and has them carried out. It is safe for concurrent use.
type Service struct {
	Config
	builtinRates *window      // of the broker's own permissions
	grantRates   *window      // of grants that set a rate
	defaultRates *defaultRate // of the calls for which neither sets one
	refusals     *audit.Refusals
	failures     *audit.Refusals // calls that were allowed and did not succeed
	claims       *audit.Refusals // calls that name another pack as their sender: any call may, whatever is granted
	metrics      metrics
}

// New makes a Service and registers its metrics.
func New(cfg Config) *Service {
	s := &Service{
		Config:       cfg,
		builtinRates: newWindow(),
		grantRates:   newWindow(),
		defaultRates: newDefaultRate(cfg.Rate),
		refusals:     audit.NewRefusals(cfg.Audit, cfg.Refusals, cfg.Log),
		failures:     audit.NewRefusals(cfg.Audit, cfg.Refusals, cfg.Log),
		claims:       audit.NewRefusals(cfg.Audit, cfg.Refusals, cfg.Log),
		metrics:      newMetrics(cfg.Metrics),
	}
	return s
}

// Socket answers the calls on the socket of one principal. Who calls is decided by the socket alone, never by what a call says.
func (s *Service) Socket(principal string) uds.Handler { return socket{s, principal} }

// socket is the Service as one principal sees it.
type socket struct {
	*Service
	principal string
}

// Refuse implements uds.Handler: it answers a frame that could not be read.
func (k socket) Refuse(err error, dst []byte) []byte {
	r := &refusal{kind: protocolError, text: "Request frame could not be read"}
	var large *uds.TooLargeError
	switch {
	case errors.As(err, &large):
		r.text = fmt.Sprintf("Request too large (max: %d bytes)", MaxRequest)
	case errors.Is(err, uds.ErrEmpty):
		r.text = "Empty request"
	case errors.Is(err, os.ErrDeadlineExceeded):
		r.text = "Request did not arrive in time"
	}
	k.metrics.count(r)
	return encode(dst, origin.NewRequestID(), nil, r, 0)
}

// Answer implements uds.Handler: it answers one call, appending to dst.
func (k socket) Answer(ctx context.Context, frame, dst []byte) []byte {
	began := time.Now()
	req, refused := parse(frame, k.principal)
	req.read = time.Now() // not began: a pack could make decisions look slow by long frames
	ctx = origin.With(ctx, origin.Origin{RequestID: req.id, Actor: "pack:" + k.principal})
	ctx, _ = k.Border.Join(ctx, k.principal, req.trace)
	ctx, span := k.Tracer.Start(ctx, "capability.call", asServer)
	defer span.End()

	if req.claims != "" {
		written, _ := k.claims.Submit(ctx, k.principal, "claim", audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "principal_id_overridden",
			Success: true, OwnerPack: k.principal, Details: map[string]any{"claimed": req.claims, "principal_id": k.principal}})
		_ = written()         // the claim has no effect on the call, so neither has a log that can't be written
		req.read = time.Now() // a pack could make decisions look slow by claims, of which each is synced
	}
	var output jsontext.Value
	if refused == nil {
		output, refused = k.do(ctx, req, began)
	}
	took := time.Since(began)
	start := len(dst)
	dst = encode(dst, req.id, output, refused, took)
	uds.BudgetOf(ctx).Shrink(len(dst) - start)
	result := k.metrics.count(refused)
	if span.IsRecording() {
		k.describe(span, req, string(result), refused)
	}
	k.metrics.answered(span, took)
	return dst
}

var asServer = trace.WithSpanKind(trace.SpanKindServer)

// describe gives a call's span what was called and what became of it. Neither arguments nor the reason of a refusal are in it.
func (k socket) describe(span trace.Span, req request, result string, refused *refusal) {
	span.SetAttributes(attribute.String("rumi.pack_id", k.principal), attribute.String("rumi.permission_id", req.permission),
		attribute.String("rumi.request_id", req.id), attribute.String("rumi.result", result))
	if refused != nil {
		span.SetAttributes(semconv.ErrorTypeKey.String(string(refused.kind)))
		span.SetStatus(codes.Error, "")
	}
}

const (
	longOutput = 64 << 10 // bytes of an output from which on memory is reserved for it
	copies     = 4        // of an output that are in memory at once: as received, decoded, encoded, and in the answer's frame
)

// reserveOutput reserves, of its socket's budget of memory, what an output of n bytes takes until it is sent. It waits until there is enough.
func reserveOutput(ctx context.Context, n int) error { return uds.BudgetOf(ctx).Reserve(ctx, copies*n) }

// record is what one call leaves in the audit log. It is made by do and filled on the way.
type record struct {
	action     string
	details    map[string]any
	prewritten *prewritten // nil where the entry of a success is still to be written
	phase      string      // of the last entry: "end" where there are others before it
}

// do decides about a call, carries it out and writes its audit entries. Where they can't be written the call counts as failed, even if it
// was carried out: the caller must get nothing that the log doesn't have.
func (k socket) do(ctx context.Context, req request, began time.Time) (jsontext.Value, *refusal) {
	rec := record{action: "permission_execute", details: map[string]any{
		"permission_type": "capability", "principal_id": k.principal, "permission_id": req.permission,
	}}
	if own := k.Builtins[req.permission]; own != nil {
		rec.action = own.Action
	}
	ctx, cancel := context.WithDeadline(ctx, began.Add(req.timeout))
	defer cancel()

	output, refused := k.carryOut(ctx, req, &rec)
	if refused != nil && !refused.denied() && errors.Is(context.Cause(ctx), uds.ErrClientClosed) {
		// The caller has closed its connection, which ended the call at whatever step it was. So the error of that step is not the handler's.
		refused = &refusal{kind: executionError, reason: "The client closed the connection before the call had ended"}
	}
	rec.details["latency_ms"] = float64(time.Since(began).Microseconds()) / 1000
	if err := k.write(ctx, rec, refused); err != nil {
		return nil, &refusal{kind: executionError, reason: err.Error()}
	}
	return output, refused
}

func (k socket) write(ctx context.Context, rec record, refused *refusal) error {
	if rec.prewritten != nil {
		if err := rec.prewritten.err; err != nil || refused == nil {
			return err
		}
	}
	e := audit.Entry{Category: audit.Permission, Action: rec.action, Success: refused == nil, OwnerPack: k.principal, Phase: rec.phase, Details: rec.details}
	if refused == nil {
		return k.Audit.Write(ctx, e)
	}
	e.Severity = audit.Warning
	rec.details["error_type"] = string(refused.kind)
	if !refused.denied() {
		e.Error = refused.reason
		if e.Phase != "" { // there is an entry of its beginning, which mustn't stay without an end: so it isn't bounded
			return k.Audit.Write(ctx, e)
		}
		written, _ := k.failures.Submit(ctx, k.principal, string(refused.kind), e)
		return written()
	}
	e.RejectionReason = refused.reason
	denial := e
	denial.Category, denial.Action, denial.Phase = audit.Security, "capability_denied", ""
	if e.Phase != "" {
		return k.Audit.Submit(ctx, denial, e)()
	}
	written, _ := k.refusals.Submit(ctx, k.principal, string(refused.kind), denial, e)
	return written()
}

// Count writes, each second until ctx ends, the summaries of the refusals, failures and claims beyond Config.Refusals.
func (s *Service) Count(ctx context.Context) error {
	var all errgroup.Group
	all.Go(func() error { return s.refusals.Run(ctx) })
	all.Go(func() error { return s.failures.Run(ctx) })
	all.Go(func() error { return s.claims.Run(ctx) })
	return all.Wait()
}

// Flush writes the last summaries, when no call comes any more.
func (s *Service) Flush(ctx context.Context) error {
	return errors.Join(s.refusals.Flush(ctx), s.failures.Flush(ctx), s.claims.Flush(ctx))
}

// act carries out a call that was allowed.
type act func(ctx context.Context) (jsontext.Value, *refusal)

// canceled is the reason of a call that ended because its client disconnected or its socket was closed.
const canceled = "The call was cancelled"

// maxDecisions bounds how often a call is decided about again because its grant has changed between the decision and its start.
const maxDecisions = 3

func (k socket) carryOut(ctx context.Context, req request, rec *record) (output jsontext.Value, refused *refusal) {
	for i := range maxDecisions {
		var do act
		do, refused = k.decide(req, rec)
		if i == 0 {
			k.metrics.decided(trace.SpanFromContext(ctx), time.Since(req.read))
		}
		if refused != nil {
			return nil, refused
		}
		if output, refused = do(ctx); refused == nil || !refused.changed {
			break
		}
	}
	return output, refused
}

// begin is called when all is ready for a call to start. It closes the race between the decision and the start, which may be far apart: a
// call may wait for a worker for as long as its time-out, and a revoke must reach it there. The grants are compared with those of the
// decision, and a use is counted in the database, in one transaction with the check that one is left.
func (k socket) begin(ctx context.Context, p grant.Permit) *refusal {
	own := p.Chain[0]
	if !p.Chain.StillValid(k.Grants.Chain(own.PrincipalID, own.PermissionID), time.Now()) {
		return &refusal{kind: grantDenied, reason: string(grant.Changed), why: grantChanged, changed: true}
	}
	reason, err := k.Grants.Use(ctx, p.Chain)
	switch {
	case errors.Is(err, grant.ErrChanged):
		return &refusal{kind: grantDenied, reason: string(grant.Changed), why: grantChanged, changed: true}
	case errors.Is(err, context.DeadlineExceeded):
		return &refusal{kind: timedOut, reason: "The use could not be counted in time"}
	case errors.Is(err, context.Canceled):
		return &refusal{kind: executionError, reason: canceled}
	case err != nil:
		k.Log.ErrorContext(ctx, "a use of a capability grant could not be counted, so the call was refused", "permission_id", own.PermissionID, "error", err)
		return &refusal{kind: executionError, reason: "The use could not be counted"}
	case reason != grant.Allowed:
		return &refusal{kind: grantDenied, reason: string(reason), why: denialOf(reason)}
	}
	return nil
}

// decide decides about a call, from memory alone, in the order gate, grant, rate, arguments. It returns what carries the call out, or why
// it is refused. A call that is refused for its grant still counts in the rate of a built-in permission: see builtin.SecretsGet.
func (k socket) decide(req request, rec *record) (act, *refusal) {
	own, now := k.Builtins[req.permission], time.Now()
	within := own == nil || own.Rate == 0 || k.builtinRates.take(now, quota{k.principal, req.permission, own.Rate})
	p, refused := k.permitted(req.permission, now)
	switch {
	case refused != nil:
		return nil, refused
	case !within:
		return nil, &refusal{kind: rateLimited, reason: "Rate of " + req.permission + " exceeded", why: rateExceeded}
	case !bounded(own, p.Chain) && !k.defaultRates.take(k.principal, now):
		return nil, &refusal{kind: rateLimited, reason: "Rate of the principal's calls exceeded (RUMI_CAPABILITY_RATE_LIMIT)", why: rateExceeded}
	case !k.grantRates.take(now, quotas(p.Chain)...):
		return nil, &refusal{kind: rateLimited, reason: "Rate of the grant exceeded", why: rateExceeded}
	}
	if reason := p.Chain.CheckArgs(req.args); reason != grant.Allowed {
		return nil, &refusal{kind: grantDenied, reason: string(reason), why: argsRefused}
	}
	if own != nil {
		return k.decideBuiltin(own, p, req, rec)
	}
	return k.decideHandler(p, req, rec)
}

// bounded says whether a rate is set for such calls, by the permission or by one of the grants.
func bounded(own *builtin.Permission, c grant.Chain) bool {
	return own != nil && own.Rate > 0 || slices.ContainsFunc(c, func(g *grant.Grant) bool { return g.Terms.RateLimit != nil })
}

// quotas are the rates that a chain's grants set. A child's calls count in its parents' rates, too, or a pack could multiply its rate by
// having children.
func quotas(c grant.Chain) (list []quota) {
	for _, g := range c {
		if g.Terms.RateLimit != nil {
			list = append(list, quota{g.PrincipalID, g.PermissionID, *g.Terms.RateLimit})
		}
	}
	return list
}

// permitted checks gate and grant.
func (k socket) permitted(permission string, now time.Time) (grant.Permit, *refusal) {
	if reason := gate.Reason(k.Gates.Get(k.principal)); reason != "" {
		return grant.Permit{}, &refusal{kind: grantDenied, reason: reason, why: gateClosed}
	}
	p, reason := k.Grants.Chain(k.principal, permission).Decide(now)
	if reason != grant.Allowed {
		return grant.Permit{}, &refusal{kind: grantDenied, reason: string(reason), why: denialOf(reason)}
	}
	return p, nil
}

// decideBuiltin decides about a call of a permission that the broker serves itself.
func (k socket) decideBuiltin(own *builtin.Permission, p grant.Permit, req request, rec *record) (act, *refusal) {
	do, no := own.Decide(builtin.Call{
		Principal: k.principal, RequestID: req.id, Args: req.args, Grants: p.Chain, Details: rec.details,
		Prewrite: func(ctx context.Context) { k.prewrite(ctx, rec) },
	})
	if no != nil {
		return nil, refusedBy(no)
	}
	return func(ctx context.Context) (jsontext.Value, *refusal) {
		if refused := k.begin(ctx, p); refused != nil {
			return nil, refused
		}
		output, no := do(ctx)
		if n := len(output); n > longOutput && reserveOutput(ctx, n) != nil {
			return nil, &refusal{kind: timedOut, reason: "The memory for the answer was not free in time"}
		}
		return output, refusedBy(no)
	}, nil
}

func refusedBy(no *builtin.Refusal) *refusal {
	if no == nil {
		return nil
	}
	return &refusal{kind: errorType(no.Kind), text: no.Text, reason: no.Reason, why: notInConfig, output: no.Output}
}

// errUnstarted is for the worker pool: the call won't start after all, so that its worker is free for another one.
var errUnstarted = errors.New("the call may not start")

// decideHandler decides about a call of a permission that a trusted handler serves. Three packs may be in it: the caller, the pack of the
// handler, which must be allowed to run itself, and parents of the caller.
func (k socket) decideHandler(p grant.Permit, req request, rec *record) (act, *refusal) {
	trusted := k.Handlers.For(req.permission)
	t, reason := handler.Choose(trusted, p.Handler)
	switch {
	case len(trusted) == 0:
		return nil, &refusal{kind: handlerNotFound, reason: reason, why: noHandler}
	case t == nil:
		return nil, &refusal{kind: trustDenied, reason: reason, why: handlerNotTrusted}
	}
	rec.details["handler_id"], rec.details["handler_pack"], rec.details["handler_digest"] = t.HandlerID, t.PackID, t.FolderDigest
	if state, known := k.Gates.Get(t.PackID); !known || !state.Open {
		return nil, &refusal{kind: trustDenied, reason: "The handler's pack may not run", why: handlerGateClosed}
	}
	if problem := t.CheckConfig(p.Chain[0].Config); problem != "" {
		return nil, &refusal{kind: grantDenied, reason: problem, why: configRefused}
	}
	return func(ctx context.Context) (jsontext.Value, *refusal) {
		var unstarted *refusal
		long := k.watch(ctx, rec)
		output, err := k.Runner.Run(ctx, worker.Job{
			Spec:      worker.SpecFor(t, k.principal, p),
			RequestID: req.id, Config: p.Chain[0].Config, Args: req.args, Reserve: reserveOutput,
			Begin: func(ctx context.Context) error {
				if unstarted = k.begin(ctx, p); unstarted != nil {
					return errUnstarted
				}
				return nil
			},
		})
		rec.phase = long.end()
		if errors.Is(err, errUnstarted) {
			return nil, unstarted
		}
		return output, k.outcome(ctx, t, err)
	}, nil
}

// outcome turns a worker's error into what the caller reads and what the audit log has. The error's own text goes to the service's log
// only. It never holds what a handler printed or was given, which may be secret.
func (k socket) outcome(ctx context.Context, t *handler.Trust, err error) *refusal {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, handler.ErrUntrusted):
		k.Log.ErrorContext(ctx, "a handler's copy is not what was trusted, so it can't be called; approve the handler again", "pack_id", t.PackID, "slug", t.Slug, "error", err)
		reason := "The handler's copy is not what was trusted"
		if err := k.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Critical, Action: "hash_mismatch", OwnerPack: t.PackID,
			Details: map[string]any{"slug": t.Slug, "handler_id": t.HandlerID, "digest": t.FolderDigest}, RejectionReason: reason}); err != nil {
			k.Log.ErrorContext(ctx, "the changed copy of a handler could not be entered in the audit log", "pack_id", t.PackID, "slug", t.Slug, "error", err)
		}
		return &refusal{kind: trustDenied, reason: reason, why: handlerChanged}
	case errors.Is(err, worker.ErrBusy):
		return &refusal{kind: rateLimited, reason: "Too many calls wait for this handler", why: workersBusy}
	case errors.Is(err, worker.ErrPaused):
		return &refusal{kind: rateLimited, reason: "The handler's workers end too often; the next one starts within a minute", why: workersPaused}
	case errors.Is(err, worker.ErrTooLarge):
		return &refusal{kind: responseTooLarge, reason: "The handler's answer is too large"}
	case errors.Is(err, context.DeadlineExceeded):
		return &refusal{kind: timedOut, reason: "The handler did not answer in time"}
	case errors.Is(err, context.Canceled):
		return &refusal{kind: executionError, reason: canceled}
	}
	level := slog.LevelError
	if _, ok := errors.AsType[*worker.FailedError](err); ok {
		level = slog.LevelDebug // the handler's doing; the audit log has it
	}
	k.Log.Log(ctx, level, "a handler's call failed", "pack_id", t.PackID, "slug", t.Slug, "error", err)
	return &refusal{kind: executionError, reason: worker.Reason(err)}
}
