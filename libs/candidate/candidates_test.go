package candidate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
)

type payload struct {
	Slug   string `json:"slug"`
	Result string `json:"result,omitempty"`
}

type (
	candidates = candidate.Candidates[payload]
	item       = candidate.Item[payload]
)

// owner is what a test has of a service that owns candidates: a clock it turns, an audit log it reads.
type owner struct {
	*candidates
	now     time.Time
	mu      sync.Mutex
	audit   []string
	failing error // of the audit log
	pings   int
}

func newOwner(db *store.DB) *owner {
	o := &owner{now: time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC)}
	o.candidates = candidate.New(db, candidate.Config[payload]{
		Record: func(_ context.Context, c candidate.Change[payload]) error {
			o.mu.Lock()
			defer o.mu.Unlock()
			if o.failing != nil {
				return o.failing
			}
			o.audit = append(o.audit, fmt.Sprintf("%s %s→%s by %s: %s%s", c.Verb, c.From, c.Item.State, c.Item.Actor, c.Item.Reason, c.Item.LastError))
			return nil
		},
		Differs: func(installed, seen payload) bool { return installed.Slug != seen.Slug },
		Changed: func(context.Context) { o.mu.Lock(); o.pings++; o.mu.Unlock() },
		Now:     func() time.Time { return o.now },
	})
	return o
}

func suite(t *testing.T, run func(t *testing.T, o *owner, open func() *store.DB)) {
	storetest.Run(t, candidate.Migrations(nil), func(t *testing.T, open func() *store.DB) { run(t, newOwner(open()), open) })
}

func operator(t *testing.T) context.Context {
	return origin.With(t.Context(), origin.Origin{Actor: "operator"})
}

func found(keys ...string) (out []candidate.Found[payload]) {
	for _, key := range keys {
		pack, _, _ := strings.Cut(key, ":")
		out = append(out, candidate.Found[payload]{Key: key, PackID: pack, Payload: payload{Slug: "seen"}})
	}
	return out
}

func (o *owner) scan(t *testing.T, keys ...string) candidate.ScanResult {
	t.Helper()
	result, err := o.Scan(t.Context(), found(keys...), nil)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func (o *owner) get(t *testing.T, key string) item {
	t.Helper()
	got, err := o.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// approve is Approve without options.
func (o *owner) approve(ctx context.Context, key string, install func(context.Context, *item) error) (item, error) {
	return o.Approve(ctx, key, candidate.Approval[payload]{Install: install})
}

func works(_ context.Context, i *item) error { i.Payload.Result = "installed"; return nil }

func TestLifeOfACandidate(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, open func() *store.DB) {
		if r := o.scan(t, "a:1", "b:1"); r.PendingCreated != 2 || r.Scanned != 2 || r.Errors == nil {
			t.Fatalf("first scan: %+v; want 2 scanned and made pending, and errors that aren't nil", r)
		}
		got, err := o.approve(operator(t), "a:1", works)
		if err != nil || got.State != candidate.Installed || got.Payload != (payload{"seen", "installed"}) || got.Actor != "operator" {
			t.Fatalf("the approval gives %+v, %v; want it installed by the operator", got, err)
		}
		for n := 1; n <= 3; n++ {
			got, err := o.Reject(operator(t), "b:1", "no")
			want := candidate.Status{State: candidate.Rejected, RejectCount: n, CooldownUntil: o.now.Add(time.Hour)}
			if n == 3 {
				want = candidate.Status{State: candidate.Blocked, RejectCount: 3}
			}
			if err != nil || got.Status != want {
				t.Fatalf("rejection %d: %+v, %v; want status %v", n, got, err, want)
			}
		}
		if counts, err := o.Counts(t.Context()); err != nil || counts != (candidate.Counts{Installed: 1, Blocked: 1}) {
			t.Fatalf("the counts are %+v, %v; want one installed and one blocked", counts, err)
		}
		if r := o.scan(t, "a:1", "b:1"); r.SkippedInstalled != 1 || r.SkippedBlocked != 1 || r.PendingCreated != 0 {
			t.Fatalf("second scan: %+v; want skipped installed 1, skipped blocked 1, pending created 0", r)
		}
		if got, err := o.Unblock(operator(t), "b:1", "again"); err != nil || got.Status != (candidate.Status{State: candidate.Pending}) {
			t.Fatalf("the unblocking gives %+v, %v; want it pending, with no rejections", got, err)
		}
		want := []string{
			"install pending→installed by operator: ", "reject pending→rejected by operator: no",
			"reject rejected→rejected by operator: no", "reject rejected→blocked by operator: no",
			"unblock blocked→pending by operator: again",
		}
		if fmt.Sprint(o.audit) != fmt.Sprint(want) {
			t.Errorf("audit log has %q; want %q", o.audit, want)
		}
		if o.pings != 1+len(want) {
			t.Errorf("told of %d changes; want %d", o.pings-1, len(want))
		}
		if again := newOwner(open()).get(t, "b:1"); again != o.get(t, "b:1") || again.Reason != "again" {
			t.Errorf("another replica reads %+v; want %+v, with the reason again", again, o.get(t, "b:1"))
		}
	})
}

