// Package approval decides which packs may run. It keeps exactly the bytes that a person approved, publishes the gate of every
// pack to the services that enforce it, and closes a gate as soon as the pack's folder no longer holds what was approved.
//
// It stands above internal/record (the state machine), internal/blob (approved bytes), internal/watch (inotify) and
// internal/review (what a reviewer is shown); internal/store implements its interface Records, and internal/httpapi is its only
// caller beside main. Read approval.go first (approve, reject, and the one function that changes a record), then verify.go
// (scans), gates.go and follow.go (several replicas).
//
// Three invariants hold everywhere in the package:
//
//   - An approval is of bytes, not of a path. What is hashed is copied at the same time, and the copy is what runs.
//   - Nothing is decided without an audit entry. The entry is written before the database commits: after a crash there may be
//     an entry of a decision that wasn't made, never a decision without an entry.
//   - Doubt closes the gate. A pack that can't be read, or whose change can't be recorded, is held closed in memory.
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

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/keylock"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/outcome"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/tracing/step"
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

// Dependencies are the parts that a Service uses; all fields are required. The Service closes none of them.
type Dependencies struct {
	Ecosystem *os.Root
	Records   Records
	Blobs     *blob.Store
	Audit     *audit.Log
	Log       *slog.Logger
	Watcher   *watch.Watcher
	OnChange  func() // called after every change of a record; it must not block
	Metrics   prometheus.Registerer

	Approvals confirm.Approvals // how many persons an approval takes; the zero value is one
}

// Service makes all decisions about packs; nothing else does. Every change of a record, its audit entry and its push to the gates'
// followers happen in change, or in create for packs that have no record yet. Make one with Open; it is safe for concurrent
// use.
type Service struct {
	Dependencies
	gates           *gates
	descriptors     pack.Cache
	recentManifests recentManifests
	packLocks       keylock.Locks // each serialises the work on one pack

	mu           sync.Mutex
	digests      map[string]knownDigest
	lastVerified map[string]int64 // by pack id: the revision of the record that the last complete scan agreed with

	metrics metrics

	step func(string) // called between the steps of a change, with what was done; tests end the process there
}

// knownDigest is the digest of a folder that had this fingerprint. While the fingerprint stays the same the folder isn't read again.
type knownDigest struct {
	fingerprint tree.Fingerprint
	digest      string
}

// Open makes the service and verifies every pack that may run before any gate is published: what an earlier process verified
// doesn't count, because anything may have happened to the folders since. A pack that can't be verified is logged and held
// closed; the other packs aren't affected. Open fails where the records can't be read at all, or where ctx ends.
func Open(ctx context.Context, deps Dependencies) (*Service, error) {
	s := &Service{Dependencies: deps, gates: newGates(), digests: map[string]knownDigest{}, lastVerified: map[string]int64{}, step: func(string) {}}
	s.metrics = newMetrics(s, deps.Metrics)
	unverified := s.Refresh(ctx) // packs that may run and could not be verified are held closed from here on
	records, err := s.Records.All(ctx)
	if err != nil || ctx.Err() != nil {
		return nil, fmt.Errorf("verify packs: %w", errors.Join(err, ctx.Err()))
	}
	if unverified != nil {
		s.Log.ErrorContext(ctx, "could not verify packs", "error", unverified)
	}
	s.gates.set(ctx, records...)
	s.pinParents(ctx, records)
	return s, nil
}

// Gates is the publisher of all gates, which the other services follow.
func (s *Service) Gates() *gate.Publisher { return s.gates.publisher }

// Approve lets a pack run as its folder is now. The folder's bytes are copied into the blob store while they are hashed, and
// the digest of that copy is what is approved: a file that is swapped between hashing and copying can't get in, because there
// is no such moment.
//
// reviewed is the digest of the review that the decision is about, or "" for whatever is there. If the folder has another
// digest now, the error is a conflict "digest_mismatch" that carries the new one, and nothing is approved. An unknown pack is a
// not-found fault; a folder that can't be a pack's is a conflict.
//
// Where an approval takes two persons, the first one's call records a request: then the record that is returned has an open Request and
// the status from before, and nothing is approved (confirm.go).
func (s *Service) Approve(ctx context.Context, id pack.ID, reviewed string) (*record.Record, error) {
	r, err := s.approveNow(ctx, id, reviewed)
	result := outcome.Of(err)
	if err == nil && r.Request.Open(time.Now()) {
		result = outcome.Waiting
	}
	s.metrics.decisions[decisionApprove][result].Inc()
	return r, err
}

