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
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/builtin"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

// Gates tells from memory whether a pack may run.
type Gates interface {
	Get(packID string) (gate.State, bool)
}

// Grants finds what a principal and its parents are granted.
type Grants interface {
	Chain(principal, permission string) grant.Chain
	// Use counts a call that is about to start. grant.ErrChanged says that it must be decided about again.
	Use(ctx context.Context, c grant.Chain) (grant.Reason, error)
}

// Handlers finds the trusted handlers of a permission.
type Handlers interface {
	For(permission string) []*handler.Trust
}

// Runner has a handler do a job. Its errors are worker's.
type Runner interface {
	Run(ctx context.Context, job worker.Job) (jsontext.Value, error)
}

// Audit is where decisions are written.
type Audit interface {
	audit.Submitter
	Write(ctx context.Context, e audit.Entry) error
}

// Config is what a Service needs.
type Config struct {
	Gates    Gates
	Grants   Grants
	Handlers Handlers
	Runner   Runner
	Builtins builtin.Table
	Audit    Audit
	Log      *slog.Logger
	Tracer   trace.Tracer
	Metrics  prometheus.Registerer

	Refusals int // that leave entries of their own, a day and pack; 0 for any number. As many failures do beside them
	Rate     int // calls of a principal a minute that neither their grant nor their permission bounds; 0 for any number
}

// Service decides about calls and has them carried out.
type Service struct {
	Config
	ownRates *window // of the broker's own permissions
	rates    *window // of grants
	usual    *usual  // of all calls that have no rate of their own
	refusals *audit.Refusals
	failures *audit.Refusals // calls that were allowed and did not succeed
	claims   *audit.Refusals // of being somebody else: any call may make one, whatever is granted
	calls    *prometheus.CounterVec
	duration prometheus.Histogram
}

// New makes a Service.
func New(cfg Config) *Service {
	s := &Service{
		Config:   cfg,
		ownRates: newWindow(),
		rates:    newWindow(),
		usual:    newUsual(cfg.Rate),
		refusals: audit.NewRefusals(cfg.Audit, cfg.Refusals, cfg.Log),
		failures: audit.NewRefusals(cfg.Audit, cfg.Refusals, cfg.Log),
		claims:   audit.NewRefusals(cfg.Audit, cfg.Refusals, cfg.Log),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rumi_capability_calls_total",
			Help: "Calls over capability sockets, by result: ok or the error type.",
		}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "rumi_capability_call_duration_seconds",
			Help:    "Time from a call's frame to its answer.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1, 5, 30, 120},
		}),
	}
	cfg.Metrics.MustRegister(s.calls, s.duration)
	return s
}

// Socket is what answers the socket of one principal.
func (s *Service) Socket(principal string) uds.Handler { return socket{s, principal} }

type socket struct {
	*Service
	principal string
}

// Refuse answers a frame that could not be read.
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
	k.calls.WithLabelValues(string(r.kind)).Inc()
	return encode(dst, origin.NewRequestID(), nil, r, 0)
}

// Answer answers one call.
func (k socket) Answer(ctx context.Context, frame, dst []byte) []byte {
	began := time.Now()
	req, refused := parse(frame, k.principal)
	ctx = origin.With(ctx, origin.Origin{RequestID: req.id, Actor: "pack:" + k.principal})
	ctx, span := k.Tracer.Start(ctx, "capability.call", trace.WithAttributes(
		attribute.String("rumi.pack_id", k.principal), attribute.String("rumi.permission_id", req.permission)))
	defer span.End()

	if req.claims != "" {
		written, _ := k.claims.Submit(ctx, k.principal, "claim", audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "principal_id_overridden",
			Success: true, OwnerPack: k.principal, Details: map[string]any{"claimed": req.claims, "principal_id": k.principal}})
		_ = written() // the claim changes nothing, so that a log which can't be written doesn't either
	}
	var output jsontext.Value
	if refused == nil {
		output, refused = k.do(ctx, req, began)
	}
	took := time.Since(began)
	start := len(dst)
	dst = encode(dst, req.id, output, refused, took)
	uds.BudgetOf(ctx).Shrink(len(dst) - start)
	result := "ok"
	if refused != nil {
		result = string(refused.kind)
	}
	span.SetAttributes(attribute.String("rumi.result", result))
	k.calls.WithLabelValues(result).Inc()
	k.duration.Observe(took.Seconds())
	return dst
}

const (
	longOutput = 64 << 10 // bytes of an output over which room is taken for it
	copies     = 4        // of an output are in memory at once: as it comes, read, encoded, and in the answer's frame
)