func TestCooldown(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.scan(t, "a:1")
		if _, err := o.Reject(t.Context(), "a:1", ""); err != nil {
			t.Fatal(err)
		}
		o.now = o.now.Add(candidate.Cooldown - time.Microsecond)
		if r := o.scan(t, "a:1"); r.SkippedCooldown != 1 {
			t.Fatalf("just before its end: %+v; want skipped cooldown 1", r)
		}
		o.now = o.now.Add(time.Microsecond)
		if r := o.scan(t, "a:1"); r.PendingCreated != 1 {
			t.Fatalf("at its end: %+v; want pending created 1", r)
		}
		if got := o.get(t, "a:1"); got.Status != (candidate.Status{State: candidate.Pending, RejectCount: 1}) || got.UpdatedAt != o.now {
			t.Errorf("the candidate is %+v, want it pending since %v, with its rejection", got, o.now)
		}
	})
}

func TestFailedInstallation(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.scan(t, "a:1")
		reason := fault.Conflict("Index said no\x00")
		_, err := o.approve(operator(t), "a:1", func(_ context.Context, i *item) error {
			i.Payload.Result = "half"
			return candidate.InstallFailed(reason)
		})
		if !errors.Is(err, reason) || !fault.Is(err, fault.KindConflict) {
			t.Fatalf("error is %v; want the reason, a conflict", err)
		}
		got := o.get(t, "a:1")
		if got.State != candidate.Failed || got.LastError != "Index said no\uFFFD" || got.Payload.Result != "half" || got.Actor != "operator" {
			t.Fatalf("the candidate is %+v, want it failed, with the error of the index made valid UTF-8", got)
		}
		if r := o.scan(t, "a:1"); r.PendingCreated != 1 {
			t.Fatalf("scan: %+v; want pending created 1", r)
		}
		if got := o.get(t, "a:1"); got.State != candidate.Pending || got.LastError != "" || got.Payload.Result != "" {
			t.Errorf("the candidate is %+v; want it pending, without an error or a result", got)
		}
	})
}

// Another thing under an installed one's key is to be decided about; under a rejected or blocked one's it asks for nothing.
func TestAnotherThingUnderTheSameKey(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		other := found("p:a", "p:b", "p:c")
		for i := range other {
			other[i].Payload.Slug = "other"
		}
		o.scan(t, "p:a", "p:b", "p:c")
		_, err := o.approve(operator(t), "p:a", works)
		must(t, err)
		_, err = o.Reject(operator(t), "p:b", "")
		must(t, err)
		for range candidate.BlockedAfter {
			_, err = o.Reject(operator(t), "p:c", "")
			must(t, err)
		}
		if got := o.scan(t, "p:a", "p:b"); got.SkippedInstalled != 1 || got.PendingCreated != 0 {
			t.Errorf("the same again: %+v; want skipped installed 1, pending created 0", got)
		}
		pings := o.pings
		got, err := o.Scan(t.Context(), other, nil)
		must(t, err)
		if got.PendingCreated != 1 || got.SkippedCooldown != 1 || got.SkippedBlocked != 1 || o.pings != pings+1 {
			t.Errorf("another: %+v, told %d times; want one pending, one in its cooldown, one blocked, told once", got, o.pings-pings)
		}
		if a := o.get(t, "p:a"); a.State != candidate.Pending || a.Payload != (payload{Slug: "other"}) {
			t.Errorf("the candidate becomes %+v, want it pending, with the other slug", a)
		}
		if b := o.get(t, "p:b"); b.State != candidate.Rejected || b.Payload.Slug != "seen" {
			t.Errorf("the rejected one becomes %+v; want state rejected, slug seen", b)
		}
	})
}