// approveNow is Approve without its metrics.
func (s *Service) approveNow(ctx context.Context, id pack.ID, reviewed string) (*record.Record, error) {
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
	// The watch begins before the first byte is read. A change during or after the reading is therefore noticed, and verified against the
	// digest that is approved here.
	scan := s.Watcher.BeginScan(string(id), true)
	r, err := s.approve(ctx, id, reviewed, found.Dir, in, scan)
	approved := err == nil && r.Status.Executable() && !r.Request.Open(time.Now())
	if approved {
		s.gates.releaseHold(ctx, id)
	}
	s.endScan(id, scan, r, err == nil)
	unlock()
	if approved { // children that were approved before their parent was known get its identity recorded now
		s.pinParents(ctx, s.gates.executable())
	}
	return r, err
}

// pinParents writes the pack_identity of the parent into the records of approved children that don't have it yet. An approval
// of "parent__child" is a decision about that child under that parent: without the identity, a stranger's pack that is later
// installed under the parent's id would take the child over. Where the identity can't be recorded, the child's gate stays
// closed until it can.
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
			s.gates.unpin(ctx, id, fault.Of(err).Message)
			s.Log.ErrorContext(ctx, "could not record the parent of a pack; its gate is closed until that can be done", "pack_id", r.PackID, "error", err)
		}
	}
}

// approve takes in the folder dir, compares its digest with reviewed and records the approval. The caller holds the pack's lock
// and ends in and scan.
func (s *Service) approve(ctx context.Context, id pack.ID, reviewed, dir string, in *blob.Intake, scan *watch.Scan) (*record.Record, error) {
	folder, err := s.fingerprint(ctx, dir, scan)
	if err != nil {
		return nil, s.readFault(id, dir, err)
	}
	manifest, descriptor, err := s.readTree(ctx, in, id, dir)
	if err != nil {
		return nil, err
	}
	digest := manifest.Digest()
	if folder.stable {
		s.remember(id, folder.fingerprint, digest)
	} else {
		s.forget(id)
	}
	if reviewed != "" && reviewed != digest {
		changed := fault.Conflict("Pack '%s' changed since it was reviewed", id).With("digest_mismatch").Carrying(map[string]string{"digest": digest})
		return nil, errors.Join(s.lapse(ctx, id, digest), changed)
	}
	return s.decide(ctx, id, approvalOf{manifest, digest, descriptor, func() error { return noSpaceFault(in.Commit(manifest)) }})
}

// readTree copies a pack's folder into an intake of the blob store in a single reading. The descriptor is parsed from the copy, not from
// the folder, so that it is the one that belongs to the digest.
func (s *Service) readTree(ctx context.Context, in *blob.Intake, id pack.ID, dir string) (tree.Manifest, pack.Descriptor, error) {
	root, err := s.Ecosystem.OpenRoot(dir)
	if err != nil {
		return tree.Manifest{}, pack.Descriptor{}, s.readFault(id, dir, err)
	}
	defer root.Close()
	copying, end := step.Begin(ctx, "pack.copy", step.Internal, attribute.String("rumi.pack_id", string(id)))
	manifest, err := tree.Scan(copying, root, in)
	end(err)
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
	return manifest, descriptor, nil
}

// descriptorIn parses the descriptor of a tree from the intake's copy. It looks in the same two places, in the same order, as
// pack.ReadDescriptor.
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

// descriptorProblem says why a descriptor can't be that of the pack in the folder id; it is "" where it can.
func descriptorProblem(id pack.ID, d pack.Descriptor) string {
	switch {
	case d.PackID != id:
		return fmt.Sprintf("pack_id mismatch: its ecosystem.json declares '%s'", d.PackID)
	case d.PackIdentity == "":
		return "its ecosystem.json has no pack_identity"
	}
	return ""
}

