package candidate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
)

// person is the context of a call by the holder of a token that init made.
func person(t *testing.T, name string) context.Context {
	return origin.With(t.Context(), origin.Origin{RequestID: "r", Actor: name, Role: access.Operator, Lineage: "init"})
}

// two is an owner whose approvals take two persons.
type two struct {
	*candidates
	mu       sync.Mutex
	now      time.Time
	digest   string // of what would be installed
	installs int
	audit    []string
}

func newTwo(db *store.DB) *two {
	w := &two{now: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC), digest: "sha256:aa"}
	w.candidates = candidate.New(db, candidate.Config[payload]{
		Approvals: 2,
		Record: func(ctx context.Context, c candidate.Change[payload]) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			entry := fmt.Sprintf("%s by %s", c.Verb, origin.Of(ctx).Actor)
			if c.Request != nil {
				entry += ", asked by " + c.Request.AskedBy
			}
			w.audit = append(w.audit, entry)
			return nil
		},
		InUse: func(*store.Tx, item) (bool, error) { return true, nil },
		Now:   func() time.Time { return w.now },
	})
	return w
}

func (w *two) approve(ctx context.Context, options map[string]string) (item, error) {
	return w.Approve(ctx, "p:1", candidate.Approval[payload]{
		Options: options,
		InForce: func(_ context.Context, i item) bool { return i.Payload.Result == w.digest },
		Check:   func(context.Context, *item) (string, error) { return w.digest, nil },
		Install: func(_ context.Context, i *item) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.installs++
			i.Payload.Result = w.digest
			return nil
		},
	})
}

func (w *two) audited(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(w.audit, want) {
		t.Errorf("audited %q, want %q", w.audit, want)
	}
	w.audit = nil
}

// wait expects that an approval has recorded who asks, and nothing else.
func (w *two) wait(t *testing.T, who string, options map[string]string, state candidate.State, askedBy string) {
	t.Helper()
	before := w.installs
	got, err := w.approve(person(t, who), options)
	if err != nil || got.State != state || !got.Request.Open(w.now) || got.Request.AskedBy != askedBy || w.installs != before || w.Confirmation(got) == nil {
		t.Fatalf("%s approves: got %+v, %+v, %v, %d installs; want it %s and a request of %s", who, got, got.Request, err, w.installs-before, state, askedBy)
	}
}

// carry expects that an approval confirms what was asked for.
func (w *two) carry(t *testing.T, who, askedBy string) {
	t.Helper()
	got, err := w.approve(person(t, who), nil)
	if err != nil || got.State != candidate.Installed || got.Actor != who || got.Request.Requester() != askedBy || got.Request.ConfirmedBy != who ||
		got.Payload.Result != w.digest || w.Confirmation(got) != nil {
		t.Fatalf("%s confirms: got %+v, %+v, %v; want it installed, asked by %s", who, got, got.Request, err, askedBy)
	}
}

func (w *two) refused(t *testing.T, who string, options map[string]string, code string) {
	t.Helper()
	before := w.installs
	if got, err := w.approve(person(t, who), options); err == nil || fault.Of(err).Code != code || w.installs != before {
		t.Fatalf("%s approves: got %+v, %v, %d installs; want %s", who, got, err, w.installs-before, code)
	}
}

func suiteOfTwo(t *testing.T, run func(t *testing.T, w *two, open func() *store.DB)) {
	storetest.Run(t, candidate.Migrations(nil), func(t *testing.T, open func() *store.DB) {
		w := newTwo(open())
		if _, err := w.Scan(t.Context(), found("p:1"), nil); err != nil {
			t.Fatal(err)
		}
		run(t, w, open)
	})
}

