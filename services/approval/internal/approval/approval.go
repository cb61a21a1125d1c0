// Package approval decides which packs may run, keeps exactly the bytes that were decided about, and takes the right to
// run away the moment a pack is no longer what was approved.
package approval

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/approval/internal/blob"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
	"github.com/rumi-ai/rumi/services/approval/internal/watch"
)

// Records is the table of records, with the history of each. internal/store implements it. Every method may fail because the database
// can't be asked; other errors are named below.
type Records interface {
	// Get reads one record. A pack without one is a not-found fault.
	Get(ctx context.Context, packID string) (*record.Record, error)

	// All reads the records of all packs, in the order of their ids. A row that can't be read is a record in state Error.
	All(ctx context.Context) ([]*record.Record, error)

	// Revisions reads the revision of every record, by pack id. It is much cheaper than All.
	Revisions(ctx context.Context) (map[string]int64, error)

	// Changes makes a watcher of writes to the database, also those of other processes. Each follower needs its own.
	Changes() *store.Changes

	// History reads the events of a pack, the oldest first. A pack without a record has none.
	History(ctx context.Context, packID string) ([]record.Event, error)

	// Digests reads the digests of all trees that are named: current are those that a record names, historic those that only a
	// history names.
	Digests(ctx context.Context) (current, historic []string, err error)

	// Change runs decide on a pack's record (nil where there is none) in a transaction, and writes the record and the event that it
	// returns. A nil record writes nothing; a nil event adds nothing to the history. confirm runs when all is written but not
	// committed; its error undoes everything. Both functions may run more than once, because a database may ask for a repetition.
	Change(ctx context.Context, packID string, decide func(*record.Record) (*record.Record, *record.Event, error), confirm func() error) error

	// Create writes those of the records whose packs have none yet, all or nothing. confirm gets the records that were written; it
	// runs as in Change.
	Create(ctx context.Context, all []record.NewRecord, confirm func(made []*record.Record) error) error

	// Retired lists the ids of the retired packs.
	Retired(ctx context.Context) ([]string, error)

	// Remove deletes the record and the history of a retired pack; removed is false where there was none. The record of a pack that
	// is not retired stays.
	Remove(ctx context.Context, packID string) (removed bool, err error)
}

// Parts are what a Service stands on.
type Dependencies struct {
	Ecosystem *os.Root
	Records   Records
	Blobs     *blob.Store
	Audit     *audit.Log
	Log       *slog.Logger
	Watcher   *watch.Watcher
	OnChange  func() // told after every change of a record
}

// Service is the one place where packs are decided about. Every change of a record, its audit entry and its push to the
// gates' followers happen in change, or in create for new ones. Use Open.
type Service struct {
	Dependencies
	gates           *gates
	descriptors     pack.Cache
	recentManifests recentManifests

	mu           sync.Mutex
	packLocks    map[string]*sync.Mutex // serialise what is done to one pack
	digests      map[string]knownDigest
	lastVerified map[string]int64 // the revision of the record that the last look at a pack found to be right

	step func(string) // called between the steps of a change, with what was done; tests end the process there
}

// verified remembers that a folder with this stamp had this digest, so that it need not be read again.
type knownDigest struct {
	stamp  tree.Stamp
	digest string
}

// Open makes the service and verifies every pack that may run: none runs on the word of an earlier process. What can't be dealt with of
// one pack is told in the log and keeps no other closed. The error is that of a store that can't be read at all, or of ctx.
func Open(ctx context.Context, deps Dependencies) (*Service, error) {
	s := &Service{Dependencies: deps, gates: newGates(), packLocks: map[string]*sync.Mutex{}, digests: map[string]knownDigest{}, lastVerified: map[string]int64{}, step: func(string) {}}
	unverified := s.Refresh(ctx) // those that may run and could not be verified are held
	records, err := s.Records.All(ctx)
	if err != nil || ctx.Err() != nil {
		return nil, fmt.Errorf("verify packs: %w", errors.Join(err, ctx.Err()))
	}
	if unverified != nil {
		s.Log.ErrorContext(ctx, "could not verify packs", "error", unverified)
	}
	s.gates.set(records...)
	s.pinParents(ctx, records)
	return s, nil
}

// Gates is the stream that the other services follow.
func (s *Service) Gates() *gate.Publisher { return s.gates.publisher }