// readFault turns an error of reading the folder dir of a pack into one that the operator can act on: it names the file, and
// how to mend it. An error that isn't about the folder is returned as it is.
func (s *Service) readFault(id pack.ID, dir string, err error) error {
	if isNoSpace(err) {
		return noSpaceFault(err)
	}
	if refused, ok := errors.AsType[*tree.RefusedError](err); ok {
		return fault.Conflict("Cannot take pack '%s' as it is: %s", id, refused).With("pack_refused")
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESTALE) { // a file vanished during the scan: an apply, or another writer
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

// isNoSpace says whether a disk or a quota is full.
func isNoSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// noSpaceFault makes a fault of a full disk or quota, and returns any other error as it is. Reading a pack writes to the disk,
// too, because the bytes are copied while they are read.
func noSpaceFault(err error) error {
	if isNoSpace(err) {
		return fault.NoSpace("approvals").Because(err)
	}
	return err
}

// Reject blocks a pack until it is approved again, and ends an open request for its approval. reason goes into the record and the audit log, and is the reason that the
// pack's gate gives.
func (s *Service) Reject(ctx context.Context, id pack.ID, reason string) (*record.Record, error) {
	defer s.lock(id)()
	r, err := s.change(ctx, id, func(r *record.Record, now time.Time) (*decision, error) {
		if r == nil {
			return nil, fault.PackNotFound()
		}
		closed := openRequest(r, now)
		if _, err := r.Apply(record.Reject, now); err != nil {
			return nil, err
		}
		r.RejectionReason = reason
		return &decision{action: "rejected", reason: reason, details: closed.Details(map[string]any{"digest": r.Digest})}, nil
	})
	if err == nil {
		s.Watcher.Forget(string(id))
	}
	s.metrics.decisions[decisionReject][outcome.Of(err)].Inc()
	return r, err
}

// SetRunning records that the pack's container runs, or no longer runs. The broker calls it. A pack that may not run stays as
// it is: the call may have crossed a rejection.
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

// decision describes a change of a record for the history and for the audit log, where its action is pack_<action>. A change
// without an action is written to neither, but is still published to the gates.
type decision struct {
	action  string
	digest  string // of an approval, or of a request for one
	reason  string
	details map[string]any
	err     string // the audit entry's error: what was noticed about the pack

	requestedBy string // who asked for the approval that this one carries out

	mismatch bool // the pack's files are not what was approved: an entry of the security category is written as well
}

// event is the decision as an entry of the pack's history.
func (d *decision) event(ctx context.Context, r *record.Record, at time.Time) *record.Event {
	return &record.Event{Version: r.Version, Timestamp: at, Action: d.action, Digest: d.digest, Actor: origin.Of(ctx).Actor, Reason: d.reason, RequestedBy: d.requestedBy}
}

// change changes a record; nothing else does. decide gets the pack's record, or nil where there is none, and modifies it in
// place; it returns nil for no change, or the decision to write down. It may run more than once. The caller holds the pack's
// lock.
//
// The order is: record and history are written in a transaction, the audit entry is written and synced, the transaction
// commits, the gate is published. kill -9 between any two of these steps leaves the pack as it was or as it was decided
// (crash_test.go kills at each). A gate never opens before the commit is durable.
func (s *Service) change(ctx context.Context, id pack.ID, decide func(r *record.Record, now time.Time) (*decision, error)) (*record.Record, error) {
	return s.changeOrCreate(ctx, id, func(time.Time) *record.Record { return nil }, decide)
}

// changeOrCreate is change, but where there is no record decide gets the one that absent makes, or nil if that makes none.
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
	if decided.action == actionModified {
		s.metrics.modifications.Inc()
	}
	s.gates.set(ctx, changed)
	s.OnChange()
	return changed, nil
}

// writeAudit writes the audit entry of a decision. It runs before the commit: an entry about a change that then failed does no
// harm, a change without an entry would.
func (s *Service) writeAudit(ctx context.Context, id pack.ID, d *decision) error {
	if d.action == "" {
		return nil
	}
	entry := audit.Entry{
		Category: audit.Approval, Severity: audit.Info, Action: "pack_" + d.action, Success: true,
		OwnerPack: string(id), Details: d.details, RejectionReason: d.reason, Error: d.err,
	}
	if d.action == actionModified {
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

// auditFault makes a fault of a full disk of the audit log, where nothing can be decided until there is room; any other error
// is returned as it is.
func auditFault(err error) error {
	if isNoSpace(err) {
		return fault.NoSpace("the audit log: nothing can be decided before there is some").Because(err)
	}
	return err
}

// lock serialises what is done to one pack in this process; the result unlocks it. Other replicas are kept apart by the
// database's transactions. It waits however long the work before takes: work that closes a gate must not be given up
// because a caller left.
func (s *Service) lock(id pack.ID) (unlock func()) {
	unlock, _ = s.packLocks.Lock(context.Background(), string(id)) // fails only at the end of its context
	return unlock
}

// remember stores the digest of a folder that has this fingerprint.
func (s *Service) remember(id pack.ID, fingerprint tree.Fingerprint, digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.digests[string(id)] = knownDigest{fingerprint, digest}
}

// forget has the next verification read the pack's folder again.
func (s *Service) forget(id pack.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.digests, string(id))
	delete(s.lastVerified, string(id))
}

// describe copies into a record what the descriptor says about the pack.
func describe(r *record.Record, d pack.Descriptor) {
	r.Identity, r.Version, r.Description = d.PackIdentity, d.Version, d.Description
	// Never nil, as they come back from the store: otherwise each scan would find a difference and write the record again.
	r.Requested = record.Requested{
		Secrets: append([]string{}, d.RequiredSecrets...),
		Domains: append([]string{}, d.RequiredNetwork.AllowedDomains...),
		Ports:   append([]uint16{}, d.RequiredNetwork.AllowedPorts...),
	}
}
