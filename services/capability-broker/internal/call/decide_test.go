package call_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/policy"
	dbstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/builtin"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/call"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/store"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

var discard = slog.New(slog.DiscardHandler)

// replica is the part of a broker that decides: grants and trust in a real database, and in place of containers a runner
// that counts calls.
type replica struct {
	t      testing.TB
	grants *grant.Cache
	db     *dbstore.DB
	rows   *store.Store
	trust  *handler.Registry
	calls  *call.Service
	meters *prometheus.Registry
	closed map[string]bool // packs whose gate is closed

	mu      sync.Mutex
	entries []audit.Entry
	busy    bool           // the runner has no room
	failing error          // of the runner
	waiting func()         // what happens while a call waits for a worker
	output  jsontext.Value // "done" for nil
	started atomic.Int64
	last    worker.Job
}

func newReplica(t testing.TB, db *dbstore.DB) *replica {
	t.Helper()
	r := &replica{t: t, db: db, rows: store.New(db), closed: make(map[string]bool), meters: prometheus.NewRegistry()}
	own := builtin.NewTable(builtin.SecretsGet(r, 0, discard))
	var err error
	if r.trust, err = handler.OpenRegistry(t.Context(), r.rows, discard, nil); err != nil {
		t.Fatal(err)
	}
	if r.grants, err = grant.Open(t.Context(), grant.Config{Store: r.rows, Packs: r, Permissions: own, Policy: policy.Fixed{Policy: policy.None()}, Audit: r, Log: discard,
		Checks: []func(context.Context, *grant.Grant) error{r.trust.CheckGrant}}); err != nil {
		t.Fatal(err)
	}
	r.calls = call.New(call.Config{Gates: r, Grants: r.grants, Handlers: r.trust, Runner: r, Builtins: own, Audit: r, Log: discard,
		Tracer: noop.NewTracerProvider().Tracer(""), Metrics: r.meters})
	t.Cleanup(r.wantNoOther)
	return r
}

func (r *replica) Known(context.Context, string) (bool, error) { return true, nil }
func (r *replica) Grantable(string) error                      { return nil }

func (r *replica) Get(packID string) (gate.State, bool) {
	return gate.State{PackID: packID, Open: !r.closed[packID], Status: "approved"}, packID != "unknown"
}

func (r *replica) Write(_ context.Context, e audit.Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, e)
	return nil
}

func (r *replica) Submit(ctx context.Context, entries ...audit.Entry) func() error {
	var err error
	for _, e := range entries {
		err = errors.Join(err, r.Write(ctx, e))
	}
	return func() error { return err }
}

// Value has every secret but one.
func (r *replica) Value(_ context.Context, key string, _ func()) (string, error) {
	r.started.Add(1)
	if key == "MISSING" {
		return "", fault.NotFound("Secret not found: %s", key)
	}
	return "value", nil
}

