package grant

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// ErrChanged says that a grant is another by now than the one that a call was decided by. Decided again, the call may be
// allowed or not.
var ErrChanged = errors.New("the grant was changed meanwhile")

// Changed is Store.Use's reason for ErrChanged.
const Changed Reason = "Capability grant was changed meanwhile"

// StillValid says whether now, the same chain found again, allows what c did: none of its grants was changed, taken away or
// has run out.
func (c Chain) StillValid(now Chain, at time.Time) bool {
	return slices.EqualFunc(c, now, func(decided, found *Grant) bool {
		return found.UpdatedAt.Equal(decided.UpdatedAt) && found.Decide(at) == Allowed
	})
}

// Use counts a call that is about to start, in every grant of the chain that bounds its uses: in all of them or in none.
// Never are more calls counted than a grant has uses, whatever replicas there are and however they die. The reason says
// why the call may not start. A chain without bounds costs nothing, others a transaction.
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
		bounded[of].usedUp.Store(true) // so that the store needn't be asked again
	}
	return reason + chain.of(slices.Index(chain, bounded[of])), nil
}

// CheckArgs says why the arguments of a call are not what the chain's schemas ask for, Allowed where they are.
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

// of names the holder of the chain's i-th grant where that is a parent.
func (c Chain) of(i int) Reason {
	if i == 0 {
		return ""
	}
	return " (of the parent " + Reason(c[i].PrincipalID) + ")"
}
