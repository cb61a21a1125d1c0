package candidate

import (
	"context"
	"errors"
	"fmt"

	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
)

// Approval has the parts that an owner supplies for one approval of a candidate.
type Approval[P any] struct {
	// Options are what the operator chose, by the names of the request's fields. Where an approval takes two persons, both choose the same.
	Options map[string]string
	Notes   string // of the operator; those of who asked count where the one who confirms has none

	// InForce says of an installed candidate whether the approval would change nothing. nil says so of every one.
	InForce func(ctx context.Context, item Item[P]) bool

	// Check finds out, without an effect, whether Install would be refused, and returns the digest of the bytes that it would install. It is
	// called only where an approval takes two persons. Its errors count as those of Install.
	Check func(ctx context.Context, item *Item[P]) (digest string, err error)

	// Install installs the candidate. It runs without a transaction, for as long as it needs. What it puts into the item's payload is stored
	// when it succeeds, and when it fails with InstallFailed. item.Request is the request that is carried out, nil where one person is enough.
	//
	// If somebody decides differently while it runs, that decision stands. Therefore it must have no effect that only an installed candidate
	// may have.
	Install func(ctx context.Context, item *Item[P]) error
}

// maxJudgements is how often an approval is judged anew because the candidate changed between the judgement and the transaction.
const maxJudgements = 5

// errJudgeAnew says that the candidate changed since it was judged.
var errJudgeAnew = errors.New("the candidate changed")

// Approve installs a candidate. Where an approval takes two persons, the call of the first one records a request: then the item is as it was,
// with an open Request (see Confirmation), and nothing is installed.
//
// An installed candidate of which a.InForce says so is returned as it is. If somebody decides differently while a.Install runs, that decision
// stands and the caller gets a conflict. Other errors are those of confirm.Approvals.Judge, of a.Check and of a.Install.
func (c *Candidates[P]) Approve(ctx context.Context, key string, a Approval[P]) (Item[P], error) {
	unlock, err := c.approving.Lock(ctx, key) // the same request twice installs once
	if err != nil {
		return Item[P]{}, fmt.Errorf("approve candidate: %w", err)
	}
	defer unlock()
	for range maxJudgements {
		item, err := c.approve(ctx, key, a)
		if !errors.Is(err, errJudgeAnew) {
			return item, err
		}
	}
	return Item[P]{}, fault.Conflict("Candidate changed while it was being approved; try again").With("candidate_changed")
}

func (c *Candidates[P]) approve(ctx context.Context, key string, a Approval[P]) (Item[P], error) {
	item, err := c.Get(ctx, key)
	if err != nil {
		return Item[P]{}, err
	}
	if _, err := item.Apply(Install, c.cfg.Now()); err != nil {
		return item, err
	}
	if item.State == Installed && (a.InForce == nil || a.InForce(ctx, item)) {
		if item.Request.Open(c.cfg.Now()) { // for something that is in force by now
			item.Request = nil
		}
		return item, nil
	}
	step, err := c.judge(ctx, &item, a)
	switch {
	case err != nil:
		return c.fail(ctx, item, err)
	case step == confirm.Ask:
		return c.ask(ctx, item)
	case step == confirm.Wait:
		return item, nil
	}
	if err := a.Install(ctx, &item); err != nil {
		return c.fail(ctx, item, err)
	}
	installed, err := c.recordInstall(ctx, Install, item)
	if err != nil && installed.State == Installed && item.State != Installed {
		return installed, nil // another replica was as fast
	}
	return installed, err
}

// judge says what the approval leads to, and sets the item's request to the one that belongs to that step.
func (c *Candidates[P]) judge(ctx context.Context, item *Item[P], a Approval[P]) (confirm.Step, error) {
	stored := item.Request
	item.Request = nil
	terms := confirm.Terms{Options: a.Options, Notes: a.Notes}
	if c.cfg.Approvals.Two() {
		var err error
		if terms.Digest, err = a.Check(ctx, item); err != nil {
			return 0, err
		}
	}
	step, request, err := c.cfg.Approvals.Judge(ctx, stored, terms, c.cfg.Now())
	item.Request = request
	if confirm.Lapsed(err) {
		_, lapsing := c.decide(ctx, Lapse, item.Key, func(stored *Item[P]) error { return sameRevision(*stored, *item) })
		err = errors.Join(lapsing, err)
	}
	return step, err
}

// fail ends an approval that was refused or failed. An InstallFailed error is recorded, except of an installed candidate, which stays so.
func (c *Candidates[P]) fail(ctx context.Context, item Item[P], err error) (Item[P], error) {
	failed, ok := errors.AsType[failure](err)
	if !ok || item.State == Installed {
		return item, err
	}
	item.LastError = clipText(fault.Of(failed.err).Message)
	recorded, recordErr := c.recordInstall(ctx, Fail, item)
	return recorded, errors.Join(recordErr, err)
}

// ask records the item's request, unless the candidate has changed since it was judged: the change may be another person's request, which
// this approval then confirms.
func (c *Candidates[P]) ask(ctx context.Context, item Item[P]) (Item[P], error) {
	return c.decide(ctx, Ask, item.Key, func(stored *Item[P]) error {
		stored.Request = item.Request
		return sameRevision(*stored, item)
	})
}

// sameRevision is errJudgeAnew if the stored candidate isn't the one that was judged.
func sameRevision[P any](stored, judged Item[P]) error {
	if stored.revision != judged.revision {
		return errJudgeAnew
	}
	return nil
}

// Confirmation is what answers show of an item's open request, nil for none.
func (c *Candidates[P]) Confirmation(item Item[P]) *confirm.Confirmation {
	return c.cfg.Approvals.Shown(item.Request, c.cfg.Now())
}