func (r *replica) Run(ctx context.Context, job worker.Job) (jsontext.Value, error) {
	if r.busy {
		return nil, worker.ErrBusy
	}
	if r.failing != nil {
		return nil, r.failing
	}
	if r.waiting != nil {
		r.waiting()
	}
	if err := job.Begin(ctx); err != nil {
		return nil, err
	}
	r.started.Add(1)
	if r.output != nil {
		if err := job.Reserve(ctx, len(r.output)); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = job
	if r.output != nil {
		return slices.Clone(r.output), nil
	}
	return jsontext.Value(`"done"`), nil
}

// install trusts a handler for the permission fs.read.
func (r *replica) install(packID, configSchema string) {
	r.t.Helper()
	trust := handler.Trust{CandidateKey: packID, PackID: packID, Slug: "h", HandlerID: "h", PermissionID: "fs.read", FolderDigest: configSchema}
	if configSchema != "" {
		trust.ConfigSchema = jsontext.Value(configSchema)
	}
	put := r.db.Tx(r.t.Context(), func(tx *dbstore.Tx) error { return r.rows.PutTrust(tx, trust) })
	if err := errors.Join(put, r.trust.Reload(r.t.Context())); err != nil {
		r.t.Fatal(err)
	}
}

// grant gives a permission on the terms of a request body.
func (r *replica) grant(principal, permission, body string) {
	r.t.Helper()
	request := grant.Request{PrincipalID: principal, PermissionID: permission}
	var fields struct {
		Config jsontext.Value `json:"config"`
		grant.Terms
	}
	if err := json.Unmarshal([]byte(body), &fields); err != nil {
		r.t.Fatal(err)
	}
	request.Config, request.Terms = fields.Config, fields.Terms
	if _, err := r.grants.Grant(r.t.Context(), request); err != nil {
		r.t.Fatal(err)
	}
}

// clear removes every grant and all trust.
func (r *replica) clear() {
	ctx := context.Background()
	list, err := r.grants.List(ctx, "")
	for principal := range list {
		_, removing := r.grants.RemovePrincipal(ctx, principal)
		err = errors.Join(err, removing)
	}
	trusts, _, reading := r.rows.Trusts(ctx)
	err = errors.Join(err, reading)
	for _, t := range trusts {
		err = errors.Join(err, r.rows.RemoveTrust(ctx, t.PackID, func([]handler.Trust) error { return nil }))
	}
	if err != nil {
		r.t.Error(err)
	}
}

type reply struct {
	Success   bool           `json:"success"`
	Output    jsontext.Value `json:"output"`
	Error     string         `json:"error"`
	ErrorType string         `json:"error_type"`
}

func (r *replica) ask(principal, permission, args string) reply {
	r.t.Helper()
	frame := fmt.Sprintf(`{"permission_id": %q, "args": %s, "timeout_seconds": 60}`, permission, args)
	var answer reply
	if err := json.Unmarshal(r.calls.Socket(principal).Answer(r.t.Context(), []byte(frame), nil), &answer); err != nil {
		r.t.Error(err)
	}
	return answer
}

// reason is that of the last denial in the audit log.
func (r *replica) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.entries) - 1; i >= 0; i-- {
		if r.entries[i].Action == "capability_denied" {
			return r.entries[i].RejectionReason
		}
	}
	return ""
}

func (r *replica) uses(principal, permission string) int64 {
	r.t.Helper()
	list, err := r.grants.List(r.t.Context(), principal)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, g := range list[principal] {
		if g.PermissionID == permission {
			return g.Uses
		}
	}
	r.t.Fatalf("no grant of %s", permission)
	return 0
}

