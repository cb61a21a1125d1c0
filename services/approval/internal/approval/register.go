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
	batchSize        = 500 // new packs in one transaction
	auditConcurrency = 64  // audit entries that are written at once: entries that wait together share one fsync

	// maxSplits is how often a call of register halves a batch that failed. To isolate one bad pack among 500 takes nine.
	maxSplits = 40
)

// newPack is a pack without a record, with the result of its first scan. Whoever gets one ends the scan.
type newPack struct {
	id   pack.ID
	now  scanResult
	scan *watch.Scan
}

// register makes the records of packs that have none. An audit entry and a commit for each would take milliseconds, so that the
// first start with a thousand packs would take many seconds: up to batchSize packs share one transaction. The error names the
// packs that could not be recorded; the others are recorded all the same.
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

// createRecords makes the records of packs and ends their scans. Where a batch can't be written it is halved, *left times at
// most, so that a single pack whose record can't be written keeps no other from being registered.
func (s *Service) createRecords(ctx context.Context, scanned []newPack, left *int) error {
	created, err := s.create(ctx, scanned)
	if err != nil && len(scanned) > 1 && *left > 0 && ctx.Err() == nil {
		*left--
		half := len(scanned) / 2
		return errors.Join(s.createRecords(ctx, scanned[:half], left), s.createRecords(ctx, scanned[half:], left))
	}
	for _, a := range scanned {
		// Where another replica made the record first, it may differ from what was scanned here; created lacks it, and the scan is dropped.
		s.endScan(a.id, a.scan, created[string(a.id)], err == nil && a.now.problem == "")
	}
	if err != nil && len(scanned) > 0 {
		return fmt.Errorf("register %d packs, the first is %s: %w", len(scanned), scanned[0].id, err)
	}
	return nil
}

// scanNew scans packs without a record, several at once. Those without a folder are left out. The caller ends the scans of the
// result.
func (s *Service) scanNew(ctx context.Context, ids []pack.ID) ([]newPack, error) {
	all := make([]newPack, len(ids))
	var group errgroup.Group // without a context: a pack that can't be scanned must not cancel the scans of the others
	group.SetLimit(scanConcurrency)
	for i, id := range ids {
		group.Go(func() (err error) {
			defer s.lock(id)()
			scan := s.Watcher.BeginScan(string(id), false)
			now, err := s.scan(ctx, id, scan)
			if err != nil || now.missing {
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

// create makes records of packs that still have none, in one transaction with their audit entries, and returns those that it
// made, by id.
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
	s.gates.set(ctx, made...)
	s.OnChange()
	return created, nil
}
