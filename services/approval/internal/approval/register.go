package approval

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
	"github.com/rumi-ai/rumi/services/approval/internal/watch"
)

const (
	batch    = 500 // packs that are made known in one transaction
	speakers = 64  // audit entries that are written at once, so that they share a sync

	// splits is how often a call of register divides a batch that failed. One pack that can't be recorded takes nine.
	splits = 40
)

// arrival is a pack that is not known yet.
type arrival struct {
	id   pack.ID
	now  state
	look *watch.Look
}

// register makes the records of packs that have none. Their entries and commits would take milliseconds each, so many
// packs share one. The error tells of the packs that could not be made known; they keep no others from it.
func (s *Service) register(ctx context.Context, ids []pack.ID) error {
	var problems []error
	left := splits
	for some := range slices.Chunk(ids, batch) {
		arrived, err := s.arrive(ctx, some)
		problems = append(problems, err, s.admit(ctx, arrived, &left))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(problems...)
}

// admit makes records of packs and ends the looks at them. Where a batch can't be written it is divided, *left times at most, so that one
// pack whose record can't be written keeps no other from being known.
func (s *Service) admit(ctx context.Context, arrived []arrival, left *int) error {
	created, err := s.create(ctx, arrived)
	if err != nil && len(arrived) > 1 && *left > 0 && ctx.Err() == nil {
		*left--
		half := len(arrived) / 2
		return errors.Join(s.admit(ctx, arrived[:half], left), s.admit(ctx, arrived[half:], left))
	}
	for _, a := range arrived {
		// Where another replica was faster its record may say anything.
		s.endLook(a.id, a.look, created[string(a.id)], err == nil && a.now.problem == "")
	}
	if err != nil && len(arrived) > 0 {
		return fmt.Errorf("register %d packs, the first is %s: %w", len(arrived), arrived[0].id, err)
	}
	return nil
}

// arrive looks at packs; those that have no folder are not among the result, whose looks are the caller's to end.
func (s *Service) arrive(ctx context.Context, ids []pack.ID) ([]arrival, error) {
	all := make([]arrival, len(ids))
	var group errgroup.Group // without a context: that one pack can't be looked at keeps no other from being known
	group.SetLimit(parallel)
	for i, id := range ids {
		group.Go(func() (err error) {
			defer s.lock(id)()
			look := s.Watcher.Begin(string(id), false)
			now, err := s.look(ctx, id, look)
			if err != nil || now.gone {
				look.Drop()
				s.Watcher.Forget(string(id))
				return err
			}
			all[i] = arrival{id, now, look}
			return nil
		})
	}
	err := group.Wait()
	arrived := all[:0]
	for _, a := range all {
		if a.look != nil {
			arrived = append(arrived, a)
		}
	}
	return arrived, err
}

// create makes records, by id, of packs that still have none.
func (s *Service) create(ctx context.Context, arrived []arrival) (map[string]*record.Record, error) {
	if len(arrived) == 0 {
		return nil, nil
	}
	at := time.Now().UTC().Truncate(time.Microsecond)
	created := map[string]*record.Record{}
	said := map[string]*decision{}
	entries := make([]record.NewRecord, 0, len(arrived))
	for _, a := range arrived {
		r := record.New(string(a.id), at)
		describe(r, a.now.found.Descriptor)
		d := &decision{action: "registered", details: map[string]any{"version": r.Version, "pack_identity": r.Identity}}
		if a.now.problem != "" {
			if _, err := r.Do(record.Break, at); err != nil {
				return nil, err
			}
			r.LastError, d.err = a.now.problem, a.now.problem
		}
		said[r.PackID] = d
		entries = append(entries, record.NewRecord{Record: r, Event: d.event(ctx, r, at)})
		for _, warning := range a.now.found.Warnings {
			s.Log.WarnContext(ctx, warning, "pack_id", a.id)
		}
	}
	err := s.Records.Create(ctx, entries, func(made []*record.Record) error {
		clear(created)
		speaking, speakingCtx := errgroup.WithContext(ctx)
		speaking.SetLimit(speakers)
		for _, r := range made {
			created[r.PackID] = r
			speaking.Go(func() error { return s.say(speakingCtx, pack.ID(r.PackID), said[r.PackID]) })
		}
		return speaking.Wait()
	})
	if err != nil || len(created) == 0 {
		return nil, err
	}
	made := make([]*record.Record, 0, len(created))
	for _, r := range created {
		made = append(made, r)
	}
	s.gates.set(made...)
	s.Changed()
	return created, nil
}
