package handler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
)

// pin has grants that name no handler name the one that serves them now, before a second one of the same permission is trusted. A grant
// that names none is served by the only handler there is. With a second one it would be ambiguous, so refused: a pack could break other
// packs' grants by offering a handler of the same permission, as soon as that is approved.
func (s *Service) pin(ctx context.Context, next Trust) error {
	if err := s.Registry.Reload(ctx); err != nil { // another replica may have approved a handler since the last comparison
		return err
	}
	others := s.others(next)
	if len(others) != 1 {
		return nil
	}
	return s.Grants.Pin(ctx, next.PermissionID, others[0].Ref())
}

// others are the handlers that are trusted for t's permission, without the one of t's pack and slug.
func (s *Service) others(t Trust) []*Trust {
	return slices.DeleteFunc(slices.Clone(s.Registry.For(t.PermissionID)), func(o *Trust) bool { return o.Ref() == t.Ref() })
}

// Effects describes for an operator, in sentences, what trusting a candidate does to grants: which handlers serve its permission then, and which
// grants are refused then.
func (s *Service) Effects(c Candidate) []string {
	next, effects := c.trust(), []string{}
	if others := s.others(next); len(others) > 0 {
		names := []string{next.Ref().String()}
		for _, o := range others {
			names = append(names, o.Ref().String())
		}
		slices.Sort(names)
		effects = append(effects, fmt.Sprintf("%s is served by %s then: a new grant of it must name one of them (handler)", next.PermissionID, strings.Join(names, " and ")))
	}
	next.compile(nil)
	var moved, unfit []string
	s.eachGrant(next.Ref(), func(g *grant.Grant) {
		switch {
		case g.PermissionID != next.PermissionID:
			moved = append(moved, g.PrincipalID+" ("+g.PermissionID+")")
		case next.CheckConfig(g.Config) != "":
			unfit = append(unfit, g.PrincipalID)
		}
	})
	effects = append(effects, sentence("the handler serves %s only: these grants name it for another permission, and are refused then: %s", next.PermissionID, moved)...)
	return append(effects, sentence("the config of these grants of %s does not fit the handler's config_schema, and they are refused then: %s", next.PermissionID, unfit)...)
}

// Withdrawn describes for an operator, in sentences, which grants no handler serves once trust in a candidate is withdrawn.
func (s *Service) Withdrawn(c Candidate) []string {
	t, refused := c.trust(), []string{}
	s.eachGrant(t.Ref(), func(g *grant.Grant) { refused = append(refused, g.PrincipalID) })
	return sentence("no trusted handler serves these grants of %s any more, and they are refused: %s", t.PermissionID, refused)
}

// eachGrant calls fn for the grants in force that a handler serves: those that name it, and those that name none while it is the only one of
// its permission.
func (s *Service) eachGrant(ref grant.HandlerRef, fn func(*grant.Grant)) {
	now := time.Now()
	s.Grants.Each(func(g *grant.Grant) {
		if g.Decide(now) != grant.Allowed || grant.Reserved(g.PermissionID) {
			return
		}
		if named := g.Terms.Handler; named != nil && *named == ref {
			fn(g)
		} else if named == nil {
			if serving := s.Registry.For(g.PermissionID); len(serving) == 1 && serving[0].Ref() == ref {
				fn(g)
			}
		}
	})
}

func sentence(format, permission string, names []string) []string {
	if len(names) == 0 {
		return []string{}
	}
	slices.Sort(names)
	return []string{fmt.Sprintf(format, permission, strings.Join(names, ", "))}
}

// Withdraw withdraws the trust in a candidate's handler: its workers end, its copy is removed, and the candidate counts as rejected.
func (s *Service) Withdraw(ctx context.Context, key, reason string) (candidate.Item[Candidate], error) {
	s.approving.Lock()
	defer s.approving.Unlock()
	item, err := s.candidates.Withdraw(ctx, key, reason)
	if err != nil {
		return item, err
	}
	ctx = context.WithoutCancel(ctx) // the decision is committed: a caller that disconnects must not stop it half way
	if err := s.Registry.Reload(ctx); err != nil {
		return item, err
	}
	if s.Registry.Of(item.Payload.PackID, item.Payload.Slug) != nil {
		return item, nil // another version is trusted under the slug; its workers and copy stay
	}
	s.Retired(item.Payload.PackID, item.Payload.Slug)
	return item, s.Folders.remove(item.Payload.PackID, item.Payload.Slug)
}
