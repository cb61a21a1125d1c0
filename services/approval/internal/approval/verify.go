package approval

import (
	"context"
	"errors"
	"io/fs"
	"reflect"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
)

const (
	parallel = 4 // packs that are verified at once

	// granularity is how far apart two changes must be for their times to differ (see tree.StampOf).
	granularity = 10 * time.Millisecond
)

// Refresh compares packs with what lies under ecosystem/, all where none is named: a new one becomes pending, one that
// is not what was approved becomes modified, one that can't be a pack is in error.
func (s *Service) Refresh(ctx context.Context, ids ...pack.ID) error {
	// Records are read once for all. One that changes meanwhile was looked at by whoever changed it.
	all, err := s.Records.All(ctx)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		if ids, err = s.known(ctx, all); err != nil {
			return err
		}
	}
	records := make(map[string]*record.Record, len(all))
	for _, r := range all {
		records[r.PackID] = r
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, id := range ids {
		group.Go(func() error { return s.refresh(ctx, id, records[string(id)]) })
	}
	return group.Wait()
}

// Replaced is Refresh for packs that have just been put in place by apply or rollback: one that may run may no longer,
// whatever its bytes are now.
func (s *Service) Replaced(ctx context.Context, ids ...pack.ID) error {
	for _, id := range ids {
		if err := s.replaced(ctx, id); err != nil {
			return err
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return s.Refresh(ctx, ids...)
}

func (s *Service) replaced(ctx context.Context, id pack.ID) error {
	defer s.lock(id)()
	_, err := s.change(ctx, id, func(r *record.Record, at time.Time) (*decision, error) {
		if r == nil {
			return nil, nil
		}
		if changed, err := r.Do(record.Change, at); err != nil || !changed {
			return nil, err
		}
		r.LastError = "it was put in place anew"
		return &decision{action: "modified", err: r.LastError, details: map[string]any{"approved_digest": r.Digest, "replaced": true}}, nil
	})
	if fault.Is(err, fault.KindNotFound) { // new: Refresh makes its record
		return nil
	}
	return err
}

// known are the packs that have a folder or a record.
func (s *Service) known(ctx context.Context, records []*record.Record) ([]pack.ID, error) {
	installed, err := pack.Installed(s.Ecosystem)
	if err != nil {
		return nil, err
	}
	seen := map[pack.ID]bool{}
	var ids []pack.ID
	add := func(id pack.ID) {
		if !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	for _, p := range installed {
		for _, warning := range p.Warnings {
			s.Log.WarnContext(ctx, warning, "pack_id", p.ID)
		}
		add(p.ID)
	}
	for _, r := range records {
		add(pack.ID(r.PackID))
	}
	return ids, nil
}

// Verify looks at every pack that may run, and only at those; it is the backstop of the watcher.
func (s *Service) Verify(ctx context.Context) error {
	records, err := s.Records.All(ctx)
	if err != nil {
		return err
	}
	var ids []pack.ID
	for _, r := range records {
		if r.Status.Executable() {
			ids = append(ids, pack.ID(r.PackID))
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return s.Refresh(ctx, ids...)
}

// Touched verifies packs under whose folder something happened; all where the kernel lost count. A pack that was removed
// since is not made known again by what happened before. It is the watcher's callback, so errors end in the log.
func (s *Service) Touched(ctx context.Context, ids []string, all bool) {
	var err error
	if all {
		err = s.Verify(ctx)
	} else {
		err = s.touched(ctx, ids)
	}
	if err != nil && ctx.Err() == nil {
		s.Log.ErrorContext(ctx, "could not verify packs", "error", err)
	}
}

func (s *Service) touched(ctx context.Context, ids []string) error {
	var known []pack.ID
	for _, id := range ids {
		switch _, err := s.Records.Get(ctx, id); {
		case err == nil:
			known = append(known, pack.ID(id))
		case !fault.Is(err, fault.KindNotFound):
			return err
		}
	}
	if len(known) == 0 {
		return nil // Refresh would look at every pack
	}
	return s.Refresh(ctx, known...)
}

// state is what a look at a pack's folder found.
type state struct {
	found   pack.Found
	stamp   tree.Stamp // the zero one where there is a problem
	gone    bool
	problem string // why the folder can't be a pack, "" when it can
}

// refresh looks at one pack, whose record is r, or nil for one that is new.
func (s *Service) refresh(ctx context.Context, id pack.ID, r *record.Record) error {
	defer s.lock(id)()
	now, err := s.look(ctx, id, r != nil && r.Status.Executable())
	if err != nil {
		return err
	}
	switch {
	case r == nil && now.gone:
		return nil
	case r == nil:
		return s.register(ctx, id, now)
	case r.Status.Executable():
		return s.verify(ctx, id, r.Digest, now)
	default:
		return s.note(ctx, id, r, now)
	}
}

// look reads the descriptor and the names of a pack's folder, no content. A pack that may run is watched from before
// that, so that no change after it is missed.
func (s *Service) look(ctx context.Context, id pack.ID, watched bool) (state, error) {
	found, err := pack.Find(s.Ecosystem, id)
	if errors.Is(err, fs.ErrNotExist) {
		return state{gone: true, problem: "its folder is gone"}, nil
	}
	if err != nil {
		return state{}, err
	}
	if watched {
		s.Watcher.Follow(string(id), found.Dir)
	}
	now := state{found: found}
	if found.Err != nil {
		now.problem = found.Err.Error()
	} else {
		now.problem = unfit(id, found.Descriptor)
	}
	if now.problem != "" {
		return now, nil
	}
	if now.stamp, err = s.stamp(ctx, found.Dir); err != nil {
		if ctx.Err() != nil {
			return state{}, ctx.Err()
		}
		now.problem = fault.Of(unreadable(id, err)).Message
	}
	return now, nil
}

func (s *Service) stamp(ctx context.Context, dir string) (tree.Stamp, error) {
	root, err := s.Ecosystem.OpenRoot(dir)
	if err != nil {
		return tree.Stamp{}, err
	}
	defer root.Close()
	return tree.StampOf(ctx, root)
}

// register makes the record of a new pack.
func (s *Service) register(ctx context.Context, id pack.ID, now state) error {
	_, err := s.changeOrCreate(ctx, id, func(r *record.Record, at time.Time) (*record.Record, *decision, error) {
		if r != nil {
			return nil, nil, nil // another replica was faster
		}
		r = record.New(string(id), at)
		describe(r, now.found.Descriptor)
		said := &decision{action: "registered", details: map[string]any{"version": r.Version, "pack_identity": r.Identity}}
		if now.problem != "" {
			if _, err := r.Do(record.Break, at); err != nil {
				return nil, nil, err
			}
			r.LastError, said.err = now.problem, now.problem
		}
		return r, said, nil
	})
	return err
}

// note brings the record of a pack that may not run up to what lies on disk.
func (s *Service) note(ctx context.Context, id pack.ID, seen *record.Record, now state) error {
	untouched := *seen
	if said, err := amend(&untouched, now, time.Time{}); err != nil || said == nil {
		return err // as it mostly is: nothing to write
	}
	_, err := s.change(ctx, id, func(r *record.Record, at time.Time) (*decision, error) {
		if r == nil || r.Status.Executable() {
			return nil, nil // another replica was faster
		}
		return amend(r, now, at)
	})
	return err
}

// amend does the same to a record in memory; it answers nil where nothing changes.
func amend(r *record.Record, now state, at time.Time) (*decision, error) {
	before := *r
	verb := record.Mend
	if now.problem != "" {
		verb = record.Break
	} else {
		describe(r, now.found.Descriptor)
	}
	changed, err := r.Do(verb, at)
	if err != nil {
		return nil, err
	}
	if r.Status == record.Error || changed {
		r.LastError = now.problem
	}
	switch {
	case changed:
		return &decision{action: string(r.Status), err: now.problem}, nil
	case !reflect.DeepEqual(before, *r):
		r.Revision++
		return &decision{}, nil
	}
	return nil, nil
}

// verify compares a pack that may run with what was approved.
func (s *Service) verify(ctx context.Context, id pack.ID, approved string, now state) error {
	problem := now.problem
	if problem == "" {
		digest, err := s.digest(ctx, id, now, approved)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			problem = fault.Of(unreadable(id, err)).Message
		case digest == approved:
			return nil
		default:
			problem = "its files are not what was approved: " + digest
		}
	}
	s.forget(id)
	if origin.Of(ctx).RequestID == "" {
		ctx = origin.With(ctx, origin.Origin{Actor: "system"})
	}
	_, err := s.change(ctx, id, func(r *record.Record, at time.Time) (*decision, error) {
		if r == nil || r.Digest != approved {
			return nil, nil // decided anew meanwhile
		}
		if changed, err := r.Do(record.Change, at); err != nil || !changed {
			return nil, err
		}
		r.LastError = problem
		return &decision{action: "modified", err: problem, mismatch: true, details: map[string]any{"approved_digest": approved}}, nil
	})
	return err
}

// digest is that of a pack's folder now. It is read only if anything about it changed since it was last read.
func (s *Service) digest(ctx context.Context, id pack.ID, now state, approved string) (string, error) {
	s.mu.Lock()
	last, ok := s.verified[string(id)]
	s.mu.Unlock()
	if ok && last.stamp == now.stamp && last.digest == approved {
		return last.digest, nil
	}
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(granularity):
	}
	root, err := s.Ecosystem.OpenRoot(now.found.Dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	manifest, err := tree.Scan(ctx, root, nil)
	if err != nil {
		return "", err
	}
	digest := manifest.Digest()
	s.mu.Lock()
	s.verified[string(id)] = verified{now.stamp, digest}
	s.mu.Unlock()
	return digest, nil
}
