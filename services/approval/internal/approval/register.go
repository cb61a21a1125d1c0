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
	batchSize        = 500 // packs that are made known in one transaction
	auditConcurrency = 64  // audit entries that are written at once, so that they share a sync

	// splits is how often a call of register divides a batch that failed. One pack that can't be recorded takes nine.
	maxSplits = 40
)

// arrival is a pack that is not known yet.
type newPack struct {
	id   pack.ID
	now  scanResult
	scan *watch.Scan
}

// register makes the records of packs that have none. Their entries and commits would take milliseconds each, so many
// packs share one. The error tells of the packs that could not be made known; they keep no others from it.
func (s *Service) register(ctx context.Context, ids []pack.ID) error {
	var problems []error
	left := maxSplits
	for some := range slices.Chunk(ids, batchSize) {
		scanned, err := s.scanNew(ctx, some)
		problems = append(problems, err, s.createRecords(ctx, scanned, &left))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(problems...)
}

// admit makes records of packs and ends the looks at them. Where a batch can't be written it is divided, *left times at most, so that one
// pack whose record can't be written keeps no other from being known.
func (s *Service) createRecords(ctx context.Context, scanned []newPack, left *int) error {
	created, err := s.create(ctx, scanned)
	if err != nil && len(scanned) > 1 && *left > 0 && ctx.Err() == nil {
		*left--
		half := len(scanned) / 2
		return errors.Join(s.createRecords(ctx, scanned[:half], left), s.createRecords(ctx, scanned[half:], left))
	}
	for _, a := range scanned {
		// Where another replica was faster its record may say anything.
		s.endScan(a.id, a.scan, created[string(a.id)], err == nil && a.now.problem == "")
	}
	if err != nil && len(scanned) > 0 {
		return fmt.Errorf("register %d packs, the first is %s: %w", len(scanned), scanned[0].id, err)
	}
	return nil
}

// arrive looks at packs; those that have no folder are not among the result, whose looks are the caller's to end.
func (s *Service) scanNew(ctx context.Context, ids []pack.ID) ([]newPack, error) {
	all := make([]newPack, len(ids))
	var group errgroup.Group // without a context: that one pack can't be looked at keeps no other from being known
	group.SetLimit(scanConcurrency)
	for i, id := range ids {
		group.Go(func() (err error) {
			defer s.lock(id)()
			scan := s.Watcher.BeginScan(string(id), false)
			now, err := s.scan(ctx, id, scan)
			if err != nil || now.gone {
				scan.Drop()
				s.Watcher.Forget(string(id))
				return err
			}
			all[i] = newPack{id, now, scan}
			return nil
		})
	}
	err := group.Wait()
	scanned := all[:0]
	for _, a := range all {
		if a.scan != nil {
			scanned = append(scanned, a)
		}
	}
	return scanned, err
}

// create makes records, by id, of packs that still have none.
func (s *Service) create(ctx context.Context, scanned []newPack) (map[string]*record.Record, error) {
	if len(scanned) == 0 {
		return nil, nil
	}
	at := time.Now().UTC().Truncate(time.Microsecond)
	created := map[string]*record.Record{}
	decided := map[string]*decision{}
	entries := make([]record.NewRecord, 0, len(scanned))
	for _, a := range scanned {
		r := record.New(string(a.id), at)
		describe(r, a.now.found.Descriptor)
		d := &decision{action: "registered", details: map[string]any{"version": r.Version, "pack_identity": r.Identity}}
		if a.now.problem != "" {
			if _, err := r.Apply(record.Invalidate, at); err != nil {
				return nil, err
			}
			r.LastError, d.err = a.now.problem, a.now.problem
		}
		decided[r.PackID] = d
		entries = append(entries, record.NewRecord{Record: r, Event: d.event(ctx, r, at)})
		for _, warning := range a.now.found.Warnings {
			s.Log.WarnContext(ctx, warning, "pack_id", a.id)
		}
	}
	err := s.Records.Create(ctx, entries, func(made []*record.Record) error {
		clear(created)
		writing, writingCtx := errgroup.WithContext(ctx)
		writing.SetLimit(auditConcurrency)
		for _, r := range made {
			created[r.PackID] = r
			writing.Go(func() error { return s.writeAudit(writingCtx, pack.ID(r.PackID), decided[r.PackID]) })
		}
		return writing.Wait()
	})
	if err != nil || len(created) == 0 {
		return nil, err
	}
	made := make([]*record.Record, 0, len(created))
	for _, r := range created {
		made = append(made, r)
	}
	s.gates.set(made...)
	s.OnChange()
	return created, nil
}
