package candidate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/keylock"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/store"
)

// Change is a decision, with the candidate as the decision left it.
type Change[P any] struct {
	Verb Verb
	From State
	Item Item[P]

	Request *confirm.Request // that the decision made (Ask), carried out (Install) or ended (all others); nil for none
}

// Config has the parts that the owner of candidates supplies.
type Config[P any] struct {
	// Record writes the audit entry of a decision. It is called before the change is committed, and its error undoes the change: nothing is
	// decided without an entry. After a crash between entry and commit there is an entry of a decision that wasn't made.
	Record func(ctx context.Context, change Change[P]) error
	// Store, which may be nil, writes the owner's own tables in the transaction of a decision.
	Store func(tx *store.Tx, change Change[P]) error
	// Differs, which may be nil, says whether a scan found another payload than was installed under the same key. Then the candidate has
	// to be decided about again. Whether what it installed stays in use until then is up to the owner.
	Differs func(installed, seen P) bool
	// InUse says whether an installed candidate is the one that its pack uses. The default, for nil: the candidate of a pack that
	// was installed last is in use.
	InUse func(tx *store.Tx, item Item[P]) (bool, error)
	// Changed is called after the commit of a change of the counts. It must not block.
	Changed func(ctx context.Context)
	// Approvals is how many persons an approval takes; the zero value is one.
	Approvals confirm.Approvals
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Candidates are the candidates of one owner. It is safe for concurrent use, and several processes may use the same database.
type Candidates[P any] struct {
	db  *store.DB
	cfg Config[P]

	approving keylock.Locks
}

// New uses the database db, which was opened with Migrations.
func New[P any](db *store.DB, cfg Config[P]) *Candidates[P] {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.InUse == nil {
		cfg.InUse = lastInstalled[P]
	}
	return &Candidates[P]{db: db, cfg: cfg}
}

// Get reads a candidate. Without one the error is a fault "Candidate not found".
func (c *Candidates[P]) Get(ctx context.Context, key string) (item Item[P], err error) {
	err = c.db.View(ctx, func(tx *store.Tx) error {
		item, err = get[P](tx, key)
		return err
	})
	return item, err
}

// List reads the candidates in a state ("" for any), the oldest first.
func (c *Candidates[P]) List(ctx context.Context, state State) ([]Item[P], error) {
	return c.list(ctx, `state = ? OR ? = ''`, string(state), string(state))
}

// OfPack reads a pack's candidates in a state ("" for any), the oldest first.
func (c *Candidates[P]) OfPack(ctx context.Context, packID string, state State) ([]Item[P], error) {
	return c.list(ctx, `pack_id = ? AND (state = ? OR ? = '')`, packID, string(state), string(state))
}

func (c *Candidates[P]) list(ctx context.Context, where string, args ...any) (items []Item[P], err error) {
	err = c.db.View(ctx, func(tx *store.Tx) error {
		items, err = query[P](tx, where, args...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list candidates: %w", err)
	}
	return items, nil
}

// Counts counts the candidates by state.
func (c *Candidates[P]) Counts(ctx context.Context) (Counts, error) {
	n, err := c.countStates(ctx)
	if err != nil {
		return Counts{}, err
	}
	return Counts{Pending: n[Pending], Installed: n[Installed], Rejected: n[Rejected], Failed: n[Failed], Blocked: n[Blocked]}, nil
}

// countStates counts the candidates of each state, with states of other versions.
func (c *Candidates[P]) countStates(ctx context.Context) (map[State]int, error) {
	counts := make(map[State]int)
	err := c.db.View(ctx, func(tx *store.Tx) error {
		clear(counts) // of a transaction that is tried again
		return tx.Each(func(scan func(...any) error) error {
			var state State
			var n int
			if err := scan(&state, &n); err != nil {
				return err
			}
			counts[state] = n
			return nil
		}, `SELECT state, COUNT(*) FROM candidates GROUP BY state`)
	})
	if err != nil {
		return nil, fmt.Errorf("count candidates: %w", err)
	}
	return counts, nil
}

// failure is the error of an installation after which the candidate is failed.
type failure struct{ err error }

func (f failure) Error() string { return f.err.Error() }
func (f failure) Unwrap() error { return f.err }

// InstallFailed marks the error of an install function when the approval was in order but the installation failed: the
// candidate becomes failed with the text of err, and the caller gets err. Any other error leaves the candidate as it was.
func InstallFailed(err *fault.Fault) error { return failure{err} }

// IsInstallFailed says whether err was made by InstallFailed.
func IsInstallFailed(err error) bool {
	_, ok := errors.AsType[failure](err)
	return ok
}

// recordInstall records how an installation ended, with the payload that it made. If the candidate was decided about differently
// meanwhile, that decision stands, and the error is a conflict.
func (c *Candidates[P]) recordInstall(ctx context.Context, verb Verb, item Item[P]) (Item[P], error) {
	// The work is done: that the caller's connection has ended must not leave it half recorded.
	return c.decide(context.WithoutCancel(ctx), verb, item.Key, func(stored *Item[P]) error {
		// A scan may have superseded the candidate meanwhile because its bytes no longer exist. The installation failed for the same
		// reason, so that the failure is recorded all the same.
		if stored.revision != item.revision && (verb != Fail || stored.State != Superseded) {
			return fault.Conflict("Candidate changed while it was being installed (status: %s)", stored.State).With("candidate_changed")
		}
		stored.Payload, stored.LastError = item.Payload, item.LastError
		if verb == Install {
			stored.LastError, stored.Request = "", item.Request
		}
		return nil
	})
}

// Reject rejects a candidate; after BlockedAfter rejections it is blocked. An open request for its approval ends. An installed candidate can't
// be rejected, but a request for it can: then only that ends.
func (c *Candidates[P]) Reject(ctx context.Context, key, reason string) (Item[P], error) {
	item, err := c.decideFor(ctx, Reject, key, reason)
	if err != nil && fault.Of(err).Code == "candidate_installed" && item.Request.Open(c.cfg.Now()) {
		return c.decideFor(ctx, Lapse, key, reason)
	}
	return item, err
}

// Withdraw takes back the approval of an installed candidate, and counts as a rejection. The owner removes what was installed:
// with Config.Store in the same transaction, and the rest afterwards.
func (c *Candidates[P]) Withdraw(ctx context.Context, key, reason string) (Item[P], error) {
	return c.decideFor(ctx, Withdraw, key, reason)
}

// Unblock makes a blocked candidate pending, with its rejections forgotten.
func (c *Candidates[P]) Unblock(ctx context.Context, key, reason string) (Item[P], error) {
	return c.decideFor(ctx, Unblock, key, reason)
}

func (c *Candidates[P]) decideFor(ctx context.Context, verb Verb, key, reason string) (Item[P], error) {
	if len(reason) > MaxText {
		return Item[P]{}, fault.TooLong("reason", MaxText)
	}
	return c.decide(ctx, verb, key, func(item *Item[P]) error {
		item.Reason = reason
		return nil
	})
}

// decide checks, records and stores a decision. Every decision goes through it, so that none is without an audit entry. It returns the
// candidate as it is afterwards, also if the decision was refused.
func (c *Candidates[P]) decide(ctx context.Context, verb Verb, key string, change func(*Item[P]) error) (item Item[P], err error) {
	now := c.cfg.Now()
	recorded := State("") // the state that was left by the recorded decision: a transaction that is repeated must not record it twice
	err = c.db.Tx(ctx, func(tx *store.Tx) error {
		if item, err = get[P](tx, key); err != nil {
			return err
		}
		from := item.State
		next, err := item.Apply(verb, now)
		if err != nil {
			return err
		}
		decided := item
		decided.endRequest(next, verb)
		if err := change(&decided); err != nil {
			return err
		}
		if decided.Status, decided.UpdatedAt = next, now; verb != Ask && verb != Lapse {
			decided.Actor = origin.Of(ctx).Actor
		}
		if err := update(tx, decided); err != nil {
			return err
		}
		decision := Change[P]{Verb: verb, From: from, Item: decided, Request: decided.Request}
		if verb != Install && decided.Request == nil && item.Request.Open(now) {
			decision.Request = item.Request
		}
		if c.cfg.Store != nil {
			if err := c.cfg.Store(tx, decision); err != nil {
				return err
			}
		}
		if recorded != from {
			if err := c.cfg.Record(ctx, decision); err != nil {
				return err
			}
			recorded = from
		}
		item = decided
		return nil
	})
	if err != nil {
		return item, fmt.Errorf("%s candidate: %w", verb, err)
	}
	c.changed(ctx)
	return item, nil
}

// RemovePack deletes a pack's candidates and returns them. Blocked ones stay: a pack that is uninstalled and installed again
// must not get rid of a block that way.
func (c *Candidates[P]) RemovePack(ctx context.Context, packID string) (removed []Item[P], err error) {
	err = c.db.Tx(ctx, func(tx *store.Tx) error {
		const where = `pack_id = ? AND state <> ?`
		if removed, err = query[P](tx, where, packID, string(Blocked)); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM candidates WHERE `+where, packID, string(Blocked))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("remove candidates of pack: %w", err)
	}
	if len(removed) > 0 {
		c.changed(ctx)
	}
	return removed, nil
}

func (c *Candidates[P]) changed(ctx context.Context) {
	if c.cfg.Changed != nil {
		c.cfg.Changed(ctx)
	}
}
