package approval

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
	"github.com/rumi-ai/rumi/services/approval/internal/watch"
)

const (
	scanConcurrency = 4 // packs that are verified at once

	// granularity is how far apart two changes must be for their times to differ (see tree.StampOf).
	mtimeGranularity = 10 * time.Millisecond

	fenceTimeout   = time.Second            // for the watcher to catch up; it takes microseconds
	unwatchedPause = 500 * time.Millisecond // between two looks at what can't be watched
)

// Refresh compares packs with what lies under ecosystem/: a new one becomes pending, one that is not what was approved
// becomes modified, one that can't be a pack is in error. Packs that are named are looked at; where none is, all are but
// those of which the watcher is certain that nothing happened since a look found them to be what their record says.
func (s *Service) Refresh(ctx context.Context, ids ...pack.ID) error {
	return s.refreshPacks(ctx, ids, true)
}

// lookAt is Refresh; new ones become known only where register says so.
func (s *Service) refreshPacks(ctx context.Context, ids []pack.ID, register bool) error {
	// Records are read once for all. One that changes meanwhile was looked at by whoever changed it.
	all, unread := s.Records.All(ctx)
	if unread != nil {
		// What may run is still compared with what was approved, and held where it is something else.
		all, register = s.gates.executable(), false
	}
	records := make(map[string]*record.Record, len(all))
	for _, r := range all {
		records[r.PackID] = r
	}
	if len(ids) == 0 {
		if ids = s.needScan(ctx, s.known(ctx, all), records); len(ids) == 0 {
			return unread
		}
	}
	var unknown []pack.ID
	var group errgroup.Group // without a context: that one pack can't be dealt with keeps no other from losing its right to run
	group.SetLimit(scanConcurrency)
	for _, id := range ids {
		if r, known := records[string(id)]; known {
			group.Go(func() error { return s.refresh(ctx, id, r) })
		} else {
			unknown = append(unknown, id)
		}
	}
	err := errors.Join(unread, group.Wait())
	if !register {
		return err
	}
	return errors.Join(err, s.register(ctx, unknown))
}

// Replaced is Refresh for packs that have just been put in place by apply or rollback: one that may run may no longer,
// whatever its bytes are now.
func (s *Service) Replaced(ctx context.Context, ids ...pack.ID) error {
	if len(ids) == 0 {
		return nil
	}
	var problems []error
	for _, id := range ids {
		if err := s.markReplaced(ctx, id); err != nil {
			problems = append(problems, fmt.Errorf("pack %s: %w", id, err))
		}
	}
	return errors.Join(append(problems, s.Refresh(ctx, ids...))...)
}

func (s *Service) markReplaced(ctx context.Context, id pack.ID) error {
	defer s.lock(id)()
	_, err := s.change(ctx, id, func(r *record.Record, at time.Time) (*decision, error) {
		if r == nil {
			return nil, nil
		}
		if changed, err := r.Apply(record.Modify, at); err != nil || !changed {
			return nil, err
		}
		r.LastError = "it was put in place anew"
		return &decision{action: "modified", err: r.LastError, details: map[string]any{"approved_digest": r.Digest, "replaced": true}}, nil
	})
	if fault.Is(err, fault.KindNotFound) { // new: Refresh makes its record
		return nil
	}
	if r := s.gates.newest(id); err != nil && r != nil && r.Status.Executable() {
		s.gates.holdClosed(id, "it was put in place anew")
	}
	return err
}