func sqlite(t testing.TB) *dbstore.DB {
	t.Helper()
	db, err := dbstore.Open(t.Context(), dbstore.Config{Dir: t.TempDir(), Service: "test"}, candidate.Migrations(store.Migrations()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// Each way to be refused has a reason of its own in the audit log, and the pack is told none of them.
func TestReasons(t *testing.T) {
	type grants map[string]string // principal → body, of fs.read
	db := sqlite(t)
	const readA = `{"args_schema": {"properties": {"path": {"const": "a"}}, "required": ["path"]}}`
	for name, c := range map[string]struct {
		grants    grants
		handlers  map[string]string // pack → config_schema
		principal string
		args      string
		errorType string
		reason    string // "" for a call that is carried out
	}{
		"granted":              {grants{"p": `{}`}, nil, "p", `{}`, "", ""},
		"not granted":          {grants{"q": `{}`}, nil, "p", `{}`, "grant_denied", "No capability grant for this permission"},
		"unknown":              {grants{"unknown": `{}`}, nil, "unknown", `{}`, "grant_denied", "Pack is not known"},
		"closed":               {grants{"closed": `{}`}, nil, "closed", `{}`, "grant_denied", "Pack's approval can't be confirmed at the moment"},
		"no handler":           {grants{"p": `{}`}, map[string]string{}, "p", `{}`, "handler_not_found", "No trusted handler for this permission"},
		"two handlers":         {grants{"p": `{}`}, map[string]string{"x": "", "y": ""}, "p", `{}`, "trust_denied", "Several handlers are trusted for this permission: x/h, y/h"},
		"the chosen one":       {grants{"p": `{"handler": {"pack_id": "y", "slug": "h"}}`}, map[string]string{"x": "", "y": ""}, "p", `{}`, "", ""},
		"one that isn't there": {grants{"p": `{"handler": {"pack_id": "y", "slug": "h"}}`}, map[string]string{"x": ""}, "p", `{}`, "trust_denied", "The handler y/h is not trusted for this permission, but: x/h"},
		"its pack is closed":   {grants{"p": `{}`}, map[string]string{"closed": ""}, "p", `{}`, "trust_denied", "The handler's pack may not run"},
		"args fit":             {grants{"p": readA}, nil, "p", `{"path": "a"}`, "", ""},
		"args don't fit":       {grants{"p": readA}, nil, "p", `{"path": "SECRET"}`, "grant_denied", "Args do not fit args_schema: at '/path' it does not satisfy #/properties/path/const"},
		"args lack something":  {grants{"p": readA}, nil, "p", `{"SECRET": 1}`, "grant_denied", "Args do not fit args_schema: at '' it does not satisfy #/required"},

		"child":                     {grants{"p": `{}`, "p__c": `{}`}, nil, "p__c", `{}`, "", ""},
		"child without":             {grants{"p": `{}`}, nil, "p__c", `{}`, "grant_denied", "No capability grant for this permission"},
		"child without its parent":  {grants{"p__c": `{}`}, nil, "p__c", `{}`, "grant_denied", "No capability grant for this permission (of the parent p)"},
		"grandchild":                {grants{"p": `{}`, "p__c": `{}`, "p__c__d": `{}`}, nil, "p__c__d", `{}`, "", ""},
		"grandchild, gap":           {grants{"p": `{}`, "p__c__d": `{}`}, nil, "p__c__d", `{}`, "grant_denied", "No capability grant for this permission (of the parent p__c)"},
		"grandchild, no root":       {grants{"p__c": `{}`, "p__c__d": `{}`}, nil, "p__c__d", `{}`, "grant_denied", "No capability grant for this permission (of the parent p)"},
		"child, same config":        {grants{"p": `{"config": {"a": 1, "b": {"x": 1, "y": 2}}}`, "p__c": `{"config": {"b": {"y": 2, "x": 1}, "a": 1}}`}, nil, "p__c", `{}`, "", ""},
		"child, other config":       {grants{"p": `{"config": {"a": 1}}`, "p__c": `{}`}, nil, "p__c", `{}`, "grant_denied", "Config is not that of the parent p, and only the handler knows which of them allows more"},
		"child, numbers that round": {grants{"p": `{"config": {"a": 9007199254740993}}`, "p__c": `{"config": {"a": 9007199254740992}}`}, nil, "p__c", `{}`, "grant_denied", "Config is not that of the parent p, and only the handler knows which of them allows more"},
		"child, parent's args":      {grants{"p": readA, "p__c": `{}`}, nil, "p__c", `{"path": "b"}`, "grant_denied", "Args do not fit args_schema (of the parent p): at '/path' it does not satisfy #/properties/path/const"},
		"child, both args":          {grants{"p": readA, "p__c": `{"args_schema": {"maxProperties": 1}}`}, nil, "p__c", `{"path": "a"}`, "", ""},
		"child, own args":           {grants{"p": `{}`, "p__c": readA}, nil, "p__c", `{}`, "grant_denied", "Args do not fit args_schema: at '' it does not satisfy #/required"},
		"child, parent's handler":   {grants{"p": `{"handler": {"pack_id": "y", "slug": "h"}}`, "p__c": `{}`}, map[string]string{"x": "", "y": ""}, "p__c", `{}`, "", ""},
		"child, other handler":      {grants{"p": `{"handler": {"pack_id": "y", "slug": "h"}}`, "p__c": `{"handler": {"pack_id": "x", "slug": "h"}}`}, map[string]string{"x": "", "y": ""}, "p__c", `{}`, "grant_denied", "The parent p is granted another handler"},
		"child, own handler":        {grants{"p": `{}`, "p__c": `{"handler": {"pack_id": "x", "slug": "h"}}`}, map[string]string{"x": "", "y": ""}, "p__c", `{}`, "", ""},
		"child, mount":              {grants{"p": `{}`, "p__c": `{"mounts": [{"source": "/srv/a"}]}`}, nil, "p__c", `{}`, "grant_denied", "The parent p is not granted a mount"},
		"child, mount beside":       {grants{"p": `{"mounts": [{"source": "/srv/a"}]}`, "p__c": `{"mounts": [{"source": "/srv/ab"}]}`}, nil, "p__c", `{}`, "grant_denied", "The parent p is not granted a mount"},
		"child, mount inside":       {grants{"p": `{"mounts": [{"source": "/srv"}]}`, "p__c": `{"mounts": [{"source": "/srv/a"}]}`}, nil, "p__c", `{}`, "", ""},
		"child, writable mount":     {grants{"p": `{"mounts": [{"source": "/srv"}]}`, "p__c": `{"mounts": [{"source": "/srv", "read_only": false}]}`}, nil, "p__c", `{}`, "grant_denied", "The parent p is not granted a mount"},
		"not a child":               {grants{"__c": `{}`}, nil, "__c", `{}`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplica(t, db)
			defer r.clear()
			r.closed["closed"] = true
			for principal, body := range c.grants {
				r.grant(principal, "fs.read", body)
			}
			if c.handlers == nil {
				c.handlers = map[string]string{"x": ""}
			}
			for packID, configSchema := range c.handlers {
				r.install(packID, configSchema)
			}
			got := r.ask(c.principal, "fs.read", c.args)
			if got.Success != (c.reason == "") || got.ErrorType != c.errorType || !got.Success && got.Error != "Permission denied" {
				t.Errorf("the answer is %+v, want success %v or the error type %q, without a reason", got, c.reason == "", c.errorType)
			}
			if reason := r.reason(); reason != c.reason {
				t.Errorf("reason %q, want %q", reason, c.reason)
			}
			if n := r.started.Load(); (n == 1) != (c.reason == "") {
				t.Errorf("%d calls were started, want one only without a refusal (%q)", n, c.reason)
			}
			for _, e := range r.entries {
				if strings.Contains(fmt.Sprint(e), "SECRET") {
					t.Errorf("an argument is in %v", e)
				}
			}
		})
	}
}

// The broker's own permissions know what a parent's config allows.
func TestSecretsOfChildren(t *testing.T) {
	r := newReplica(t, sqlite(t))
	r.grant("p", "secrets.get", `{"config": {"allowed_keys": ["A", "B"]}}`)
	r.grant("p__c", "secrets.get", `{"config": {"allowed_keys": ["B", "C"]}}`)
	for key, reason := range map[string]string{"B": "", "A": "Key is not in allowed_keys", "C": "Key is not in allowed_keys of the parent p"} {
		r.entries = nil
		got := r.ask("p__c", "secrets.get", `{"key": "`+key+`"}`)
		if strings.Contains(string(got.Output), `"value"`) != (reason == "") || r.reason() != reason {
			t.Errorf("%s: got %s for the reason %q, want the reason %q", key, got.Output, r.reason(), reason)
		}
	}
}

// A handler that is approved anew may ask for another config than the grant has.
func TestConfigIsCheckedWhenUsed(t *testing.T) {
	r := newReplica(t, sqlite(t))
	r.install("x", `{"properties": {"root": {"type": "string"}}, "additionalProperties": false}`)
	if _, err := r.grants.Grant(t.Context(), grant.Request{PrincipalID: "p", PermissionID: "fs.read", Config: jsontext.Value(`{"rot": "SECRET"}`)}); !fault.Is(err, fault.KindInvalid) ||
		fault.Of(err).Message != "Invalid config for fs.read: Config does not fit config_schema of the handler x/h: at '' it does not satisfy #/additionalProperties" {
		t.Errorf("a config that the handler doesn't know: %v; want an invalid config", err)
	}
	r.grant("p", "fs.read", `{"config": {"root": "/a"}}`)
	if got := r.ask("p", "fs.read", `{}`); !got.Success {
		t.Errorf("the answer is %+v, want a success", got)
	}
	r.install("x", `{"required": ["roots"]}`)
	if got := r.ask("p", "fs.read", `{}`); got.ErrorType != "grant_denied" ||
		r.reason() != "Config does not fit config_schema of the handler x/h: at '' it does not satisfy #/required" {
		t.Errorf("a config that another handler doesn't know: got %+v for %q, want grant_denied", got, r.reason())
	}
}

// Only what has started is counted, in the grant and in those of the parents.
func TestWhatCountsAsAUse(t *testing.T) {
	r := newReplica(t, sqlite(t))
	r.install("x", "")
	r.grant("p", "fs.read", `{"max_uses": 4}`)
	r.grant("p__c", "fs.read", `{"max_uses": 2, "args_schema": {"maxProperties": 0}}`)
	counts := func(want, parents int64) {
		t.Helper()
		if own, theirs := r.uses("p__c", "fs.read"), r.uses("p", "fs.read"); own != want || theirs != parents {
			t.Fatalf("%d and %d uses, want %d and %d", own, theirs, want, parents)
		}
	}
	r.ask("p__c", "fs.read", `{"a": 1}`)
	r.busy = true
	if got := r.ask("p__c", "fs.read", `{}`); got.ErrorType != "rate_limited" {
		t.Errorf("while the runner is busy the answer is %+v, want rate_limited", got)
	}
	r.busy = false
	counts(0, 0)
	for n := range int64(2) {
		if got := r.ask("p__c", "fs.read", `{}`); !got.Success {
			t.Errorf("the answer is %+v, want a success", got)
		}
		counts(n+1, n+1)
	}
	for range 3 {
		if got := r.ask("p__c", "fs.read", `{}`); got.ErrorType != "grant_denied" || r.reason() != "Capability grant is used up" {
			t.Errorf("after max_uses: got %+v for %q, want grant_denied", got, r.reason())
		}
	}
	counts(2, 2)
	r.grant("p__c", "fs.read", `{"max_uses": 9}`) // counts anew
	counts(0, 2)
	for range 4 {
		r.ask("p__c", "fs.read", `{}`)
	}
	counts(2, 4)
	if reason := r.reason(); reason != "Capability grant is used up (of the parent p)" {
		t.Errorf("the refusal's reason is %q, want that the parent's grant is used up", reason)
	}
	if n := r.started.Load(); n != 4 {
		t.Errorf("%d calls were started, want 4", n)
	}

	// A secret that is withheld by the grant is no use; one that turns out to be missing is.
	r.grant("p", "secrets.get", `{"max_uses": 2, "config": {"allowed_keys": ["A", "MISSING"]}}`)
	for key, want := range map[string]int64{"B": 0, "a b": 0} {
		if r.ask("p", "secrets.get", `{"key": "`+key+`"}`); r.uses("p", "secrets.get") != want {
			t.Errorf("%s was counted %d times, want %d", key, r.uses("p", "secrets.get"), want)
		}
	}
	r.ask("p", "secrets.get", `{"key": "MISSING"}`)
	if got := r.ask("p", "secrets.get", `{"key": "A"}`); !strings.Contains(string(got.Output), `"value"`) {
		t.Errorf("the answer is %+v, want the value", got)
	}
	if got := r.ask("p", "secrets.get", `{"key": "A"}`); got.ErrorType != "grant_denied" || r.uses("p", "secrets.get") != 2 {
		t.Errorf("the answer is %+v after %d uses, want grant_denied after 2", got, r.uses("p", "secrets.get"))
	}
}

// However many ask at once, on two replicas that share a database, no more calls start than the grant has uses; after a
// restart none do.
func TestUsesAreCountedOnceOnAllReplicas(t *testing.T) {
	storetest.Run(t, candidate.Migrations(store.Migrations()), func(t *testing.T, open func() *dbstore.DB) {
		const limit, callers, each = 25, 8, 6
		a := newReplica(t, open())
		a.install("x", "")
		a.grant("p", "fs.read", fmt.Sprintf(`{"max_uses": %d}`, limit))
		a.grant("p__c", "fs.read", `{"max_uses": 1000}`)
		b := newReplica(t, open())
		var group sync.WaitGroup
		var done atomic.Int64
		for i := range callers {
			r, principal := []*replica{a, b}[i%2], []string{"p", "p__c"}[i/2%2]
			group.Go(func() {
				for range each {
					got := r.ask(principal, "fs.read", `{}`)
					if got.Success {
						done.Add(1)
					} else if got.ErrorType != "grant_denied" {
						t.Errorf("the answer is %+v, want a success or grant_denied", got)
					}
				}
			})
		}
		group.Wait()
		if started := a.started.Load() + b.started.Load(); started != limit || done.Load() != limit || a.uses("p", "fs.read") != limit {
			t.Errorf("%d started, %d done, %d counted, want %d", started, done.Load(), a.uses("p", "fs.read"), limit)
		}
		restarted := newReplica(t, open())
		if got := restarted.ask("p", "fs.read", `{}`); got.ErrorType != "grant_denied" || restarted.reason() != "Capability grant is used up" {
			t.Errorf("after a restart: got %+v for %q, want that the grant is used up", got, restarted.reason())
		}
	})
}

// A replica that hasn't heard yet of a new grant or a revoke neither uses up the new one's uses nor follows the old one.
func TestUseAfterAChangeElsewhere(t *testing.T) {
	storetest.Run(t, candidate.Migrations(store.Migrations()), func(t *testing.T, open func() *dbstore.DB) {
		a := newReplica(t, open())
		a.install("x", "")
		a.grant("p", "fs.read", `{"max_uses": 5}`)
		b := newReplica(t, open()) // follows nothing: it learns of changes by using
		if got := b.ask("p", "fs.read", `{}`); !got.Success {
			t.Fatalf("the answer is %+v, want a success", got)
		}
		a.grant("p", "fs.read", `{"max_uses": 5, "config": {"new": true}}`)
		if got := b.ask("p", "fs.read", `{}`); !got.Success || string(b.last.Config) != `{"new":true}` || a.uses("p", "fs.read") != 1 {
			t.Errorf("after a new grant: got %+v with the config %s, want success with the new one", got, b.last.Config)
		}
		if _, err := a.grants.Revoke(t.Context(), grant.Request{PrincipalID: "p", PermissionID: "fs.read"}); err != nil {
			t.Fatal(err)
		}
		if got := b.ask("p", "fs.read", `{}`); got.ErrorType != "grant_denied" || b.reason() != "Capability grant is disabled" {
			t.Errorf("the other replica after a revocation: got %+v for %q, want grant_denied", got, b.reason())
		}
		if n := a.uses("p", "fs.read"); n != 1 {
			t.Errorf("%d uses are counted, want 1", n)
		}
		if _, err := a.grants.RemovePrincipal(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		if got := b.ask("p", "fs.read", `{}`); got.ErrorType != "grant_denied" || b.reason() != "No capability grant for this permission" {
			t.Errorf("the other replica after a removal: got %+v for %q, want grant_denied", got, b.reason())
		}
	})
}

// A call that waits for a worker starts by the grants at its start, not by those at its decision.
func TestChangesWhileACallWaits(t *testing.T) {
	r := newReplica(t, sqlite(t))
	r.install("x", "")
	for _, c := range []struct {
		change func()
		reason string // "" for a call that starts
	}{
		{func() {}, ""},
		{func() { r.grant("p", "fs.read", `{"config": {"new": true}}`) }, ""},
		{func() { r.grant("q", "fs.read", `{}`) }, ""}, // another's
		{func() {
			if _, err := r.grants.Revoke(t.Context(), grant.Request{PrincipalID: "p", PermissionID: "fs.read"}); err != nil {
				t.Error(err)
			}
		}, "Capability grant is disabled"},
		{func() {
			if _, err := r.grants.RemovePrincipal(t.Context(), "p"); err != nil {
				t.Error(err)
			}
		}, "No capability grant for this permission"},
		{func() { r.grant("p", "fs.read", `{"args_schema": {"required": ["path"]}}`) }, "Args do not fit args_schema: at '' it does not satisfy #/required"},
		{func() { r.closed["p"] = true; r.grant("p", "fs.read", `{}`) }, "Pack's approval can't be confirmed at the moment"},
	} {
		r.closed["p"] = false
		r.grant("p", "fs.read", `{}`)
		before := r.started.Load()
		r.waiting = sync.OnceFunc(c.change)
		got := r.ask("p", "fs.read", `{}`)
		if started := r.started.Load() - before; got.Success != (c.reason == "") || got.Success != (started == 1) || !got.Success && r.reason() != c.reason {
			t.Errorf("want %q: %+v, %q, %d started", c.reason, got, r.reason(), started)
		}
		if c.reason == "" && string(r.last.Config) != string(r.grants.Chain("p", "fs.read")[0].Config) {
			t.Errorf("started with the config %s, want the grant's", r.last.Config)
		}
	}
}

// A pack without any grant may say that it is another as often as it likes.
func TestClaimsAreCounted(t *testing.T) {
	r := newReplica(t, sqlite(t))
	calls := call.New(call.Config{Gates: r, Grants: r.grants, Handlers: r.trust, Runner: r, Audit: r, Log: discard,
		Tracer: noop.NewTracerProvider().Tracer(""), Metrics: prometheus.NewRegistry(), Refusals: 5})
	for range 100 {
		calls.Socket("p").Answer(t.Context(), []byte(`{"pack_id": "q"}`), nil)
	}
	if err := calls.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(r.entries); n != 7 { // five, the first beyond, and the count
		t.Fatalf("%d entries, want 7: five, the first beyond them, and the count of the rest", n)
	}
	if last := r.entries[6]; last.Action != "principal_id_overridden" || last.OwnerPack != "p" || last.Details["count"] != int64(94) {
		t.Errorf("the entry of the count is %+v, want 94 that were overridden", last)
	}
}

// A pack that is granted something can't fill the disk: beyond a bound what doesn't succeed is counted, as refusals are, and all
// that succeeds has a rate.
func TestEntriesOfOnePackAreBounded(t *testing.T) {
	for name, failing := range map[string]error{
		"timeout": context.DeadlineExceeded, "execution_error": &worker.FailedError{Kind: "exception", What: "OSError"},
		"response_too_large": worker.ErrTooLarge, "rate_limited": worker.ErrPaused,
	} {
		r := newReplica(t, sqlite(t))
		r.install("x", "")
		r.grant("p", "fs.read", `{}`)
		r.entries, r.failing = nil, failing
		calls := call.New(call.Config{Gates: r, Grants: r.grants, Handlers: r.trust, Runner: r, Audit: r, Log: discard,
			Tracer: noop.NewTracerProvider().Tracer(""), Metrics: prometheus.NewRegistry(), Refusals: 5})
		for range 100 {
			calls.Socket("p").Answer(t.Context(), []byte(`{"permission_id": "fs.read"}`), nil)
		}
		if err := calls.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := 7 // five, the first beyond, and the count
		if name == "rate_limited" {
			want = 14 // a denial has two
		}
		if n := len(r.entries); n != want {
			t.Fatalf("%s: %d entries of 100 calls, want %d", name, n, want)
		}
		last := r.entries[want-1]
		if reasons, _ := last.Details["by_reason"].(map[string]int64); last.Action != "permission_execute" || last.Success || last.Details["count"] != int64(94) || reasons[name] != 94 {
			t.Errorf("%s: the entry of the count is %+v, want 94 failed calls of this reason", name, last)
		}
	}
}

func TestUsualRate(t *testing.T) {
	r := newReplica(t, sqlite(t))
	r.install("x", "")
	r.grant("p", "fs.read", `{}`)
	r.grant("q", "fs.read", `{"rate_limit": 50}`)
	r.grant("q__c", "fs.read", `{}`)
	calls := call.New(call.Config{Gates: r, Grants: r.grants, Handlers: r.trust, Runner: r, Audit: r, Log: discard,
		Tracer: noop.NewTracerProvider().Tracer(""), Metrics: prometheus.NewRegistry(), Rate: 6})
	for _, c := range []struct {
		principal string
		want      int
		reason    string
	}{
		{"p", 6, "Rate of the principal's calls exceeded (RUMI_CAPABILITY_RATE_LIMIT)"},
		{"q__c", 20, ""}, // in its parent's rate
		{"q", 30, "Rate of the grant exceeded"},
	} {
		done, kinds, n := 0, map[string]int{}, max(20, c.want+1)
		if c.reason == "" {
			n = c.want
		}
		for range n {
			var got struct {
				Success   bool   `json:"success"`
				ErrorType string `json:"error_type"`
			}
			if err := json.Unmarshal(calls.Socket(c.principal).Answer(t.Context(), []byte(`{"permission_id": "fs.read"}`), nil), &got); err != nil {
				t.Fatal(err)
			}
			if kinds[got.ErrorType]++; got.Success {
				done++
			}
		}
		if done != c.want || kinds["rate_limited"] != n-c.want || c.reason != "" && r.reason() != c.reason {
			t.Errorf("%s: %d of %d calls done, %v, %q; want %d, %q", c.principal, done, n, kinds, r.reason(), c.want, c.reason)
		}
	}
}

func TestRates(t *testing.T) {
	r := newReplica(t, sqlite(t))
	r.install("x", "")
	r.grant("p", "fs.read", `{"rate_limit": 5}`)
	r.grant("p__c", "fs.read", `{"rate_limit": 3}`)
	r.grant("p__d", "fs.read", `{}`)
	ask := func(principal string, want bool) {
		t.Helper()
		if got := r.ask(principal, "fs.read", `{}`); got.Success != want || !want && (got.ErrorType != "rate_limited" || got.Error != "Rate limited" || r.reason() != "Rate of the grant exceeded") {
			t.Fatalf("%s: got %+v for %q, want success %v, or else rate_limited", principal, got, r.reason(), want)
		}
	}
	for range 3 {
		ask("p__c", true)
	}
	ask("p__c", false) // its own, which costs the parent nothing
	ask("p__d", true)
	ask("p", true)
	ask("p__d", false) // the family's
	ask("p", false)
}

func TestNarrowestLimits(t *testing.T) {
	r := newReplica(t, sqlite(t))
	r.install("x", "")
	r.grant("p", "fs.read", `{"limits": {"memory_mb": 64, "pids": 20}}`)
	r.grant("p__c", "fs.read", `{"limits": {"memory_mb": 128, "cpus": 0.5, "pids": 10}}`)
	r.ask("p__c", "fs.read", `{}`)
	l := r.last.Limits
	if *l.MemoryMB != 64 || *l.CPUs != 0.5 || *l.PIDs != 10 || l.TimeoutSeconds != nil {
		t.Errorf("limits are %+v, want 64 MiB, half a CPU, 10 processes and no time", l)
	}
}

// What a call costs beyond judging from memory: nothing, or a transaction that is on the disk.
func BenchmarkUse(b *testing.B) {
	for _, c := range []struct{ name, terms string }{{"unbounded", `{}`}, {"max_uses", `{"max_uses": 1000000000}`}, {"args_schema",
		`{"args_schema": {"type": "object", "properties": {"path": {"type": "string", "pattern": "^/data/[a-z]+$"}}, "required": ["path"], "additionalProperties": false}}`}} {
		b.Run(c.name, func(b *testing.B) {
			r := newReplica(b, sqlite(b))
			r.install("x", "")
			r.grant("p", "fs.read", c.terms)
			for b.Loop() {
				if got := r.ask("p", "fs.read", `{"path": "/data/x"}`); !got.Success {
					b.Fatalf("the call got %+v, want success", got)
				}
			}
		})
	}
}