func TestRefusedApprovalChangesNothing(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.scan(t, "a:1")
		before := o.get(t, "a:1")
		refusal := fault.Conflict("Pack 'a' is not approved (status: pending)")
		_, err := o.approve(t.Context(), "a:1", func(_ context.Context, i *item) error { i.Payload.Result = "x"; return refusal })
		if !errors.Is(err, refusal) || o.get(t, "a:1") != before || len(o.audit) != 0 {
			t.Errorf("error %v, item %+v, audit %v; want the refusal, the item %+v and no entry", err, o.get(t, "a:1"), o.audit, before)
		}
	})
}

func TestApproveIsIdempotent(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.scan(t, "a:1")
		installs := 0
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				got, err := o.approve(t.Context(), "a:1", func(ctx context.Context, i *item) error { installs++; return works(ctx, i) })
				if err != nil || got.Payload.Result != "installed" {
					t.Errorf("the approval gives %+v, %v; want the result installed", got, err)
				}
			})
		}
		wg.Wait()
		if installs != 1 || len(o.audit) != 1 {
			t.Errorf("%d installations, audit %v; want one of each", installs, o.audit)
		}
	})
}

func TestDecisionDuringAnInstallationStands(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, open func() *store.DB) {
		replica := newOwner(open())
		reject := func(t *testing.T, key string) { _, err := replica.Reject(t.Context(), key, "no"); must(t, err) }
		approve := func(t *testing.T, key string) {
			_, err := replica.Approve(t.Context(), key, candidate.Approval[payload]{Install: works})
			must(t, err)
		}
		failed := candidate.InstallFailed(fault.Unavailable("Index can't be reached"))
		for _, c := range []struct {
			key       string
			meanwhile func(*testing.T, string)
			result    error
			want      candidate.State
			kind      fault.Kind
		}{
			{"a:rejected-then-installed", reject, nil, candidate.Rejected, fault.KindConflict},
			{"a:rejected-then-failed", reject, failed, candidate.Rejected, fault.KindConflict},
			{"a:installed-twice", approve, nil, candidate.Installed, 0},
			{"a:installed-then-failed", approve, failed, candidate.Installed, fault.KindConflict},
		} {
			o.scan(t, c.key)
			got, err := o.approve(t.Context(), c.key, func(ctx context.Context, i *item) error {
				c.meanwhile(t, c.key)
				i.Payload.Result = "late"
				return c.result
			})
			if (err == nil) != (c.kind == 0) || err != nil && !fault.Is(err, c.kind) {
				t.Errorf("%s: got the error %v, want the kind %v", c.key, err, c.kind)
			}
			stored := o.get(t, c.key)
			if stored.State != c.want || stored.Payload.Result == "late" || err == nil && got != stored {
				t.Errorf("%s: stored %+v, answered %+v; want the state %v in both", c.key, stored, got, c.want)
			}
		}
		if len(o.audit) != 0 {
			t.Errorf("audit log of decisions that were not taken: %q; want it empty", o.audit)
		}
	})
}

func TestCallerWhoLeavesDoesNotUndoAnInstallation(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.scan(t, "a:1")
		ctx, cancel := context.WithCancel(operator(t))
		_, err := o.approve(ctx, "a:1", func(ctx context.Context, i *item) error { cancel(); return works(ctx, i) })
		if got := o.get(t, "a:1"); err != nil || got.State != candidate.Installed || got.Actor != "operator" {
			t.Errorf("the candidate is %+v, %v; want it installed by the operator", got, err)
		}
	})
}

