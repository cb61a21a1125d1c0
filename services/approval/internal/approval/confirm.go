package approval

import (
	"context"
	"errors"
	"time"

	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
)

// approvalOf is a pack's folder as an approval has just read it.
type approvalOf struct {
	manifest   tree.Manifest
	digest     string // of manifest
	descriptor pack.Descriptor
	store      func() error // puts the bytes that were read into the blob store
}

// errNotStored ends a transaction that would approve bytes which are not in the blob store yet.
var errNotStored = errors.New("the bytes are not stored yet")

// decide approves what was read, or records that a person asked for it. Bytes that are only asked for are not stored: the blob store has
// approved bytes only. So where two persons are needed, the first try stores nothing, and only if the transaction finds that the approval
// is confirmed, the bytes are stored and the transaction is repeated, which judges anew.
func (s *Service) decide(ctx context.Context, id pack.ID, of approvalOf) (*record.Record, error) {
	stored := false
	store := func() error { stored = true; return of.store() }
	if !s.Approvals.Two() {
		if err := store(); err != nil {
			return nil, err
		}
	}
	try := func() (*record.Record, error) {
		return s.change(ctx, id, func(r *record.Record, now time.Time) (*decision, error) {
			return s.applyApproval(ctx, id, r, of, stored, now)
		})
	}
	r, err := try()
	if errors.Is(err, errNotStored) {
		if err := store(); err != nil {
			return nil, err
		}
		r, err = try()
	}
	if confirm.Lapsed(err) {
		return nil, errors.Join(s.lapse(ctx, id, of.digest), err)
	}
	return r, confirm.AuditRefusal(ctx, s.Audit, string(id), map[string]any{"digest": of.digest}, err)
}

// applyApproval is what an approval does to a record in memory: it approves it, or sets a request that waits for another person. It returns
// nil where nothing changes, because the same is asked for or approved already.
func (s *Service) applyApproval(ctx context.Context, id pack.ID, r *record.Record, of approvalOf, stored bool, now time.Time) (*decision, error) {
	if r == nil {
		return nil, fault.PackNotFound()
	}
	terms := confirm.Terms{Digest: of.digest, Context: s.gates.parentIdentity(id)}
	if s.Approvals.Two() && s.stands(r, terms) {
		return nil, nil
	}
	request := r.Request // Apply drops it
	// The pack may be in state error because its folder was invalid at the last scan. It has just been read as a valid one.
	if _, err := r.Apply(record.Revalidate, now); err != nil {
		return nil, err
	}
	step, request, err := s.Approvals.Judge(ctx, request, terms, now)
	switch {
	case err != nil:
		return nil, err
	case step == confirm.Wait:
		return nil, nil
	case step == confirm.Carry && !stored:
		return nil, errNotStored
	}
	verb := record.Approve
	if step == confirm.Ask {
		verb = record.Ask
	}
	if _, err := r.Apply(verb, now); err != nil {
		return nil, err
	}
	describe(r, of.descriptor)
	r.Request = request
	details := map[string]any{
		"digest": of.digest, "files": len(of.manifest.FileHashes()), "bytes": of.manifest.Bytes(), "version": of.descriptor.Version,
	}
	if step == confirm.Ask {
		details["expires_at"] = request.ExpiresAt()
		return &decision{action: actionRequested, digest: of.digest, details: details}, nil
	}
	r.ParentIdentity = terms.Context
	r.Digest, r.ApprovedAt, r.RejectionReason, r.LastError = of.digest, now, "", ""
	return &decision{action: ActionApproved, digest: of.digest, details: request.Details(details), requestedBy: request.Requester()}, nil
}

// Actions of a pack's history.
const (
	ActionApproved  = "approved" // the only one whose digest names bytes in the blob store
	actionModified  = "modified"
	actionRequested = "approval_requested"
	actionLapsed    = "approval_lapsed"
)

// stands says whether a pack is approved on exactly these terms, and nothing but a parent closes its gate: then approving it decides
// nothing, and needs no second person. Without this, the repetition of a confirmation whose answer got lost would begin a new request.
func (s *Service) stands(r *record.Record, terms confirm.Terms) bool {
	id := pack.ID(r.PackID)
	return r.Status.Executable() && r.Digest == terms.Digest && r.ParentIdentity == terms.Context && s.gates.heldReason(id) == "" && !r.Request.Open(time.Now())
}

// Confirmation is what answers show of a pack's open request, nil for none.
func (s *Service) Confirmation(r *record.Record) *confirm.Confirmation {
	return s.Approvals.Shown(r.Request, time.Now())
}

// openRequest is a record's request if it is open, for the entry of a decision that ends it; otherwise nil.
func openRequest(r *record.Record, now time.Time) *confirm.Request {
	if !r.Request.Open(now) {
		return nil
	}
	return r.Request
}

// lapse ends the open request of a pack whose folder no longer has what was asked for, but the digest now. It does nothing if the request
// is about that digest.
func (s *Service) lapse(ctx context.Context, id pack.ID, now string) error {
	if origin.Of(ctx).RequestID == "" {
		ctx = origin.With(ctx, origin.Origin{Actor: "system"})
	}
	_, err := s.change(ctx, id, func(r *record.Record, at time.Time) (*decision, error) {
		if r == nil {
			return nil, nil
		}
		closed := openRequest(r, at)
		if closed == nil || closed.Digest == now && closed.Context == s.gates.parentIdentity(id) {
			return nil, nil
		}
		if changed, err := r.Apply(record.Lapse, at); err != nil || !changed {
			return nil, err
		}
		return &decision{action: actionLapsed, digest: closed.Digest, details: closed.Details(map[string]any{"digest": closed.Digest, "found": now})}, nil
	})
	return err
}

// lapseIfChanged is lapse for a pack that was scanned. A folder that can't be a pack's has no digest. Where its files can't be read at the
// moment they count as unchanged: the request can't be confirmed while that lasts.
func (s *Service) lapseIfChanged(ctx context.Context, id pack.ID, r *record.Record, scanned scanResult) error {
	asked := openRequest(r, time.Now())
	if asked == nil {
		return nil
	}
	found := ""
	if scanned.problem == "" {
		var err error
		if found, _, err = s.digest(ctx, id, scanned, asked.Digest); err != nil {
			found = asked.Digest
		}
	}
	return s.lapse(ctx, id, found)
}
