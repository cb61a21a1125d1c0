package handler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/snapshot"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
)

// Gates are approval's decisions about packs; *gate.View is them.
type Gates interface {
	Get(packID string) (gate.State, bool)
	GetLatest(ctx context.Context, packID string) (gate.State, bool)
	Fresh() bool
}

// Trees are the read-only copies of approved packs; *tree.Cache is them.
type Trees interface {
	// Get returns the folder of a tree, fetching it from approval where it isn't there.
	Get(ctx context.Context, digest string) (path string, err error)
}

// Audit is the audit log; *audit.Log is one.
type Audit interface {
	Write(ctx context.Context, e audit.Entry) error
}

// Store is the database of trust, one record for each pack and slug; internal/store implements it. Every write raises the revision.
type Store interface {
	TrustStore
	// PutTrust stores trust as a part of tx. It replaces the trust of the same pack and slug.
	PutTrust(tx *store.Tx, t Trust) error
	// TrustedKey reads, as a part of tx, the key of the candidate that is trusted under a pack and slug, "" for none.
	TrustedKey(tx *store.Tx, packID, slug string) (string, error)
	// DropTrust deletes, as a part of tx, the trust in a candidate, if there is any.
	DropTrust(tx *store.Tx, key string) error
	// RemoveTrust deletes all trust in a pack's handlers. It calls commit with it before it commits; an error of commit is returned, and
	// nothing is deleted.
	RemoveTrust(ctx context.Context, packID string, commit func(removed []Trust) error) error
}

// Grants are the capability grants, which name handlers; *grant.Cache is them.
type Grants interface {
	// Pin has the grants of a permission that name no handler name this one.
	Pin(ctx context.Context, permission string, to grant.HandlerRef) error
	// Each calls fn for every grant. The grants must not be changed.
	Each(fn func(*grant.Grant))
}

// Config has the parts that a Service uses.
type Config struct {
	DB        *store.DB
	Store     Store
	Folders   *Folders
	Sources   Sources
	Gates     Gates
	Trees     Trees
	Audit     Audit
	Log       *slog.Logger
	Approvals confirm.Approvals // how many persons an approval takes; the zero value is one

	Grants Grants // may be set after New, but before the first decision: the grants need the Registry that New makes

	Changed     func(ctx context.Context) // called when counts of candidates have changed; must not block
	Propagation *snapshot.Propagation     // measures changes of trust; may be nil

	Retired func(packID, slug string) // called when the workers of a handler must end; slug "" is all handlers of the pack
}

// Service has the verbs of operators about handlers. It is safe for concurrent use.
type Service struct {
	Config
	Registry   *Registry
	candidates *candidate.Candidates[Candidate]
	approving  sync.Mutex // one decision at a time: trust and copy of a slug change together
}

// New makes a Service, and finishes what a process that died may have begun.
func New(ctx context.Context, cfg Config) (*Service, error) {
	registry, err := OpenRegistry(ctx, cfg.Store, cfg.Log, cfg.Propagation)
	if err != nil {
		return nil, err
	}
	s := &Service{Config: cfg, Registry: registry}
	s.candidates = candidate.New(cfg.DB, candidate.Config[Candidate]{Record: s.record, Store: s.storeTrust, Changed: cfg.Changed, InUse: s.inUse, Approvals: cfg.Approvals,
		Differs: func(installed, seen Candidate) bool { return seen.outdated || !sameHandler(installed, seen) }})
	return s, s.recover(ctx)
}

// Candidates returns the candidates, for the routes that need nothing else of this package.
func (s *Service) Candidates() *candidate.Candidates[Candidate] { return s.candidates }