// reserveOutput reserves what an output of n bytes takes in memory until it was sent.
func reserveOutput(ctx context.Context, n int) error { return uds.BudgetOf(ctx).Reserve(ctx, copies*n) }

// record is what one call leaves in the audit log.
type record struct {
	action  string
	details map[string]any
	ahead   *ahead // see expect
}

// do decides about a call, carries it out and writes its entries. What isn't written didn't happen, as far as the caller
// learns.
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
		// Whatever was going on has failed for want of somebody to answer.
		refused = &refusal{kind: executionError, reason: "The client closed the connection before the call had ended"}
	}
	rec.details["latency_ms"] = float64(time.Since(began).Microseconds()) / 1000
	if err := k.write(ctx, rec, refused); err != nil {
		return nil, &refusal{kind: executionError, reason: err.Error()}
	}
	return output, refused
}

func (k socket) write(ctx context.Context, rec record, refused *refusal) error {
	if rec.ahead != nil {
		if err := rec.ahead.err; err != nil || refused == nil {
			return err
		}
	}
	e := audit.Entry{Category: audit.Permission, Action: rec.action, Success: refused == nil, OwnerPack: k.principal, Details: rec.details}
	if refused == nil {
		return k.Audit.Write(ctx, e)
	}
	e.Severity = audit.Warning
	rec.details["error_type"] = string(refused.kind)
	if !refused.denied() {
		e.Error = refused.reason
		written, _ := k.failures.Submit(ctx, k.principal, string(refused.kind), e)
		return written()
	}
	e.RejectionReason = refused.reason
	denial := e
	denial.Category, denial.Action = audit.Security, "capability_denied"
	written, _ := k.refusals.Submit(ctx, k.principal, string(refused.kind), denial, e)
	return written()
}

// Count writes down, each second until ctx ends, how many refusals, failures and claims have no entries of their own.
func (s *Service) Count(ctx context.Context) error {
	var all errgroup.Group
	all.Go(func() error { return s.refusals.Run(ctx) })
	all.Go(func() error { return s.failures.Run(ctx) })
	all.Go(func() error { return s.claims.Run(ctx) })
	return all.Wait()
}

// Flush is Count once more, for when nobody calls any more.
func (s *Service) Flush(ctx context.Context) error {
	return errors.Join(s.refusals.Flush(ctx), s.failures.Flush(ctx), s.claims.Flush(ctx))
}

// act carries out what was decided.
type act func(ctx context.Context) (jsontext.Value, *refusal)

// canceled is of a call whose client, or whose socket, is there no more.
const canceled = "The call was cancelled"

// maxDecisions is how often a call is decided about whose grant changes between its decision and its start.
const maxDecisions = 3

func (k socket) carryOut(ctx context.Context, req request, rec *record) (output jsontext.Value, refused *refusal) {
	for range maxDecisions {
		var do act
		if do, refused = k.decide(req, rec); refused != nil {
			return nil, refused
		}
		if output, refused = do(ctx); refused == nil || !refused.changed {
			break
		}
	}
	return output, refused
}

// begin counts the start of a call, if it is still what it was decided by: it may have waited long for a worker.
func (k socket) begin(ctx context.Context, p grant.Permit) *refusal {
	own := p.Chain[0]
	if !p.Chain.StillValid(k.Grants.Chain(own.PrincipalID, own.PermissionID), time.Now()) {
		return &refusal{kind: grantDenied, reason: string(grant.Changed), changed: true}
	}
	reason, err := k.Grants.Use(ctx, p.Chain)
	switch {
	case errors.Is(err, grant.ErrChanged):
		return &refusal{kind: grantDenied, reason: string(grant.Changed), changed: true}
	case errors.Is(err, context.DeadlineExceeded):
		return &refusal{kind: timedOut, reason: "The use could not be counted in time"}
	case errors.Is(err, context.Canceled):
		return &refusal{kind: executionError, reason: canceled}
	case err != nil:
		k.Log.ErrorContext(ctx, "a use could not be counted", "error", err)
		return &refusal{kind: executionError, reason: "The use could not be counted"}
	case reason != grant.Allowed:
		return &refusal{kind: grantDenied, reason: string(reason)}
	}
	return nil
}