// known are the packs that may have a folder or have a record. Where packs may lie and nothing can be read, those that have no
// record yet stay unknown; the others are looked at all the same.
func (s *Service) known(ctx context.Context, records []*record.Record) []pack.ID {
	ids, unread := pack.Names(s.Ecosystem)
	for _, u := range unread {
		s.Log.WarnContext(ctx, "cannot look for packs", "folder", path.Join("ecosystem", u.Path), "error", u.Err)
	}
	for _, r := range records {
		ids = append(ids, pack.ID(r.PackID))
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// unsettled are those of the packs that have to be looked at.
func (s *Service) needScan(ctx context.Context, ids []pack.ID, records map[string]*record.Record) []pack.ID {
	ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	if err := s.Watcher.Fence(ctx); err != nil {
		s.Log.WarnContext(ctx, "cannot ask the watcher; every pack is looked at", "error", err)
		return ids
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(ids, func(id pack.ID) bool {
		r, known := records[string(id)]
		return known && s.lastVerified[string(id)] == r.Revision && s.Watcher.Unchanged(string(id))
	})
}

// Verify looks at every pack that may run, and only at those, whatever the watcher says: it is its backstop. A look reads
// the times of change of every file, which tell of what raises no event, too (see watch.Watcher).
func (s *Service) Verify(ctx context.Context) error {
	records, unread := s.Records.All(ctx)
	if unread != nil {
		records = s.gates.executable()
	}
	var ids []pack.ID
	for _, r := range records {
		if r.Status.Executable() {
			ids = append(ids, pack.ID(r.PackID))
		}
	}
	if len(ids) > 0 {
		unread = s.Refresh(ctx, ids...)
	}
	s.pinParents(ctx, s.gates.executable())
	return unread
}

// Touched verifies packs under whose folder something happened; all where the kernel lost count. A pack that was removed
// since is not made known again by what happened before. It is the watcher's callback, so errors end in the log.
//
// What something happened to is read again, whatever its times say: a write through a mapping sets them only where the page had
// none to be written back, and the end of the mapping is all that is heard of the others.
func (s *Service) VerifyChanged(ctx context.Context, ids []string, all bool) {
	for _, id := range ids {
		unlock := s.lock(pack.ID(id)) // a look that is under way may have read before
		s.forget(pack.ID(id))
		unlock()
	}
	s.verifySome(ctx, ids, all)
}

// verifySome is Verify of some packs or all.
func (s *Service) verifySome(ctx context.Context, ids []string, all bool) {
	var err error
	if all {
		err = s.Verify(ctx)
	} else {
		named := make([]pack.ID, len(ids))
		for i, id := range ids {
			named[i] = pack.ID(id)
		}
		if len(named) > 0 {
			err = s.refreshPacks(ctx, named, false)
		}
	}
	if err != nil && ctx.Err() == nil {
		s.Log.ErrorContext(ctx, "could not verify packs", "error", err)
	}
}

// VerifyUnwatched verifies the packs that may run and can't be watched until ctx ends: twice a second, or less often
// where that would take more than a tenth of the time.
func (s *Service) VerifyUnwatched(ctx context.Context) error {
	for {
		began := time.Now()
		if err := s.Watcher.CheckMounts(); err != nil {
			s.Log.WarnContext(ctx, "cannot see what is mounted over packs", "error", err)
		}
		s.verifySome(ctx, s.Watcher.Unwatched(), false)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(unwatchedPause, 9*time.Since(began))):
		}
	}
}

// state is what a look at a pack's folder found.
type scanResult struct {
	found   pack.Found
	folder  folderStamp // the zero one where there is a problem
	gone    bool
	problem string // why the folder can't be a pack, "" when it can
}

// refresh looks at one pack, whose record was r.
func (s *Service) refresh(ctx context.Context, id pack.ID, r *record.Record) error {
	defer s.lock(id)()
	// Whoever decided about it meanwhile has let go of the lock. To the watcher it must be what it is now.
	if newer := s.gates.newest(id); newer != nil && newer.Revision > r.Revision {
		r = newer
	}
	if r.Retired { // what lies there makes no difference
		s.Watcher.Forget(string(id))
		return nil
	}
	scan := s.Watcher.BeginScan(string(id), r.Status.Executable())
	matching, complete, err := s.reconcile(ctx, id, r, scan)
	s.endScan(id, scan, matching, complete && err == nil)
	if fault.Is(err, fault.KindNotFound) { // it was removed meanwhile
		s.Watcher.Forget(string(id))
		return nil
	}
	return err
}

// compare looks at a pack and brings its record up to what was found; it gives the record that is right about that, nil
// for none, and says whether all of the pack was seen.
func (s *Service) reconcile(ctx context.Context, id pack.ID, r *record.Record, scan *watch.Scan) (matching *record.Record, complete bool, err error) {
	now, err := s.scan(ctx, id, scan)
	if err != nil {
		if ctx.Err() == nil && r.Status.Executable() {
			s.gates.holdClosed(id, "it could not be looked at: "+fault.Of(err).Message)
		}
		return nil, false, err
	}
	if r.Status.Executable() {
		matching, err = s.verify(ctx, id, r, now)
		return matching, now.problem == "", err
	}
	matching, err = s.updateRecord(ctx, id, r, now)
	if matching != nil && matching.Status.Executable() {
		matching = nil // another replica let it run meanwhile; this look didn't compare what it read with that
	}
	return matching, now.problem == "", err
}

// endLook ends a look. r is the record that is right about what it found, nil for none; whole says that all of the pack
// was seen.
func (s *Service) endScan(id pack.ID, scan *watch.Scan, r *record.Record, complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r == nil || !complete {
		delete(s.lastVerified, string(id))
		scan.Drop()
		return
	}
	s.lastVerified[string(id)] = r.Revision
	scan.Done()
}

// look reads the descriptor and the names of a pack's folder, no content. The folder is watched from before that, so that
// no change after it is missed.
func (s *Service) scan(ctx context.Context, id pack.ID, scan *watch.Scan) (scanResult, error) {
	found, err := s.descriptors.Find(s.Ecosystem, id)
	var now scanResult
	if err == nil {
		now.folder, err = s.stamp(ctx, found.Dir, scan)
		if ctx.Err() != nil {
			return scanResult{}, ctx.Err()
		}
		if err != nil {
			now.problem = fault.Of(s.readFault(id, found.Dir, err)).Message
		}
		// Once more: only now is it certain that a later change of the descriptor is not missed.
		now.found, err = s.descriptors.Find(s.Ecosystem, id)
	}
	switch {
	case errors.Is(err, pack.ErrUnread): // it may be there all the same: what can't be seen isn't what was approved
		return scanResult{gone: true, problem: err.Error()}, nil
	case errors.Is(err, fs.ErrNotExist):
		return scanResult{gone: true, problem: "its folder is gone"}, nil
	case err != nil:
		return scanResult{}, err
	case now.found.Err != nil:
		now.problem = now.found.Err.Error()
	case now.problem == "":
		now.problem = descriptorProblem(id, now.found.Descriptor)
	}
	return now, nil
}

// seen is what the file system said of a pack's folder.
type folderStamp struct {
	stamp  tree.Stamp
	stable bool // nothing changed so recently that a change after the stamp might not be told from it
}

func (s *Service) stamp(ctx context.Context, dir string, scan *watch.Scan) (folderStamp, error) {
	root, err := s.Ecosystem.OpenRoot(dir)
	if err != nil {
		return folderStamp{}, err
	}
	defer root.Close()
	visitor := &latestChange{next: scan}
	began := time.Now()
	stamp, err := tree.StampWith(ctx, root, visitor)
	return folderStamp{stamp, visitor.at.Before(began.Add(-mtimeGranularity))}, err
}

// newest is a tree.Visitor that remembers when the last change was. next, if not nil, sees the same.
type latestChange struct {
	next tree.Visitor
	at   time.Time
}

func (n *latestChange) Folder(fd int, st *unix.Stat_t) error {
	n.observe(st)
	if n.next == nil {
		return nil
	}
	return n.next.Folder(fd, st)
}

func (n *latestChange) File(parent int, name string, st *unix.Stat_t) error {
	n.observe(st)
	if n.next == nil {
		return nil
	}
	return n.next.File(parent, name, st)
}

func (n *latestChange) observe(st *unix.Stat_t) {
	if at := time.Unix(st.Ctim.Unix()); at.After(n.at) {
		n.at = at
	}
}

// note brings the record of a pack that may not run up to what lies on disk, and gives the one that is right about it.
func (s *Service) updateRecord(ctx context.Context, id pack.ID, last *record.Record, now scanResult) (*record.Record, error) {
	current := *last
	if decided, err := applyScan(&current, now, time.Time{}); err != nil || decided == nil {
		return last, err // as it mostly is: nothing to write
	}
	return s.change(ctx, id, func(r *record.Record, at time.Time) (*decision, error) {
		if r == nil || r.Status.Executable() || r.Retired {
			return nil, nil // another replica was faster
		}
		return applyScan(r, now, at)
	})
}

// amend does the same to a record in memory; it answers nil where nothing changes.
func applyScan(r *record.Record, now scanResult, at time.Time) (*decision, error) {
	before := *r
	verb := record.Revalidate
	if now.problem != "" {
		verb = record.Invalidate
	} else {
		describe(r, now.found.Descriptor)
	}
	changed, err := r.Apply(verb, at)
	if err != nil {
		return nil, err
	}
	if r.Status == pack.StatusError || changed {
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

// verify compares a pack that may run with what was approved; it gives the record of one that is that. One that isn't may
// not run from then on, whether or not that can be recorded.
func (s *Service) verify(ctx context.Context, id pack.ID, last *record.Record, now scanResult) (*record.Record, error) {
	problem, approved := now.problem, last.Digest
	if problem == "" {
		problem = s.gates.heldReason(id) // what was put back is modified all the same
	}
	if problem == "" {
		digest, files, err := s.digest(ctx, id, now, approved)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			problem = fault.Of(s.readFault(id, now.found.Dir, err)).Message
		case digest == approved:
			return last, nil
		default:
			problem = "its files are not what was approved" + s.difference(approved, files) + ": " + digest
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
		if changed, err := r.Apply(record.Modify, at); err != nil || !changed {
			return nil, err
		}
		r.LastError = problem
		return &decision{action: "modified", err: problem, mismatch: true, details: map[string]any{"approved_digest": approved}}, nil
	})
	if err != nil && !fault.Is(err, fault.KindNotFound) {
		s.gates.holdClosed(id, problem)
		s.Log.ErrorContext(ctx, "a pack is not what was approved, and that can't be recorded; its gate is held closed", "pack_id", string(id), "problem", problem, "error", err)
	}
	return nil, err
}

// difference says how many files of a tree are not those of an approved one; "" where that can't be told, or nothing but modes or
// folders differ.
func (s *Service) difference(approved string, now tree.Manifest) string {
	was, err := s.Blobs.Manifest(approved)
	if err != nil {
		return ""
	}
	before := map[string]string{} // path → SHA-256 of files
	for _, e := range was.Entries {
		if e.Kind == tree.File {
			before[e.Path] = e.SHA256
		}
	}
	changed := 0
	for _, e := range now.Entries {
		if e.Kind != tree.File {
			continue
		}
		if before[e.Path] != e.SHA256 {
			changed++
		}
		delete(before, e.Path)
	}
	switch changed += len(before); changed {
	case 0:
		return ""
	case 1:
		return " (1 file changed)"
	default:
		return fmt.Sprintf(" (%d files changed)", changed)
	}
}

// digest is that of a pack's folder now, with what was read of it. It is read only if anything about it changed since it was last
// read; where it was not, the digest is approved.
func (s *Service) digest(ctx context.Context, id pack.ID, now scanResult, approved string) (string, tree.Manifest, error) {
	s.mu.Lock()
	last, ok := s.digests[string(id)]
	s.mu.Unlock()
	if ok && last.stamp == now.folder.stamp && last.digest == approved {
		return last.digest, tree.Manifest{}, nil
	}
	if !now.folder.stable {
		select {
		case <-ctx.Done():
			return "", tree.Manifest{}, ctx.Err()
		case <-time.After(mtimeGranularity):
		}
	}
	root, err := s.Ecosystem.OpenRoot(now.found.Dir)
	if err != nil {
		return "", tree.Manifest{}, err
	}
	defer root.Close()
	manifest, err := tree.Scan(ctx, root, nil)
	if err != nil {
		return "", tree.Manifest{}, err
	}
	digest := manifest.Digest()
	s.remember(id, now.folder.stamp, digest)
	return digest, manifest, nil
}