// recover installs the copies whose trust was committed by a process that died before it installed them. A copy that is wrong for another
// reason stays as it is: no worker starts with it, and approving the candidate again repairs it. It is a security event, since somebody may
// have changed the copy on the disk.
func (s *Service) recover(ctx context.Context) error {
	list, _, err := s.Store.Trusts(ctx)
	if err != nil {
		return fmt.Errorf("recover handlers: %w", err)
	}
	for _, t := range list {
		if s.Folders.verified(ctx, t) {
			continue
		}
		if err := s.Folders.install(ctx, t); err != nil {
			s.Log.ErrorContext(ctx, "a handler's copy is not what is trusted; approve it again", "pack_id", t.PackID, "slug", t.Slug, "error", err)
			if err := s.mismatch(ctx, t.PackID, t.CandidateKey, "the installed copy is not what is trusted"); err != nil {
				return err
			}
		}
	}
	return s.Folders.sweep(time.Now())
}

func (s *Service) mismatch(ctx context.Context, packID, key, reason string) error {
	return s.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Error, Action: "hash_mismatch",
		OwnerPack: packID, Details: map[string]any{"candidate_key": key}, RejectionReason: reason})
}

// actions are the audit entries of decisions, by the state that they lead to.
var actions = map[candidate.State]string{
	candidate.Installed: "capability_handler_installed",
	candidate.Rejected:  "capability_handler_rejected",
	candidate.Blocked:   "capability_handler_blocked",
	candidate.Pending:   "capability_handler_unblocked",
	candidate.Failed:    "hash_mismatch",
}

// record writes the audit entry of a decision about a candidate, before the decision is committed.
func (s *Service) record(ctx context.Context, c candidate.Change[Candidate]) error {
	e := audit.Entry{Category: audit.Security, Action: actions[c.Item.State], Success: c.Verb != candidate.Fail,
		OwnerPack: c.Item.PackID, Details: details(c.Item.Payload.trust())}
	switch c.Verb {
	case candidate.Fail:
		e.Severity, e.RejectionReason = audit.Error, c.Item.LastError
	case candidate.Withdraw:
		e.Action, e.Severity = "capability_handler_withdrawn", audit.Warning
		e.Details["reason"], e.Details["reject_count"], e.Details["status"] = c.Item.Reason, c.Item.RejectCount, c.Item.State
	case candidate.Reject, candidate.Unblock:
		e.Details["reason"], e.Details["reject_count"] = c.Item.Reason, c.Item.RejectCount
	case candidate.Install:
		e.Details["notes"] = c.Item.Payload.Notes
	case candidate.Ask:
		e.Action = "capability_handler_approval_requested"
		e.Details["digest"], e.Details["notes"], e.Details["expires_at"] = c.Request.Digest, c.Request.Notes, c.Request.ExpiresAt()
	case candidate.Lapse:
		e.Action, e.Details["reason"] = "capability_handler_approval_lapsed", c.Item.Reason
	}
	if c.Verb != candidate.Ask { // there the actor is who asked
		e.Details = c.Request.Details(e.Details)
	}
	return s.Audit.Write(ctx, e)
}

func details(t Trust) map[string]any {
	return map[string]any{
		"candidate_key": t.CandidateKey, "slug": t.Slug, "handler_id": t.HandlerID, "permission_id": t.PermissionID,
		"sha256": t.ScriptSHA256, "digest": t.FolderDigest,
	}
}

// storeTrust stores or deletes trust in the transaction that changes the candidate's state, so that no crash comes between them.
func (s *Service) storeTrust(tx *store.Tx, c candidate.Change[Candidate]) error {
	switch c.Verb {
	case candidate.Install:
		t := c.Item.Payload.trust()
		t.InstalledAt, t.InstalledBy = c.Item.UpdatedAt, c.Item.Actor
		return s.Store.PutTrust(tx, t)
	case candidate.Withdraw:
		return s.Store.DropTrust(tx, c.Item.Key)
	}
	return nil
}

// inUse says whether an installed candidate is the one that is trusted under its slug: a newer version has its own candidate, and may be
// trusted instead.
func (s *Service) inUse(tx *store.Tx, item candidate.Item[Candidate]) (bool, error) {
	key, err := s.Store.TrustedKey(tx, item.Payload.PackID, item.Payload.Slug)
	return key == item.Key, err
}

