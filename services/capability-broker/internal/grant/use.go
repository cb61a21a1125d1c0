package grant

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// ErrChanged says that a grant has been replaced since a call was decided about. The caller decides again, by the grant that there is now.
var ErrChanged = errors.New("the grant was changed meanwhile")

// Changed is Store.Use's reason for ErrChanged.
const Changed Reason = "Capability grant was changed meanwhile"

// StillValid says whether a decision by c still holds, where now is the same chain as it is at present: none of its grants was changed or
// revoked, or has expired. Chains of one principal and permission have the same length.
func (c Chain) StillValid(now Chain, at time.Time) bool {
	return slices.EqualFunc(c, now, func(decided, found *Grant) bool {
		return found.UpdatedAt.Equal(decided.UpdatedAt) && found.Decide(at) == Allowed
	})
}

// Use counts a call that is about to start, in every grant of the chain that bounds its uses, in all of them or in none. The reason says why
// the call may not start; ErrChanged means that it must be decided about again. A chain without bounds costs nothing, others a transaction.
//
// The count is in the database, and each use is one conditional update there, so that no number of replicas, and no crash between the count
// and the call, lets more calls start than were granted. A crash may lose a use that no call had; it never gives one back. Uses of one
// process run one at a time: SQLite has one writer, and waiting here costs less than being refused there and trying again.
func (c *Cache) Use(ctx context.Context, chain Chain) (Reason, error) {
	var bounded []*Grant
	for _, g := range chain {
		if g.Terms.MaxUses != nil {
			bounded = append(bounded, g)
		}
	}
	if len(bounded) == 0 {
		return Allowed, nil
	}
	select {
	case c.counting <- struct{}{}:
		defer func() { <-c.counting }()
	case <-ctx.Done():
		return "", fmt.Errorf("count a use: %w", ctx.Err())
	}
	reason, of, err := c.Store.Use(ctx, bounded)
	switch {
	case err != nil:
		return "", fmt.Errorf("count a use: %w", err)
	case reason == Allowed:
		return Allowed, nil
	case reason == Changed:
		if err := c.snapshot.Reload(ctx); err != nil {
			return "", err
		}
		return "", ErrChanged
	case reason == UsedUp:
		bounded[of].usedUp.Store(true) // uses never come back, so the store needn't be asked again
	}
	return reason + chain.of(slices.Index(chain, bounded[of])), nil
}

// CheckArgs says why the arguments of a call don't satisfy a schema of the chain, Allowed where they satisfy all. No value is in the text.
func (c Chain) CheckArgs(args jsontext.Value) Reason {
	for i, g := range c {
		if g.args == nil {
			continue
		}
		if problem := g.args.Check(args); problem != "" {
			return "Args do not fit args_schema" + c.of(i) + ": " + Reason(problem)
		}
	}
	return Allowed
}

// of is the end of a reason that is about the chain's i-th grant: it names the parent, and is empty for the principal itself.
func (c Chain) of(i int) Reason {
	if i == 0 {
		return ""
	}
	return " (of the parent " + Reason(c[i].PrincipalID) + ")"
}
