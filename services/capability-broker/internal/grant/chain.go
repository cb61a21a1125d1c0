package grant

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
)

// Chain is the grants that a call of a permission depends on: the principal's own first and, where the principal is the child of another
// pack (parent__child), those of its parents, nearest first. A child has at most what its parents have, so each of them must allow the
// call. A chain is never empty: a missing grant is one that allows nothing.
type Chain []*Grant

// Permit is the permission that all grants of a chain allow together.
type Permit struct {
	Chain   Chain
	Handler *HandlerRef // nil where no grant names one: the only handler of the permission
	Limits  Limits      // of each, the lowest of the chain
	Mounts  []Mount     // of the principal's own grant; each is within what its parents are granted
}

// Chain returns the grants of a principal and its parents for a permission, from memory: it takes no lock and reads no disk. The grants must
// not be changed. While the database can't be followed, a grant may have been revoked without this replica's knowing: then every grant of
// the chain is one that allows nothing, with the reason Unknown.
func (c *Cache) Chain(principal, permission string) Chain {
	all, fresh := c.snapshot.Value(), c.snapshot.Fresh(time.Now())
	find := func(id string) *Grant {
		if !fresh {
			return &Grant{PrincipalID: id, PermissionID: permission, unusable: Unknown}
		}
		if g := all.by[id][permission]; g != nil {
			return g
		}
		return &Grant{PrincipalID: id, PermissionID: permission, unusable: None}
	}
	chain := Chain{find(principal)}
	for id, ok := pack.Parent(pack.ID(principal)); ok; id, ok = pack.Parent(id) {
		chain = append(chain, find(string(id)))
	}
	return chain
}

// Identity names the grants of the chain as decisions, not by what they allow. A grant that replaces another has another identity, even
// with the same content: otherwise a permission that was revoked and granted again between two checks would look unchanged, and what it
// had started before the revoke would go on.
func (c Chain) Identity() string {
	var b strings.Builder
	for _, g := range c {
		fmt.Fprintf(&b, "%s %d\n", g.PrincipalID, g.GrantedAt.UnixNano())
	}
	return b.String()
}

// Decide says what the chain allows at the time now, or why it allows nothing.
func (c Chain) Decide(now time.Time) (Permit, Reason) { return c.permit((*Grant).Decide, now) }

// DecideStarted is Decide for a call that has started, and for the worker that it runs in: the call that has used up its grant goes on.
func (c Chain) DecideStarted(now time.Time) (Permit, Reason) { return c.permit((*Grant).inForce, now) }

func (c Chain) permit(decide func(*Grant, time.Time) Reason, now time.Time) (Permit, Reason) {
	if reason := decide(c[0], now); reason != Allowed {
		return Permit{}, reason
	}
	p := Permit{Chain: c, Handler: c[0].Terms.Handler, Mounts: c[0].Terms.Mounts}
	p.Limits = p.Limits.narrow(c[0].Terms.Limits).narrow(c[0].unasked)
	for i, g := range c[1:] {
		if reason := decide(g, now); reason != Allowed {
			return Permit{}, reason + c.of(i+1)
		}
		if reason := p.under(g); reason != Allowed {
			return Permit{}, reason
		}
	}
	return p, Allowed
}

// under narrows the permit to what a parent's grant allows, too, or says why that can't be done. Schemas of arguments are not compared: each
// is applied to a call's arguments (CheckArgs).
//
// A config that only a handler understands can't be narrowed: it must be the parent's own, or a child could give itself more by naming, say,
// a higher limit.
func (p *Permit) under(parent *Grant) Reason {
	own := p.Chain[0]
	if own.settings == nil && !bytes.Equal(own.sorted, parent.sorted) {
		return "Config is not that of the parent " + Reason(parent.PrincipalID) + ", and only the handler knows which of them allows more"
	}
	switch theirs := parent.Terms.Handler; {
	case p.Handler == nil:
		p.Handler = theirs
	case theirs != nil && *theirs != *p.Handler:
		return "The parent " + Reason(parent.PrincipalID) + " is granted another handler"
	}
	for _, m := range p.Mounts {
		if !m.within(parent.Terms.Mounts) {
			return "The parent " + Reason(parent.PrincipalID) + " is not granted a mount"
		}
	}
	p.Limits = p.Limits.narrow(parent.Terms.Limits).narrow(parent.unasked)
	return Allowed
}