// Approve trusts a candidate's handler and installs its copy. It replaces the trust of the same pack and slug. Approving what is
// trusted already changes nothing, unless its copy is damaged, or the pack was approved with another folder since.
//
// Where an approval takes two persons, the first one's call records a request and stages nothing: then the candidate that is returned has an
// open request.
//
// The order is: stage the copy, commit the trust with its audit entry, install the copy, end the workers of the version before. After a
// crash at any point either the old version is trusted, or the new one is and recover finishes the rest.
func (s *Service) Approve(ctx context.Context, key, notes string) (candidate.Item[Candidate], error) {
	if len(notes) > candidate.MaxText {
		return candidate.Item[Candidate]{}, fault.TooLong("notes", candidate.MaxText)
	}
	s.approving.Lock()
	defer s.approving.Unlock()
	var staged *Trust
	item, err := s.candidates.Approve(ctx, key, candidate.Approval[Candidate]{
		Notes: notes, InForce: s.inForce, Check: s.check,
		Install: func(ctx context.Context, item *candidate.Item[Candidate]) error {
			t, err := s.prepare(ctx, item)
			if err != nil {
				return err
			}
			staged = &t
			if err := s.pin(ctx, t); err != nil {
				return err
			}
			item.Payload.FolderDigest, item.Payload.Notes = t.FolderDigest, notes
			if item.Request != nil {
				item.Payload.Notes = item.Request.Notes
			}
			return nil
		},
	})
	if err != nil {
		if staged != nil { // such as where another operator has decided otherwise meanwhile
			err = errors.Join(err, s.Folders.discard(*staged))
		}
		err = confirm.AuditRefusal(ctx, s.Audit, item.PackID, map[string]any{"candidate_key": key}, err)
		return item, fmt.Errorf("approve handler: %w", err)
	}
	if staged == nil { // it is trusted as it is, or waits for another person
		return item, nil
	}
	ctx = context.WithoutCancel(ctx) // the decision is committed: a caller that disconnects must not stop it half way
	if err := s.Folders.install(ctx, *staged); err != nil {
		return item, err
	}
	if err := s.Registry.Reload(ctx); err != nil {
		return item, err
	}
	s.Retired(staged.PackID, staged.Slug)
	return item, nil
}

// inForce says whether an installed candidate is what is trusted, with the copy that belongs to it and the folder that its pack was approved
// with.
func (s *Service) inForce(ctx context.Context, item candidate.Item[Candidate]) bool {
	t := s.Registry.Of(item.Payload.PackID, item.Payload.Slug)
	return t != nil && t.CandidateKey == item.Key && s.Folders.verified(ctx, *t) && !s.outdated(ctx, *t, item.Payload)
}

// check finds out whether prepare would be refused, and returns the digest of the folder that it would stage.
func (s *Service) check(ctx context.Context, item *candidate.Item[Candidate]) (digest string, err error) {
	source, err := s.source(ctx, item.Payload)
	if err != nil {
		return "", err
	}
	defer source.Close()
	m, err := manifest(ctx, source)
	if err != nil {
		return "", fmt.Errorf("read handler: %w", err)
	}
	return m.Digest(), nil
}

// prepare stages a copy of the handler that was scanned, from the approved tree of its pack. Between check and this the pack may have been
// approved with another folder of the handler, which the persons who asked and confirmed have not seen.
func (s *Service) prepare(ctx context.Context, item *candidate.Item[Candidate]) (Trust, error) {
	source, err := s.source(ctx, item.Payload)
	if err != nil {
		return Trust{}, err
	}
	defer source.Close()
	t, err := s.Folders.stage(ctx, source, item.Payload.trust())
	if err == nil && item.Request != nil && item.Request.Digest != t.FolderDigest {
		return Trust{}, errors.Join(changedSinceScan(), s.Folders.discard(t))
	}
	return t, err
}

func changedSinceScan() error {
	return candidate.InstallFailed(fault.ContentChanged("handler.py", "/api/capability/candidates/scan"))
}

