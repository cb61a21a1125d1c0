package grant

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
)

// Chain is what a call stands on: the principal's own grant and, where the principal is the child of another
// (parent__child), the grants of its parents, nearest first. A child has at most what its parents have, so each of them
// must allow the call.
type Chain []*Grant

// Permit is what a chain allows together.
type Permit struct {
	Chain   Chain
	Handler *HandlerRef // nil for whichever is the only one
	Limits  Limits      // the narrowest
	Mounts  []Mount     // of the principal's own grant
}

// Chain gives the grants of a principal and its parents for a permission. It takes no lock and touches no disk. The
// grants must not be changed. While nobody can say whether they still hold, they are ones that allow nothing.
func (c *Cache) Chain(principal, permission string) Chain {
	all, fresh := c.snapshot.Value(), c.snapshot.Fresh(time.Now())
	find := func(id string) *Grant {
		if !fresh {
			return &Grant{PrincipalID: id, PermissionID: permission, unusable: Unknown}
		}
		if g := all[id][permission]; g != nil {
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

// Identity names the very grants of the chain. A grant that replaces another has another identity, even where it says the same and
// however fast it followed: comparing what grants say would take one that was revoked and granted again for the one before.
func (c Chain) Identity() string {
	var b strings.Builder
	for _, g := range c {
		fmt.Fprintf(&b, "%s %d\n", g.PrincipalID, g.GrantedAt.UnixNano())
	}
	return b.String()
}

// Decide says what the chain allows at the time now, or why it allows nothing.
func (c Chain) Decide(now time.Time) (Permit, Reason) { return c.permit((*Grant).Decide, now) }

// DecideStarted is Decide for a call that has started: the one that used up its grant goes on.
func (c Chain) DecideStarted(now time.Time) (Permit, Reason) { return c.permit((*Grant).inForce, now) }

func (c Chain) permit(decide func(*Grant, time.Time) Reason, now time.Time) (Permit, Reason) {
	if reason := decide(c[0], now); reason != Allowed {
		return Permit{}, reason
	}
	p := Permit{Chain: c, Handler: c[0].Terms.Handler, Mounts: c[0].Terms.Mounts}
	p.Limits = p.Limits.narrow(c[0].Terms.Limits)
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

// under narrows the permit to what a parent's grant allows, too. What both have to say about arguments is judged when
// they are there.
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
	p.Limits = p.Limits.narrow(parent.Terms.Limits)
	return Allowed
}
