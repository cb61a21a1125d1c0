package approval

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/periodic"
)

const (
	followInterval = 50 * time.Millisecond
	followTimeout  = 10 * time.Second // for one look
)

// Follow brings the gates up to what other replicas have decided, until ctx ends. Without it the services that follow this replica's
// gates would go on letting run what another replica has rejected, and hear of no approval that was given there.
func (s *Service) Follow(ctx context.Context) error {
	changes := s.Records.Changes()
	failing := false
	return periodic.Run(ctx, followInterval, func(ctx context.Context) {
		if !changes.Pending() {
			return
		}
		limited, cancel := context.WithTimeout(ctx, followTimeout)
		err := s.catchUp(limited)
		cancel()
		if err != nil {
			changes.Again()
			if !failing && ctx.Err() == nil {
				s.Log.ErrorContext(ctx, "can't follow what other replicas decide about packs; trying again", "error", err)
			}
		}
		failing = err != nil
	})
}

// catchUp compares the gates with the records once. Gates are closed before anything is read of packs: that may take a while. A
// pack that another replica let run is looked at first, so that this replica watches it, too, and holds it where it is not what was
// approved. What can't be done for one pack keeps no other behind.
func (s *Service) catchUp(ctx context.Context) error {
	revisions, err := s.Records.Revisions(ctx)
	if err != nil {
		return err
	}
	var problems []error
	var executable []pack.ID
	for _, id := range s.gates.outdated(revisions) {
		r, err := s.Records.Get(ctx, string(id))
		if known := s.gates.newest(id); err == nil && known != nil && r.Revision < known.Revision && !r.CreatedAt.Equal(known.CreatedAt) {
			s.removed(id) // and known anew since: revisions began anew, too
		}
		switch {
		case fault.Is(err, fault.KindNotFound):
			s.removed(id)
		case err != nil:
			problems = append(problems, err)
		case r.Status.Executable():
			executable = append(executable, id)
		default:
			s.gates.set(r)
		}
	}
	if len(executable) > 0 {
		problems = append(problems, s.refreshPacks(ctx, executable, false)) // it holds those that it can't look at
	}
	for _, id := range executable {
		r, err := s.Records.Get(ctx, string(id))
		if err == nil {
			s.gates.set(r)
		} else if !fault.Is(err, fault.KindNotFound) { // the next look finds it gone
			problems = append(problems, err)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("follow records: %w", err)
	}
	return nil
}

// removed takes over that a pack has no record any more. A new one that is made at this moment is taken over by the next look.
func (s *Service) removed(id pack.ID) {
	defer s.lock(id)()
	s.Watcher.Forget(string(id))
	s.gates.remove(id)
	s.forget(id)
}

// behind are the packs of which the gates know another record, or none, or one that is gone.
func (g *gates) outdated(revisions map[string]int64) (ids []pack.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, revision := range revisions {
		if known, ok := g.records[pack.ID(id)]; !ok || known.Revision != revision {
			ids = append(ids, pack.ID(id))
		}
	}
	for id := range g.records {
		if _, there := revisions[string(id)]; !there {
			ids = append(ids, id)
		}
	}
	return ids
}