func TestTwoPersons(t *testing.T) {
	suiteOfTwo(t, func(t *testing.T, w *two, open func() *store.DB) {
		w.wait(t, "alice", nil, candidate.Pending, "alice")
		w.wait(t, "alice", nil, candidate.Pending, "alice")
		w.audited(t, "ask by alice, asked by alice")
		if _, err := w.approve(t.Context(), nil); fault.Of(err).Code != "person_required" {
			t.Errorf("nobody approves: got %v, want person_required", err)
		}
		w.refused(t, "bob", map[string]string{"allow_sdist": "true"}, "request_differs")
		if _, err := w.Scan(t.Context(), found("p:1"), nil); err != nil { // the same bytes
			t.Fatal(err)
		}
		w.carry(t, "bob", "alice")
		w.audited(t, "install by bob, asked by alice")
		if got, err := w.approve(person(t, "bob"), nil); err != nil || got.Request.Requester() != "alice" || w.installs != 1 {
			t.Errorf("again: got %+v, %v, %d installs; want what is installed", got, err, w.installs)
		}

		// The same key with other bytes, as of a handler whose folder changed beside handler.py.
		w.digest = "sha256:bb"
		w.wait(t, "bob", nil, candidate.Installed, "bob")
		if got, err := w.Get(t.Context(), "p:1"); err != nil || got.Payload.Result != "sha256:aa" {
			t.Errorf("got %+v, %v; want what was installed before", got, err)
		}
		if _, err := w.Reject(person(t, "carol"), "p:1", "no"); err != nil {
			t.Errorf("a request for what is installed is rejected: got %v, want no error", err)
		}
		if got, err := w.Get(t.Context(), "p:1"); err != nil || got.State != candidate.Installed || got.Request != nil {
			t.Errorf("got %+v, %v; want it installed as before, without a request", got, err)
		}
		if _, err := w.Reject(person(t, "carol"), "p:1", "no"); fault.Of(err).Code != "candidate_installed" {
			t.Errorf("rejected without a request: got %v, want candidate_installed", err)
		}
		w.audited(t, "ask by bob, asked by bob", "lapse by carol, asked by bob")
		w.wait(t, "bob", nil, candidate.Installed, "bob")
		w.carry(t, "alice", "bob")
	})
}

func TestCandidateRequestsEnd(t *testing.T) {
	for about, c := range map[string]struct {
		end   func(t *testing.T, w *two) error
		state candidate.State
	}{
		"rejected by who asked": {func(t *testing.T, w *two) error { _, err := w.Reject(person(t, "alice"), "p:1", ""); return err }, candidate.Rejected},
		"rejected by another":   {func(t *testing.T, w *two) error { _, err := w.Reject(person(t, "bob"), "p:1", ""); return err }, candidate.Rejected},
		"its bytes are gone":    {func(t *testing.T, w *two) error { _, err := w.Scan(t.Context(), nil, nil); return err }, candidate.Superseded},
		"too late":              {func(_ *testing.T, w *two) error { w.now = w.now.Add(confirm.Lifetime); return nil }, candidate.Pending},
		"a check that fails": {func(t *testing.T, w *two) error {
			_, err := w.Approve(person(t, "bob"), "p:1", candidate.Approval[payload]{
				Check: func(context.Context, *item) (string, error) {
					return "", candidate.InstallFailed(fault.ContentChanged("x", "y"))
				},
			})
			if fault.Of(err).Code != "hash_mismatch" {
				return fmt.Errorf("got %w, want hash_mismatch", err)
			}
			return nil
		}, candidate.Failed},
		"an installation that fails": {func(t *testing.T, w *two) error {
			_, err := w.Approve(person(t, "bob"), "p:1", candidate.Approval[payload]{
				Check: func(context.Context, *item) (string, error) { return w.digest, nil },
				Install: func(context.Context, *item) error {
					return candidate.InstallFailed(fault.Conflict("no").With("install_failed"))
				},
			})
			if fault.Of(err).Code != "install_failed" {
				return fmt.Errorf("got %w, want install_failed", err)
			}
			return nil
		}, candidate.Failed},
		"other bytes": {func(t *testing.T, w *two) error {
			w.digest = "sha256:bb"
			w.refused(t, "bob", nil, "request_lapsed")
			return nil
		}, candidate.Pending},
	} {
		t.Run(about, func(t *testing.T) {
			suiteOfTwo(t, func(t *testing.T, w *two, open func() *store.DB) {
				w.wait(t, "alice", nil, candidate.Pending, "alice")
				if err := c.end(t, w); err != nil {
					t.Fatal(err)
				}
				w.wait(t, "bob", nil, c.state, "bob") // nothing is left to be confirmed
				w.carry(t, "alice", "bob")
			})
		})
	}
}