// decide decides about a call from memory, in the order gate → grant → rate → arguments, and says how it is to be carried
// out.
func (k socket) decide(req request, rec *record) (act, *refusal) {
	own, now := k.Builtins[req.permission], time.Now()
	within := own == nil || own.Rate == 0 || k.ownRates.take(now, quota{k.principal, req.permission, own.Rate})
	p, refused := k.permitted(req.permission, now)
	switch {
	case refused != nil:
		return nil, refused
	case !within:
		return nil, &refusal{kind: rateLimited, reason: "Rate of " + req.permission + " exceeded"}
	case !bounded(own, p.Chain) && !k.usual.take(k.principal, now):
		return nil, &refusal{kind: rateLimited, reason: "Rate of the principal's calls exceeded (RUMI_CAPABILITY_RATE_LIMIT)"}
	case !k.rates.take(now, quotas(p.Chain)...):
		return nil, &refusal{kind: rateLimited, reason: "Rate of the grant exceeded"}
	}
	if reason := p.Chain.CheckArgs(req.args); reason != grant.Allowed {
		return nil, &refusal{kind: grantDenied, reason: string(reason)}
	}
	if own != nil {
		return k.decideBuiltin(own, p, req, rec)
	}
	return k.decideHandler(p, req, rec)
}

// bounded says whether an operator has set a rate for just such calls.
func bounded(own *builtin.Permission, c grant.Chain) bool {
	return own != nil && own.Rate > 0 || slices.ContainsFunc(c, func(g *grant.Grant) bool { return g.Terms.RateLimit != nil })
}

// quotas are the rates that a chain's grants allow: a child's calls count in its parents', too.
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
		return grant.Permit{}, &refusal{kind: grantDenied, reason: reason}
	}
	p, reason := k.Grants.Chain(k.principal, permission).Decide(now)
	if reason != grant.Allowed {
		return grant.Permit{}, &refusal{kind: grantDenied, reason: string(reason)}
	}
	return p, nil
}

// decideBuiltin decides about a call of one of the broker's own permissions.
func (k socket) decideBuiltin(own *builtin.Permission, p grant.Permit, req request, rec *record) (act, *refusal) {
	do, no := own.Decide(builtin.Call{
		Principal: k.principal, RequestID: req.id, Args: req.args, Grants: p.Chain, Details: rec.details,
		Expect: func(ctx context.Context) { k.expect(ctx, rec) },
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
			return nil, &refusal{kind: timedOut, reason: "There was no room for the answer in time"}
		}
		return output, refusedBy(no)
	}, nil
}

func refusedBy(no *builtin.Refusal) *refusal {
	if no == nil {
		return nil
	}
	return &refusal{kind: errorType(no.Kind), text: no.Text, reason: no.Reason, output: no.Output}
}

// errUnstarted has a worker that is ready for a call left alone.
var errUnstarted = errors.New("the call may not start")

// decideHandler decides about a call that a trusted handler is to do.
func (k socket) decideHandler(p grant.Permit, req request, rec *record) (act, *refusal) {
	trusted := k.Handlers.For(req.permission)
	t, reason := handler.Choose(trusted, p.Handler)
	switch {
	case len(trusted) == 0:
		return nil, &refusal{kind: handlerNotFound, reason: reason}
	case t == nil:
		return nil, &refusal{kind: trustDenied, reason: reason}
	}
	rec.details["handler_id"], rec.details["handler_pack"], rec.details["handler_digest"] = t.HandlerID, t.PackID, t.FolderDigest
	if state, known := k.Gates.Get(t.PackID); !known || !state.Open {
		return nil, &refusal{kind: trustDenied, reason: "The handler's pack may not run"}
	}
	if problem := t.CheckConfig(p.Chain[0].Config); problem != "" {
		return nil, &refusal{kind: grantDenied, reason: problem}
	}
	return func(ctx context.Context) (jsontext.Value, *refusal) {
		var unstarted *refusal
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
		if errors.Is(err, errUnstarted) {
			return nil, unstarted
		}
		return output, k.outcome(ctx, t, err)
	}, nil
}

// outcome turns a worker's error into what the pack and the log are told. The error's own text stays in the service's
// log: it never holds what a handler printed or was given.
func (k socket) outcome(ctx context.Context, t *handler.Trust, err error) *refusal {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, handler.ErrUntrusted):
		k.Log.ErrorContext(ctx, "a handler's copy is not what was trusted", "pack_id", t.PackID, "slug", t.Slug, "error", err)
		reason := "The handler's copy is not what was trusted"
		if err := k.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Critical, Action: "hash_mismatch", OwnerPack: t.PackID,
			Details: map[string]any{"slug": t.Slug, "handler_id": t.HandlerID, "digest": t.FolderDigest}, RejectionReason: reason}); err != nil {
			k.Log.ErrorContext(ctx, "a mismatch could not be audited", "error", err)
		}
		return &refusal{kind: trustDenied, reason: reason}
	case errors.Is(err, worker.ErrBusy):
		return &refusal{kind: rateLimited, reason: "Too many calls wait for this handler"}
	case errors.Is(err, worker.ErrPaused):
		return &refusal{kind: rateLimited, reason: "The handler's workers end too often; the next one starts within a minute"}
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