// Approve lets a pack run as it is on the disk now: its bytes are kept while they are hashed, and what was kept is what
// is approved. reviewed, if not "", is the digest that the decision is about: bytes with another are a conflict that
// carries theirs. An unknown pack is a not-found fault, one that can't be a pack a conflict.
func (s *Service) Approve(ctx context.Context, id pack.ID, reviewed string) (*record.Record, error) {
	unlock := sync.OnceFunc(s.lock(id))
	defer unlock()
	in, err := s.Blobs.NewIntake()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	last, err := s.Records.Get(ctx, string(id))
	if err == nil {
		err = last.RetiredFault("approve")
	}
	if err != nil {
		return nil, err
	}
	found, err := s.descriptors.Find(s.Ecosystem, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Conflict("Cannot approve pack '%s': its folder is gone", id).With("pack_folder_gone")
	}
	if err != nil {
		return nil, err
	}
	// It is watched from before it is read, so that no change after that is missed.
	scan := s.Watcher.BeginScan(string(id), true)
	r, err := s.approve(ctx, id, reviewed, found.Dir, in, scan)
	if err == nil {
		s.gates.releaseHold(id)
	}
	s.endScan(id, scan, r, err == nil)
	unlock()
	if err == nil { // children that were approved without a parent have this one from now on
		s.pinParents(ctx, s.gates.executable())
	}
	return r, err
}

// pinParents records the identity of the parent that approved children run under where that isn't known yet: under another they need
// another decision. Where it can't be recorded the child's gate is closed until it can.
func (s *Service) pinParents(ctx context.Context, records []*record.Record) {
	for _, r := range records {
		id := pack.ID(r.PackID)
		if _, ok := s.gates.toPin(id); !ok {
			continue
		}
		unlock := s.lock(id)
		_, err := s.change(ctx, id, func(r *record.Record, _ time.Time) (*decision, error) {
			if r == nil || !r.Status.Executable() || r.ParentIdentity != "" {
				return nil, nil
			}
			parent, ok := s.gates.toPin(id)
			if !ok {
				return nil, nil
			}
			r.ParentIdentity = parent
			r.Revision++
			return &decision{}, nil
		})
		unlock()
		if err != nil && !fault.Is(err, fault.KindNotFound) {
			s.gates.unpin(id, fault.Of(err).Message)
			s.Log.ErrorContext(ctx, "could not record the parent of a pack; its gate is closed until that can be done", "pack_id", r.PackID, "error", err)
		}
	}
}

// approve decides about what lies in a folder.
func (s *Service) approve(ctx context.Context, id pack.ID, reviewed, dir string, in *blob.Intake, scan *watch.Scan) (*record.Record, error) {
	stamped, err := s.stamp(ctx, dir, scan)
	if err != nil {
		return nil, s.readFault(id, dir, err)
	}
	manifest, descriptor, err := s.storeTree(ctx, in, id, dir)
	if err != nil {
		return nil, err
	}
	digest := manifest.Digest()
	if stamped.stable {
		s.remember(id, stamped.stamp, digest)
	} else {
		s.forget(id)
	}
	if reviewed != "" && reviewed != digest {
		return nil, fault.Conflict("Pack '%s' changed since it was reviewed", id).With("digest_mismatch").Carrying(map[string]string{"digest": digest})
	}
	return s.change(ctx, id, func(r *record.Record, now time.Time) (*decision, error) {
		if r == nil {
			return nil, fault.PackNotFound()
		}
		// A pack whose folder could not be a pack when it was last looked at can be one now: this was a look.
		if _, err := r.Apply(record.Revalidate, now); err != nil {
			return nil, err
		}
		if _, err := r.Apply(record.Approve, now); err != nil {
			return nil, err
		}
		describe(r, descriptor)
		r.ParentIdentity = s.gates.parentIdentity(id)
		r.Digest, r.ApprovedAt, r.RejectionReason, r.LastError = digest, now, "", ""
		return &decision{action: "approved", digest: digest, details: map[string]any{
			"digest": digest, "files": len(manifest.FileHashes()), "bytes": manifest.Bytes(), "version": descriptor.Version,
		}}, nil
	})
}

