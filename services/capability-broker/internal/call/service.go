package call

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

// Gates tells from memory whether a pack may run.
type Gates interface {
	Get(packID string) (gate.State, bool)
}

// Grants finds the grant of a principal, nil for none.
type Grants interface {
	Find(principal, permission string) *grant.Grant
}

// Handlers finds the trusted handlers of a permission.
type Handlers interface {
	For(permission string) []*handler.Trust
}

// Runner has a handler do a job. Its errors are worker's.
type Runner interface {
	Run(ctx context.Context, job worker.Job) (jsontext.Value, error)
}

// Secrets gives a secret's value; a missing one is a fault of kind not found.
type Secrets interface {
	Value(ctx context.Context, key string) (string, error)
}

// Audit is where decisions are written.
type Audit interface {
	Write(ctx context.Context, e audit.Entry) error
}

// Config is what a Service needs.
type Config struct {
	Gates    Gates
	Grants   Grants
	Handlers Handlers
	Runner   Runner
	Secrets  Secrets
	Audit    Audit
	Log      *slog.Logger
	Tracer   trace.Tracer
	Metrics  prometheus.Registerer

	SecretRate int // calls of secrets.get a minute and principal; 0 is off
}

// Service judges calls and has them carried out.
type Service struct {
	Config
	secretRate *window
	calls      *prometheus.CounterVec
	duration   prometheus.Histogram
}

// New makes a Service.
func New(cfg Config) *Service {
	s := &Service{
		Config:     cfg,
		secretRate: newWindow(cfg.SecretRate),
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
		// The claim changes nothing, so that a log which can't be written doesn't either.
		_ = k.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "principal_id_overridden",
			Success: true, OwnerPack: k.principal, Details: map[string]any{"claimed": req.claims, "principal_id": k.principal}})
	}
	var output jsontext.Value
	if refused == nil {
		output, refused = k.do(ctx, req, began)
	}
	took := time.Since(began)
	result := "ok"
	if refused != nil {
		result = string(refused.kind)
	}
	span.SetAttributes(attribute.String("rumi.result", result))
	k.calls.WithLabelValues(result).Inc()
	k.duration.Observe(took.Seconds())
	return encode(dst, req.id, output, refused, took)
}

// record is what one call leaves in the audit log.
type record struct {
	action  string
	details map[string]any
}

// do judges a call, carries it out and writes its entries. What isn't written didn't happen, as far as the caller
// learns.
func (k socket) do(ctx context.Context, req request, began time.Time) (jsontext.Value, *refusal) {
	rec := record{action: "permission_execute", details: map[string]any{
		"permission_type": "capability", "principal_id": k.principal, "permission_id": req.permission,
	}}
	ctx, cancel := context.WithDeadline(ctx, began.Add(req.timeout))
	defer cancel()

	var output jsontext.Value
	var refused *refusal
	if req.permission == grant.SecretsGet {
		rec.action = "permission_secrets_get"
		output, refused = k.secret(ctx, req, &rec)
	} else {
		output, refused = k.handle(ctx, req, &rec)
	}
	rec.details["latency_ms"] = float64(time.Since(began).Microseconds()) / 1000
	if err := k.write(ctx, rec, refused); err != nil {
		return nil, &refusal{kind: executionError, reason: err.Error()}
	}
	return output, refused
}

func (k socket) write(ctx context.Context, rec record, refused *refusal) error {
	e := audit.Entry{Category: audit.Permission, Action: rec.action, Success: refused == nil, OwnerPack: k.principal, Details: rec.details}
	if refused == nil {
		return k.Audit.Write(ctx, e)
	}
	e.Severity = audit.Warning
	rec.details["error_type"] = string(refused.kind)
	if !refused.denied() {
		e.Error = refused.reason
		return k.Audit.Write(ctx, e)
	}
	e.RejectionReason = refused.reason
	if err := k.Audit.Write(ctx, e); err != nil {
		return err
	}
	e.Category, e.Action = audit.Security, "capability_denied"
	return k.Audit.Write(ctx, e)
}

// permitted judges gate and grant.
func (k socket) permitted(permission string) (*grant.Grant, *refusal) {
	state, known := k.Gates.Get(k.principal)
	if !known {
		return nil, &refusal{kind: grantDenied, reason: "Pack is not known"}
	}
	if !state.Open {
		return nil, &refusal{kind: grantDenied, reason: "Pack may not run (status: " + state.Status + ")"}
	}
	g := k.Grants.Find(k.principal, permission)
	if reason := g.Judge(time.Now()); reason != grant.Allowed {
		return nil, &refusal{kind: grantDenied, reason: string(reason)}
	}
	return g, nil
}

