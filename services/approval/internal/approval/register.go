package approval

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
	"github.com/rumi-ai/rumi/services/approval/internal/store"
	"github.com/rumi-ai/rumi/services/approval/internal/watch"
)

const (
	batch    = 500 // packs that are made known in one transaction
	speakers = 64  // audit entries that are written at once, so that they share a sync
)

// arrival is a pack that is not known yet.
type arrival struct {
	id   pack.ID
	now  state
	look *watch.Look
}

// register makes the records of packs that have none. Their entries and commits would take milliseconds each, so many
// packs share one.
func (s *Service) register(ctx context.Context, ids []pack.ID) error {
	for len(ids) > 0 {
		some := ids[:min(batch, len(ids))]
		ids = ids[len(some):]
		arrived, err := s.arrive(ctx, some)
		var created map[string]*record.Record
		if err == nil {
			created, err = s.create(ctx, arrived)
		}
		for _, a := range arrived {
			// Where another replica was faster its record may say anything.
			s.endLook(a.id, a.look, created[string(a.id)], err == nil && a.now.problem == "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// arrive looks at packs; those that have no folder are not among the result, whose looks are the caller's to end.
func (s *Service) arrive(ctx context.Context, ids []pack.ID) ([]arrival, error) {
	all := make([]arrival, len(ids))
	group, looking := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, id := range ids {
		group.Go(func() (err error) {
			defer s.lock(id)()
			look := s.Watcher.Begin(string(id), false)
			now, err := s.look(looking, id, look)
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
	entries := make([]store.Beginning, 0, len(arrived))
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
		entries = append(entries, store.Beginning{Record: r, Event: d.event(ctx, r, at)})
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