// keep reads a pack's folder once, into the blob store, and the descriptor out of what was kept.
func (s *Service) storeTree(ctx context.Context, in *blob.Intake, id pack.ID, dir string) (tree.Manifest, pack.Descriptor, error) {
	root, err := s.Ecosystem.OpenRoot(dir)
	if err != nil {
		return tree.Manifest{}, pack.Descriptor{}, s.readFault(id, dir, err)
	}
	defer root.Close()
	manifest, err := tree.Scan(ctx, root, in)
	if err != nil {
		return tree.Manifest{}, pack.Descriptor{}, s.readFault(id, dir, err)
	}
	descriptor, err := descriptorIn(manifest, in)
	if err != nil {
		return tree.Manifest{}, pack.Descriptor{}, fault.Conflict("Cannot approve pack '%s': %v", id, err).With("pack_invalid")
	}
	if problem := descriptorProblem(id, descriptor); problem != "" {
		return tree.Manifest{}, pack.Descriptor{}, fault.Conflict("Cannot approve pack '%s': %s", id, problem).With("pack_invalid")
	}
	return manifest, descriptor, noSpaceFault(in.Commit(manifest))
}

// descriptorIn reads a descriptor out of what was taken in.
func descriptorIn(m tree.Manifest, in *blob.Intake) (pack.Descriptor, error) {
	for _, name := range []string{pack.File, path.Join("backend", pack.File)} {
		i := slices.IndexFunc(m.Entries, func(e tree.Entry) bool { return e.Path == name && e.Kind == tree.File })
		if i < 0 {
			continue
		}
		if m.Entries[i].Size > pack.MaxDescriptor {
			return pack.Descriptor{}, fmt.Errorf("%s is larger than %d bytes", name, pack.MaxDescriptor)
		}
		f, err := in.Open(m.Entries[i].SHA256)
		if err != nil {
			return pack.Descriptor{}, err
		}
		defer f.Close()
		var data bytes.Buffer
		if _, err := io.Copy(&data, f); err != nil {
			return pack.Descriptor{}, fmt.Errorf("read %s: %w", name, err)
		}
		return pack.ParseDescriptor(data.Bytes())
	}
	return pack.Descriptor{}, fmt.Errorf("no %s", pack.File)
}

// unfit says why a descriptor can't be that of the pack in the folder id, "" if it can.
func descriptorProblem(id pack.ID, d pack.Descriptor) string {
	switch {
	case d.PackID != id:
		return fmt.Sprintf("pack_id mismatch: its ecosystem.json declares '%s'", d.PackID)
	case d.PackIdentity == "":
		return "its ecosystem.json has no pack_identity"
	}
	return ""
}

// unreadable turns an error of reading the folder dir of a pack into what the operator is told: which file it is, and what mends it.
func (s *Service) readFault(id pack.ID, dir string, err error) error {
	if full := noSpaceFault(err); full != err {
		return full
	}
	if refused, ok := errors.AsType[*tree.RefusedError](err); ok {
		return fault.Conflict("Cannot take pack '%s' as it is: %s", id, refused).With("pack_refused")
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESTALE) { // what was there is gone: an apply, or whoever else
		return fault.Conflict("Cannot read pack '%s': it changed while it was read; try again", id).With("pack_changing").Because(err)
	}
	at := "."
	if named, ok := errors.AsType[*fs.PathError](err); ok && named.Path != "" && named.Path != dir {
		at = named.Path
	}
	advised := pack.AdviseFile(s.Ecosystem, dir, at, err)
	if !fault.Is(advised, fault.KindConflict) {
		return err
	}
	return fault.Conflict("Cannot read pack '%s': %s", id, fault.Of(advised).Message).With("pack_unreadable").Because(err)
}

// roomless makes a fault of a full disk, since bytes are kept while they are read.
func noSpaceFault(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.NoSpace("approvals").Because(err)
	}
	return err
}

// Reject says that a pack must not run. reason goes into the record and the audit log.
func (s *Service) Reject(ctx context.Context, id pack.ID, reason string) (*record.Record, error) {
	defer s.lock(id)()
	r, err := s.change(ctx, id, func(r *record.Record, now time.Time) (*decision, error) {
		if r == nil {
			return nil, fault.PackNotFound()
		}
		if _, err := r.Apply(record.Reject, now); err != nil {
			return nil, err
		}
		r.RejectionReason = reason
		return &decision{action: "rejected", reason: reason, details: map[string]any{"digest": r.Digest}}, nil
	})
	if err == nil {
		s.Watcher.Forget(string(id))
	}
	return r, err
}

// SetRunning is told by whoever runs containers that the pack's runs, or no longer.
func (s *Service) SetRunning(ctx context.Context, id pack.ID, running bool) error {
	defer s.lock(id)()
	verb := record.Stop
	if running {
		verb = record.Start
	}
	_, err := s.change(ctx, id, func(r *record.Record, now time.Time) (*decision, error) {
		if r == nil {
			return nil, fault.PackNotFound()
		}
		if changed, err := r.Apply(verb, now); err != nil || !changed {
			return nil, err
		}
		return &decision{}, nil // the broker audits what its containers do
	})
	return err
}

