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

	// mtimeGranularity is how far apart two changes of a file must be for their times to differ: file systems take the time from a clock
	// that ticks every few milliseconds (see tree.FingerprintOf). A change within it leaves the fingerprint as it was.
	mtimeGranularity = 10 * time.Millisecond

	fenceTimeout   = time.Second            // for the watcher to catch up; it takes microseconds
	unwatchedPause = 500 * time.Millisecond // between two scans of a pack that can't be watched
)

// Refresh brings the records up to what lies in ecosystem/: a new pack becomes pending, one whose files differ from what was
// approved becomes modified, one whose folder can't be a pack's is in error. Packs that are named are scanned. Where none is
// named, all are, except those of which the watcher is certain that nothing happened since a scan agreed with their record.
func (s *Service) Refresh(ctx context.Context, ids ...pack.ID) error {
	return s.refreshPacks(ctx, ids, true)
}

// refreshPacks is Refresh; packs without a record are registered only if register is set.
func (s *Service) refreshPacks(ctx context.Context, ids []pack.ID, register bool) error {
	// The records are read once for all packs. If a record changes after this, the change has scanned its pack itself.
	all, unread := s.Records.All(ctx)
	if unread != nil {
		// The database can't be read. The packs that may run are still compared with what was approved, by the records in memory: a broken
		// database must not keep a modified pack running.
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
	var group errgroup.Group // without a context: a pack that can't be scanned must not keep another one, which was modified, running
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

// Replaced is Refresh for packs whose folders were just replaced by an apply or a rollback. One that may run becomes modified
// even where its bytes are what was approved: an import is a decision that needs an approval of its own.
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

// markReplaced makes a pack that may run modified. Where that can't be recorded its gate is held closed.
func (s *Service) markReplaced(ctx context.Context, id pack.ID) error {
	defer s.lock(id)()
	_, err := s.change(ctx, id, func(r *record.Record, at time.Time) (*decision, error) {
		if r == nil {
			return nil, nil
		}
		if changed, err := r.Apply(record.Modify, at); err != nil || !changed {
			return nil, err
		}
		r.LastError = "it was replaced by an apply or a rollback"
		return &decision{action: actionModified, err: r.LastError, details: map[string]any{"approved_digest": r.Digest, "replaced": true}}, nil
	})
	if fault.Is(err, fault.KindNotFound) { // a new pack: Refresh registers it
		return nil
	}
	if r := s.gates.newest(id); err != nil && r != nil && r.Status.Executable() {
		s.gates.holdClosed(ctx, id, "it was replaced by an apply or a rollback")
	}
	return err
}

// known lists the packs that have a record or may have a folder. Where a folder of packs can't be listed, packs without a
// record are left out; those with one are scanned all the same, and found to be unreadable.
func (s *Service) known(ctx context.Context, records []*record.Record) []pack.ID {
	ids, unread := pack.PossibleIDs(s.Ecosystem)
	for _, u := range unread {
		s.Log.WarnContext(ctx, "could not list a folder of packs", "folder", path.Join("ecosystem", u.Path), "error", u.Err)
	}
	for _, r := range records {
		ids = append(ids, pack.ID(r.PackID))
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// needScan lists those of the packs that have to be scanned. The fence makes sure that the watcher has seen every event up to
// now: without it, a change that the kernel has queued and this process hasn't read yet would count as no change.
func (s *Service) needScan(ctx context.Context, ids []pack.ID, records map[string]*record.Record) []pack.ID {
	ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	if err := s.Watcher.Fence(ctx); err != nil {
		s.Log.WarnContext(ctx, "could not catch up with the file watcher; scanning every pack", "error", err)
		return ids
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(ids, func(id pack.ID) bool {
		r, known := records[string(id)]
		return known && s.lastVerified[string(id)] == r.Revision && s.Watcher.Unchanged(string(id))
	})
}

// Verify scans every pack that may run, and only those, whatever the watcher says. It is the watcher's backstop: some changes
// raise no event (see watch.Watcher), but they set the times of a file, which a scan reads.
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
	if unread == nil {
		s.metrics.verified.SetToCurrentTime()
	}
	s.pinParents(ctx, s.gates.executable())
	return unread
}

// VerifyChanged is the watcher's callback: something happened in the folders of the named packs, or, if all is set, in any
// folder (the kernel's queue overflowed). Errors end in the log. It registers nothing: a pack that was removed since must not
// come back because of an event from before.
//
// The folders are read again whatever their times say. A write through a memory mapping sets the times only when a clean page
// becomes dirty; further writes to that page raise no event before the mapping ends.
func (s *Service) VerifyChanged(ctx context.Context, ids []string, all bool) {
	for _, id := range ids {
		unlock := s.lock(pack.ID(id)) // a scan under way may have read the old bytes and remember their digest when it ends
		s.forget(pack.ID(id))
		unlock()
	}
	s.verifySome(ctx, ids, all)
}

// verifySome is Verify of the named packs, or of all.
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

// VerifyUnwatched verifies the packs that may run and can't be watched, until ctx ends: twice a second, or less often where
// that would take more than a tenth of the time.
func (s *Service) VerifyUnwatched(ctx context.Context) error {
	for {
		began := time.Now()
		if err := s.Watcher.CheckMounts(); err != nil {
			s.Log.WarnContext(ctx, "could not read the mount table; scanning every pack that may run", "error", err)
		}
		s.verifySome(ctx, s.Watcher.Unwatched(), false)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(unwatchedPause, 9*time.Since(began))):
		}
	}
}

// scanResult is what a scan of a pack's folder found.
type scanResult struct {
	found   pack.Found
	folder  folderFingerprint // the zero value where there is a problem
	missing bool              // there is no folder, or it can't be read
	problem string            // why the folder can't be a pack, "" when it can
}

// refresh scans one pack, whose record was r when the caller read it, and updates its record.
func (s *Service) refresh(ctx context.Context, id pack.ID, r *record.Record) error {
	defer s.lock(id)()
	// A decision may have been made between the caller's reading and our lock. The watcher prefers packs that may run, so that it must get
	// that from the newest record.
	if newer := s.gates.newest(id); newer != nil && newer.Revision > r.Revision {
		r = newer
	}
	if r.Retired { // nothing that is in its folder can let it run
		s.Watcher.Forget(string(id))
		return nil
	}
	defer s.metrics.scanned(time.Now())
	scan := s.Watcher.BeginScan(string(id), r.Status.Executable())
	matching, complete, err := s.reconcile(ctx, id, r, scan)
	s.endScan(id, scan, matching, complete && err == nil)
	if fault.Is(err, fault.KindNotFound) { // it was removed meanwhile
		s.Watcher.Forget(string(id))
		return nil
	}
	return err
}

// reconcile scans a pack and updates its record to what was found. It returns the record if it now matches the scan, nil if
// not, and complete=false if some of the pack couldn't be read. A pack that may run and can't be scanned is held closed: what
// can't be compared isn't what was approved.
func (s *Service) reconcile(ctx context.Context, id pack.ID, r *record.Record, scan *watch.Scan) (matching *record.Record, complete bool, err error) {
	now, err := s.scan(ctx, id, scan)
	if err != nil {
		if ctx.Err() == nil && r.Status.Executable() {
			s.gates.holdClosed(ctx, id, "it could not be scanned: "+fault.Of(err).Message)
		}
		return nil, false, err
	}
	if r.Status.Executable() {
		matching, err = s.verify(ctx, id, r, now)
		return matching, now.problem == "", err
	}
	matching, err = s.updateRecord(ctx, id, r, now)
	if matching != nil && matching.Status.Executable() {
		matching = nil // another replica approved it meanwhile: this scan read no contents, so it didn't verify that approval
	}
	return matching, now.problem == "", err
}

// endScan ends a scan. r is the record that matches what was found, nil for none; complete says that all of the pack was read.
// Only a complete scan that matches its record lets the next Refresh pass the pack over.
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

// scan reads the descriptor, the names and the times of a pack's folder, but no contents. Each folder is watched before its
// names are read, so that a change during the scan raises an event.
func (s *Service) scan(ctx context.Context, id pack.ID, scan *watch.Scan) (scanResult, error) {
	found, err := s.descriptors.Find(s.Ecosystem, id)
	var now scanResult
	if err == nil {
		now.folder, err = s.fingerprint(ctx, found.Dir, scan)
		if ctx.Err() != nil {
			return scanResult{}, ctx.Err()
		}
		if err != nil {
			now.problem = fault.Of(s.readFault(id, found.Dir, err)).Message
		}
		// The descriptor is looked up again: the first time its folder wasn't watched yet, so that a change in between raised no event.
		now.found, err = s.descriptors.Find(s.Ecosystem, id)
	}
	switch {
	case errors.Is(err, pack.ErrUnreadable): // the pack may be there, but what can't be read can't be compared with what was approved
		return scanResult{missing: true, problem: err.Error()}, nil
	case errors.Is(err, fs.ErrNotExist):
		return scanResult{missing: true, problem: "its folder is gone"}, nil
	case err != nil:
		return scanResult{}, err
	case now.found.Err != nil:
		now.problem = now.found.Err.Error()
	case now.problem == "":
		now.problem = descriptorProblem(id, now.found.Descriptor)
	}
	return now, nil
}

// folderFingerprint is what the file system says of a pack's folder without its contents being read.
type folderFingerprint struct {
	fingerprint tree.Fingerprint
	stable      bool // the last change is older than mtimeGranularity, so that any later change gives another fingerprint
}

// fingerprint reads the names, sizes and times of everything in the folder dir, relative to the ecosystem folder, and adds each folder in it to
// the watches of scan.
func (s *Service) fingerprint(ctx context.Context, dir string, scan *watch.Scan) (folderFingerprint, error) {
	root, err := s.Ecosystem.OpenRoot(dir)
	if err != nil {
		return folderFingerprint{}, err
	}
	defer root.Close()
	visitor := &latestChange{next: scan}
	began := time.Now()
	fingerprint, err := tree.FingerprintWith(ctx, root, visitor)
	return folderFingerprint{fingerprint, visitor.at.Before(began.Add(-mtimeGranularity))}, err
}

// latestChange is a tree.Visitor that remembers the time of the latest change. It passes everything on to next, if that isn't
// nil.
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

// updateRecord brings the record of a pack that may not run up to what was scanned, and returns the one that matches. Where
// nothing has changed it doesn't touch the database.
func (s *Service) updateRecord(ctx context.Context, id pack.ID, last *record.Record, now scanResult) (*record.Record, error) {
	if err := s.lapseIfChanged(ctx, id, last, now); err != nil {
		return nil, err
	}
	if newer := s.gates.newest(id); newer != nil && newer.Revision > last.Revision {
		last = newer
	}
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

// applyScan is updateRecord for a record in memory. It returns nil where nothing changes, and a decision without an action
// where only the description does.
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

// verify compares a pack that may run with what was approved, and returns its record if they are the same. Otherwise the pack
// may not run from now on, whether or not that can be recorded: if it can't, the gate is held closed.
func (s *Service) verify(ctx context.Context, id pack.ID, last *record.Record, now scanResult) (*record.Record, error) {
	problem, approved := now.problem, last.Digest
	if problem == "" {
		problem = s.gates.heldReason(id) // a modification that couldn't be recorded counts, also if the old files were put back since
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
			return nil, nil // it was approved or rejected meanwhile; what was compared here is out of date
		}
		if changed, err := r.Apply(record.Modify, at); err != nil || !changed {
			return nil, err
		}
		r.LastError = problem
		return &decision{action: actionModified, err: problem, mismatch: true, details: map[string]any{"approved_digest": approved}}, nil
	})
	if err != nil && !fault.Is(err, fault.KindNotFound) {
		s.gates.holdClosed(ctx, id, problem)
		s.Log.ErrorContext(ctx, "a pack is not what was approved, and that can't be recorded; its gate is held closed", "pack_id", string(id), "problem", problem, "error", err)
	}
	return nil, err
}

// difference says how many files of a tree differ from an approved one, as " (2 files changed)"; "" where the approved tree
// can't be read, or only modes and folders differ.
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

// digest is the digest of a pack's folder, with its manifest. The contents are read only if the fingerprint changed since they were
// last read; otherwise the digest is approved, and the manifest empty.
//
// A folder that changed within mtimeGranularity is read after a pause of that length. Then no write can hide behind the fingerprint
// that is remembered: one before the reading is in the digest, one after it sets another time.
func (s *Service) digest(ctx context.Context, id pack.ID, now scanResult, approved string) (string, tree.Manifest, error) {
	s.mu.Lock()
	last, ok := s.digests[string(id)]
	s.mu.Unlock()
	if ok && last.fingerprint == now.folder.fingerprint && last.digest == approved {
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
	s.remember(id, now.folder.fingerprint, digest)
	return digest, manifest, nil
}