// source opens the folder of the handler that was scanned, in the approved tree of its pack. The operator decides about what the scan has
// found, so the handler must be the same in three places: the candidate, ecosystem/ at this moment, and the approved tree. Otherwise the
// candidate fails, and the next scan finds what is there by then.
func (s *Service) source(ctx context.Context, c Candidate) (*os.Root, error) {
	packs, err := s.Sources.Select(ctx, patterns(c.Slug)...)
	if err != nil {
		return nil, err
	}
	if !onDisk(packs, c) {
		return nil, changedSinceScan()
	}
	state, known := s.Gates.GetLatest(ctx, c.PackID)
	if err := gate.Check(c.PackID, state, known, s.Gates.Fresh()); err != nil {
		return nil, err
	}
	code, err := s.Trees.Get(ctx, state.Digest)
	if err != nil {
		return nil, err
	}
	source, err := os.OpenRoot(filepath.Join(code, filepath.FromSlash(c.SourceDir)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, changedSinceScan()
	}
	if err != nil {
		return nil, fmt.Errorf("open handler: %w", err)
	}
	if !approved(source, c) {
		source.Close()
		return nil, changedSinceScan()
	}
	return source, nil
}

// outdated says whether the approved tree of a handler's pack has another folder of it than is trusted. Where that can't be found out the
// answer is no: what is trusted goes on.
func (s *Service) outdated(ctx context.Context, t Trust, c Candidate) bool {
	state, known := s.Gates.Get(c.PackID)
	if !known || !state.Open {
		return false
	}
	code, err := s.Trees.Get(ctx, state.Digest)
	if err != nil {
		return false
	}
	source, err := os.OpenRoot(filepath.Join(code, filepath.FromSlash(c.SourceDir)))
	if err != nil {
		return false
	}
	defer source.Close()
	m, err := manifest(ctx, source)
	return err == nil && m.Digest() != t.FolderDigest
}

// onDisk says whether the pack still has, in ecosystem/, the handler that was scanned.
func onDisk(packs []Source, c Candidate) bool {
	for _, p := range packs {
		if p.PackID == c.PackID && p.Error == "" {
			now, err := p.candidate(c.Slug)
			return err == nil && sameHandler(now, c)
		}
	}
	return false
}

// approved says whether the approved tree has the handler that was scanned; source is the handler's folder in it.
func approved(source *os.Root, c Candidate) bool {
	script, err := source.ReadFile(scriptFile)
	if err != nil {
		return false
	}
	raw, err := source.ReadFile(descriptorFile)
	if err != nil {
		return false
	}
	s := Source{PackID: c.PackID, Files: []File{
		{Path: path.Join(sourceDir("", c.Slug), descriptorFile), Content: raw},
		{Path: path.Join(sourceDir("", c.Slug), scriptFile), SHA256: sha256Hex(script)},
	}}
	then, err := s.candidate(c.Slug)
	then.SourceDir = c.SourceDir
	return err == nil && sameHandler(then, c)
}

// sameHandler compares what a scan finds of two candidates, not what a decision adds.
func sameHandler(a, b Candidate) bool {
	a.FolderDigest, b.FolderDigest, a.Notes, b.Notes, a.outdated, b.outdated = "", "", "", "", false, false
	return reflect.DeepEqual(a, b)
}

// RemovePack removes trust, copies and candidates of a pack that is uninstalled, and says whether anything was trusted. It may be called
// again after an error.
func (s *Service) RemovePack(ctx context.Context, packID string) (bool, error) {
	s.approving.Lock()
	defer s.approving.Unlock()
	had := false
	err := s.Store.RemoveTrust(ctx, packID, func(removed []Trust) error {
		for _, t := range removed {
			had = true
			if err := s.Audit.Write(ctx, audit.Entry{Category: audit.Security, Action: "capability_handler_removed", Success: true,
				OwnerPack: packID, Details: details(t)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("remove handlers of %s: %w", packID, err)
	}
	if err := s.Registry.Reload(ctx); err != nil {
		return had, err
	}
	s.Retired(packID, "")
	if _, err := s.candidates.RemovePack(ctx, packID); err != nil {
		return had, err
	}
	return had, s.Folders.removePack(packID)
}