func TestNothingIsDecidedWithoutAuditEntry(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.scan(t, "a:1")
		before, pings := o.get(t, "a:1"), o.pings
		o.failing = errors.New("disk is full")
		_, rejected := o.Reject(t.Context(), "a:1", "no")
		_, approved := o.approve(t.Context(), "a:1", works)
		if !errors.Is(rejected, o.failing) || !errors.Is(approved, o.failing) || o.get(t, "a:1") != before || o.pings != pings {
			t.Errorf("rejected with %v, approved with %v, and it is %+v; want the audit log's error twice, and the item %+v", rejected, approved, o.get(t, "a:1"), before)
		}
	})
}

func TestUnknownAndBadRequests(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.scan(t, "a:1")
		long := strings.Repeat("x", candidate.MaxText+1)
		for name, c := range map[string]struct {
			call func() error
			kind fault.Kind
		}{
			"get":     {func() error { _, err := o.Get(t.Context(), "b:1"); return err }, fault.KindNotFound},
			"approve": {func() error { _, err := o.approve(t.Context(), "b:1", works); return err }, fault.KindNotFound},
			"reject":  {func() error { _, err := o.Reject(t.Context(), "b:1", ""); return err }, fault.KindNotFound},
			"unblock": {func() error { _, err := o.Unblock(t.Context(), "a:1", ""); return err }, fault.KindNotFound},
			"long":    {func() error { _, err := o.Reject(t.Context(), "a:1", long); return err }, fault.KindInvalid},
			"NUL":     {func() error { _, err := o.Reject(t.Context(), "a:1", "\x00"); return err }, fault.KindInvalid},
		} {
			if err := c.call(); !fault.Is(err, c.kind) {
				t.Errorf("%s: %v; want the kind %v", name, err, c.kind)
			}
		}
	})
}

func TestListing(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.scan(t, "b:1", "a:2")
		o.now = o.now.Add(time.Second)
		o.scan(t, "b:1", "a:2", "a:1")
		_, err := o.Reject(t.Context(), "b:1", "")
		must(t, err)
		keys := func(items []item, err error) string {
			must(t, err)
			var keys []string
			for _, i := range items {
				keys = append(keys, i.Key)
			}
			return strings.Join(keys, " ")
		}
		if got := keys(o.List(t.Context(), "")); got != "a:2 b:1 a:1" {
			t.Errorf("all: %s; want \"a:2 b:1 a:1\"", got)
		}
		if got := keys(o.List(t.Context(), candidate.Pending)); got != "a:2 a:1" {
			t.Errorf("pending: %s; want \"a:2 a:1\"", got)
		}
		if got := keys(o.OfPack(t.Context(), "b", candidate.Rejected)); got != "b:1" {
			t.Errorf("of b: %s; want b:1", got)
		}
	})
}

func TestRemovePackKeepsBlocks(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.scan(t, "a:1", "a:2", "b:1")
		for range candidate.BlockedAfter {
			_, err := o.Reject(t.Context(), "a:2", "")
			must(t, err)
		}
		removed, err := o.RemovePack(t.Context(), "a")
		if err != nil || len(removed) != 1 || removed[0].Key != "a:1" {
			t.Fatalf("removed %+v, %v; want a:1 alone", removed, err)
		}
		if counts, err := o.Counts(t.Context()); err != nil || counts != (candidate.Counts{Pending: 1, Blocked: 1}) {
			t.Errorf("the counts are %+v, %v; want one pending and one blocked", counts, err)
		}
	})
}

func TestMigrationsOfAnOwnerComeAlong(t *testing.T) {
	own := fstest.MapFS{"00100_own.sql": {Data: []byte("-- +goose Up\nCREATE TABLE own (n INTEGER);\n-- +goose Down\nDROP TABLE own;\n")}}
	storetest.Run(t, candidate.Migrations(own), func(t *testing.T, open func() *store.DB) {
		newOwner(open()).scan(t, "a:1")
		err := open().View(t.Context(), func(tx *store.Tx) error { return tx.QueryRow(`SELECT COUNT(*) FROM own`).Scan(new(int)) })
		must(t, err)
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