// handle has a trusted handler do the call.
func (k socket) handle(ctx context.Context, req request, rec *record) (jsontext.Value, *refusal) {
	g, refused := k.permitted(req.permission)
	if refused != nil {
		return nil, refused
	}
	trusts := k.Handlers.For(req.permission)
	switch {
	case len(trusts) == 0:
		return nil, &refusal{kind: handlerNotFound, reason: "No trusted handler for this permission"}
	case len(trusts) > 1:
		names := make([]string, len(trusts))
		for i, t := range trusts {
			names[i] = t.PackID + "/" + t.Slug
		}
		return nil, &refusal{kind: trustDenied, reason: "Several handlers are trusted for this permission: " + strings.Join(names, ", ")}
	}
	t := trusts[0]
	rec.details["handler_id"], rec.details["handler_pack"], rec.details["handler_digest"] = t.HandlerID, t.PackID, t.FolderDigest
	if state, known := k.Gates.Get(t.PackID); !known || !state.Open {
		return nil, &refusal{kind: trustDenied, reason: "The handler's pack may not run"}
	}
	output, err := k.Runner.Run(ctx, worker.Job{
		Trust: t, Principal: k.principal, RequestID: req.id, Config: g.Config, Args: req.args,
	})
	return output, k.outcome(ctx, t, err)
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
	case errors.Is(err, worker.ErrTooLarge):
		return &refusal{kind: responseTooLarge, reason: "The handler's answer is too large"}
	case errors.Is(err, context.DeadlineExceeded):
		return &refusal{kind: timedOut, reason: "The handler did not answer in time"}
	}
	level := slog.LevelError
	if _, ok := errors.AsType[*worker.FailedError](err); ok {
		level = slog.LevelDebug // the handler's doing; the audit log has it
	}
	k.Log.Log(ctx, level, "a handler's call failed", "pack_id", t.PackID, "slug", t.Slug, "error", err)
	return &refusal{kind: executionError, reason: worker.Reason(err)}
}

// withheld is the answer of secrets.get that holds no value: denied and missing look the same.
func withheld(reason string) *refusal {
	return &refusal{kind: accessDenied, reason: reason,
		output: jsontext.Value(`{"success":false,"error":"Access denied or secret not found","error_type":"access_denied"}`)}
}

type secretOutput struct {
	Success bool   `json:"success"`
	Value   string `json:"value"`
}

// secret serves secrets.get. Calls that are denied count towards its rate like the others, so that nobody learns the
// names of keys by trying.
func (k socket) secret(ctx context.Context, req request, rec *record) (jsontext.Value, *refusal) {
	within := k.secretRate.take(k.principal, time.Now())
	g, refused := k.permitted(req.permission)
	if refused != nil {
		return nil, refused
	}
	if !within {
		return nil, &refusal{kind: rateLimited, reason: "Rate of secrets.get exceeded"}
	}
	var args struct {
		Key string `json:"key"`
	}
	if err := json.Unmarshal(req.args, &args); err != nil {
		return nil, &refusal{kind: validationError, text: "'key' must be a string", reason: "args can't be read"}
	}
	if !grant.ValidSecretKey(args.Key) {
		return nil, withheld("The key is not a valid name")
	}
	rec.details["key"] = args.Key
	if !g.AllowsSecret(args.Key) {
		return nil, withheld("Key is not in allowed_keys")
	}
	value, err := k.Secrets.Value(ctx, args.Key)
	switch {
	case fault.Is(err, fault.KindNotFound):
		return nil, withheld("No such secret")
	case errors.Is(err, context.DeadlineExceeded):
		return nil, &refusal{kind: timedOut, reason: "secrets did not answer in time"}
	case err != nil:
		k.Log.ErrorContext(ctx, "a secret could not be fetched", "key", args.Key, "error", err)
		return nil, &refusal{kind: executionError, reason: "secrets did not answer"}
	}
	output, err := json.Marshal(secretOutput{Success: true, Value: value}, jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil, &refusal{kind: executionError, reason: "The value can't be encoded"}
	}
	return output, nil
}
