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
	followTimeout  = 10 * time.Second // for one comparison of the gates with the records
)

// Follow brings the gates up to what other replicas have decided, until ctx ends. The services that follow this replica's gates
// would otherwise go on running what another replica has rejected, and never hear of an approval that was given there.
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
			changes.Recheck()
			if !failing && ctx.Err() == nil {
				s.Log.ErrorContext(ctx, "could not read the decisions of other replicas; trying again", "error", err)
			}
		}
		failing = err != nil
	})
}

// catchUp compares the gates with the records once. Gates are closed first, before any pack is scanned: scans may take long. A
// pack that another replica approved is scanned before its gate opens here, so that this replica watches it, too, and holds it
// closed where its folder isn't what was approved. A failure with one pack doesn't delay the others.
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
			s.removed(ctx, id) // it was uninstalled and installed again: its revisions began at 1 again, so that set would ignore the new record
		}
		switch {
		case fault.Is(err, fault.KindNotFound):
			s.removed(ctx, id)
		case err != nil:
			problems = append(problems, err)
		case r.Status.Executable():
			executable = append(executable, id)
		default:
			s.gates.set(ctx, r)
		}
	}
	if len(executable) > 0 {
		problems = append(problems, s.refreshPacks(ctx, executable, false)) // it holds those closed that it can't scan
	}
	for _, id := range executable {
		r, err := s.Records.Get(ctx, string(id))
		if err == nil {
			s.gates.set(ctx, r)
		} else if !fault.Is(err, fault.KindNotFound) { // if it was removed meanwhile, the next round finds that
			problems = append(problems, err)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("follow records: %w", err)
	}
	return nil
}

// removed takes over that a pack has no record any more. If a new record is made at this moment, the next round takes that
// over.
func (s *Service) removed(ctx context.Context, id pack.ID) {
	defer s.lock(id)()
	s.Watcher.Forget(string(id))
	s.gates.remove(ctx, id)
	s.forget(id)
}

// outdated lists the packs whose known record has another revision than the database says, that aren't known, or that the
// database has no more.
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