// decision is what is said of a change: in the history and the audit log under pack_<action>. Without an action it is
// said nowhere.
type decision struct {
	action  string
	digest  string // of an approval
	reason  string
	details map[string]any
	err     string // what was noticed, for the audit entry's error

	mismatch bool // its files are not what was approved: a security matter, too
}

// event is what a decision is in the history.
func (d *decision) event(ctx context.Context, r *record.Record, at time.Time) *record.Event {
	return &record.Event{Version: r.Version, Timestamp: at, Action: d.action, Digest: d.digest, Actor: origin.Of(ctx).Actor, Reason: d.reason}
}

// change is the one place where a record changes. decide gets the record, or nil, and changes it; it returns nil for no
// change, or what to say. The gates follow when all is on the disk.
func (s *Service) change(ctx context.Context, id pack.ID, decide func(r *record.Record, now time.Time) (*decision, error)) (*record.Record, error) {
	return s.changeOrCreate(ctx, id, func(time.Time) *record.Record { return nil }, decide)
}

// changeOr is change; where there is no record, decide gets the one that absent makes.
func (s *Service) changeOrCreate(ctx context.Context, id pack.ID, absent func(now time.Time) *record.Record, decide func(r *record.Record, now time.Time) (*decision, error)) (*record.Record, error) {
	var changed *record.Record
	var decided *decision
	now := time.Now().UTC().Truncate(time.Microsecond)
	err := s.Records.Change(ctx, string(id), func(r *record.Record) (*record.Record, *record.Event, error) {
		changed, decided = nil, nil
		if r == nil {
			r = absent(now)
		}
		d, err := decide(r, now)
		if err != nil || d == nil {
			return nil, nil, err
		}
		changed, decided = r, d
		if d.action == "" {
			return r, nil, nil
		}
		return r, d.event(ctx, r, now), nil
	}, func() error {
		s.step("recorded")
		if err := s.writeAudit(ctx, id, decided); err != nil {
			return err
		}
		s.step("audited")
		return nil
	})
	if err != nil {
		return nil, err
	}
	if changed == nil {
		return s.Records.Get(ctx, string(id))
	}
	s.step("committed")
	s.gates.set(changed)
	s.OnChange()
	return changed, nil
}

// say writes the audit entry of a decision. It comes before the commit: an entry of something that then failed can be
// borne, a decision without an entry can't.
func (s *Service) writeAudit(ctx context.Context, id pack.ID, d *decision) error {
	if d.action == "" {
		return nil
	}
	entry := audit.Entry{
		Category: audit.Approval, Severity: audit.Info, Action: "pack_" + d.action, Success: true,
		OwnerPack: string(id), Details: d.details, RejectionReason: d.reason, Error: d.err,
	}
	if d.action == "modified" {
		entry.Severity, entry.Success = audit.Warning, false
	}
	if d.mismatch {
		mismatch := entry
		mismatch.Category, mismatch.Action = audit.Security, "hash_mismatch"
		if err := s.Audit.Write(ctx, mismatch); err != nil {
			return auditFault(err)
		}
	}
	return auditFault(s.Audit.Write(ctx, entry))
}

// unwritten makes a fault of a full disk of the audit log: without an entry nothing is decided.
func auditFault(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.NoSpace("the audit log: nothing can be decided before there is some").Because(err)
	}
	return err
}

// lock serialises what is done to one pack; the result unlocks.
func (s *Service) lock(id pack.ID) (unlock func()) {
	s.mu.Lock()
	m, ok := s.packLocks[string(id)]
	if !ok {
		m = &sync.Mutex{}
		s.packLocks[string(id)] = m
	}
	s.mu.Unlock()
	m.Lock()
	return m.Unlock
}

func (s *Service) remember(id pack.ID, stamp tree.Stamp, digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.digests[string(id)] = knownDigest{stamp, digest}
}

func (s *Service) forget(id pack.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.digests, string(id))
	delete(s.lastVerified, string(id))
}

func describe(r *record.Record, d pack.Descriptor) {
	r.Identity, r.Version, r.Description = d.PackIdentity, d.Version, d.Description
	// Never nil, as they come back from the store: otherwise each look would find a difference.
	r.Requested = record.Requested{
		Secrets: append([]string{}, d.RequiredSecrets...),
		Domains: append([]string{}, d.RequiredNetwork.AllowedDomains...),
		Ports:   append([]uint16{}, d.RequiredNetwork.AllowedPorts...),
	}
}
