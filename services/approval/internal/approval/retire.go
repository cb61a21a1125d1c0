package approval

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
)

// Retire begins a pack's uninstall. From now on it can't run or be approved, and nothing can be granted to it, whatever is in
// its folder, until Remove ends the uninstall. The services may remove in any order what they hold of the pack; the record
// stays until the end, so that an uninstall that was interrupted can be repeated.
//
// A pack that is retired already stays so. installed says that the pack has files: then it gets a record if it has none, so that it is
// retired while they are removed. known is false for a pack that has neither files nor a record.
func (s *Service) Retire(ctx context.Context, id pack.ID, installed bool) (known bool, err error) {
	defer s.lock(id)()
	absent := func(now time.Time) *record.Record {
		if !installed {
			return nil
		}
		return record.New(string(id), now)
	}
	_, err = s.changeOrCreate(ctx, id, absent, func(r *record.Record, now time.Time) (*decision, error) {
		if r == nil {
			return nil, fault.PackNotFound()
		}
		was, closed := r.Status, openRequest(r, now)
		if changed, err := r.Apply(record.Retire, now); err != nil || !changed {
			return nil, err
		}
		return &decision{action: "retired", details: closed.Details(map[string]any{"status": was, "digest": r.Digest})}, nil
	})
	if fault.Is(err, fault.KindNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.Watcher.Forget(string(id))
	s.forget(id)
	return true, nil
}

// Retired lists the packs whose uninstall has begun and not ended.
func (s *Service) Retired(ctx context.Context) ([]string, error) { return s.Records.Retired(ctx) }

// Remove ends the uninstall of a retired pack, of which nothing else is left: it deletes the record and the history. The audit
// log keeps what happened. A pack that isn't retired is a conflict: it was installed again since the uninstall began.
func (s *Service) Remove(ctx context.Context, id pack.ID) (removed bool, err error) {
	defer s.lock(id)()
	s.Watcher.Forget(string(id))
	r, err := s.Records.Get(ctx, string(id))
	switch {
	case fault.Is(err, fault.KindNotFound):
		return false, nil
	case err != nil:
		return false, err
	case !r.Retired:
		return false, fault.Conflict("Pack '%s' was installed anew meanwhile", id).With("state_forbids")
	}
	entry := audit.Entry{Category: audit.Approval, Severity: audit.Info, Action: "pack_approval_removed", Success: true, OwnerPack: string(id)}
	if err := s.Audit.Write(ctx, entry); err != nil {
		return false, auditFault(err)
	}
	s.step("audited")
	if removed, err = s.Records.Remove(ctx, string(id)); err != nil {
		return false, err
	}
	s.step("removed")
	s.gates.remove(ctx, id)
	s.forget(id)
	s.OnChange()
	return removed, nil
}
