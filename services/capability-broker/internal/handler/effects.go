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

// pin makes the grants that a handler's approval would leave without an answer name the one they are served by now. A grant
// that names no handler is served by the only one there is: with a second one nobody could say which its operator meant, and a
// decision about one pack would take away what was decided about another.
func (s *Service) pin(ctx context.Context, next Trust) error {
	if err := s.Registry.Reload(ctx); err != nil { // another replica may have approved one a moment ago
		return err
	}
	others := s.others(next)
	if len(others) != 1 {
		return nil
	}
	return s.Grants.Pin(ctx, next.PermissionID, others[0].Ref())
}

// others are the trusted handlers of a permission but for the one of t's pack and slug.
func (s *Service) others(t Trust) []*Trust {
	return slices.DeleteFunc(slices.Clone(s.Registry.For(t.PermissionID)), func(o *Trust) bool { return o.Ref() == t.Ref() })
}

// Effects say what trusting a candidate does, or did, to grants: which handlers serve its permission then, and which grants are
// refused then.
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

// Withdrawn says which grants nothing serves once a handler is not trusted any more.
func (s *Service) Withdrawn(c Candidate) []string {
	t, refused := c.trust(), []string{}
	s.eachGrant(t.Ref(), func(g *grant.Grant) { refused = append(refused, g.PrincipalID) })
	return sentence("no trusted handler serves these grants of %s any more, and they are refused: %s", t.PermissionID, refused)
}

// eachGrant calls fn for the grants in force that a handler serves: those that name it, and those that name none while it is the
// only one of its permission.
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

// Withdraw takes trust in a handler back: its workers are ended, its copy is removed, and its candidate counts as rejected.
func (s *Service) Withdraw(ctx context.Context, key, reason string) (candidate.Item[Candidate], error) {
	s.approving.Lock()
	defer s.approving.Unlock()
	item, err := s.candidates.Withdraw(ctx, key, reason)
	if err != nil {
		return item, err
	}
	ctx = context.WithoutCancel(ctx) // what is decided is carried out
	if err := s.Registry.Reload(ctx); err != nil {
		return item, err
	}
	if s.Registry.Of(item.Payload.PackID, item.Payload.Slug) != nil {
		return item, nil // another version had taken its place
	}
	s.Retired(item.Payload.PackID, item.Payload.Slug)
	return item, s.Folders.remove(item.Payload.PackID, item.Payload.Slug)
}