// An installation that can't be tried, because Docker is down, leaves the request: the confirmation can be repeated.
func TestConfirmationCanBeRepeatedAfterAnOutage(t *testing.T) {
	suiteOfTwo(t, func(t *testing.T, w *two, open func() *store.DB) {
		w.wait(t, "alice", nil, candidate.Pending, "alice")
		_, err := w.Approve(person(t, "bob"), "p:1", candidate.Approval[payload]{
			Check:   func(context.Context, *item) (string, error) { return w.digest, nil },
			Install: func(context.Context, *item) error { return fault.DockerUnavailable() },
		})
		if !fault.Is(err, fault.KindUnavailable) {
			t.Fatalf("got %v, want Docker's absence", err)
		}
		w.carry(t, "bob", "alice")
	})
}

// Several persons approve at once on two replicas: one request, one approval, two persons.
func TestCandidateConfirmationsAtOnce(t *testing.T) {
	storetest.Run(t, candidate.Migrations(nil), func(t *testing.T, open func() *store.DB) {
		both := [2]*two{newTwo(open()), newTwo(open())}
		for round := range 6 {
			if _, err := both[0].Scan(t.Context(), found("p:1"), nil); err != nil {
				t.Fatal(err)
			}
			people := []string{"alice", "bob", "carol"}
			if round == 5 {
				people = []string{"alice"}
			}
			var all sync.WaitGroup
			for _, name := range people {
				for _, w := range both {
					all.Go(func() {
						if _, err := w.approve(person(t, name), nil); err != nil && fault.Of(err).Code != "candidate_changed" {
							t.Errorf("round %d, %s: got %v, want no error", round, name, err)
						}
					})
				}
			}
			all.Wait()
			got, err := both[0].Get(t.Context(), "p:1")
			switch {
			case err != nil:
				t.Fatal(err)
			case len(people) == 1 && got.State != candidate.Pending:
				t.Fatalf("alice alone: got %+v, want it pending", got)
			case len(people) > 1 && (got.State != candidate.Installed || got.Request.Requester() == "" || got.Request.AskedBy == got.Request.ConfirmedBy):
				t.Fatalf("round %d: got %+v, %+v; want it installed by two", round, got, got.Request)
			}
			if _, err := both[1].RemovePack(t.Context(), "p"); err != nil {
				t.Fatal(err)
			}
		}
		requests, installs := 0, 0
		for _, entry := range slices.Concat(both[0].audit, both[1].audit) {
			switch {
			case len(entry) > 3 && entry[:3] == "ask":
				requests++
			default:
				installs++
			}
		}
		if requests != 6 || installs != 5 {
			t.Errorf("audited %d requests and %d others; want 6 requests and 5 installations", requests, installs)
		}
	})
}

// A failure of the audit log undoes the request.
func TestRequestNeedsItsEntry(t *testing.T) {
	suiteOfTwo(t, func(t *testing.T, w *two, open func() *store.DB) {
		full := errors.New("disk full")
		broken := candidate.New(open(), candidate.Config[payload]{Approvals: 2, Record: func(context.Context, candidate.Change[payload]) error { return full }})
		if _, err := broken.Approve(person(t, "alice"), "p:1", candidate.Approval[payload]{
			Check: func(context.Context, *item) (string, error) { return "sha256:aa", nil },
		}); !errors.Is(err, full) {
			t.Errorf("got %v, want the audit log's error", err)
		}
		if got, err := w.Get(t.Context(), "p:1"); err != nil || got.Request != nil {
			t.Errorf("got %+v, %v; want no request", got, err)
		}
		w.wait(t, "alice", nil, candidate.Pending, "alice")
		w.carry(t, "bob", "alice")
	})
}
