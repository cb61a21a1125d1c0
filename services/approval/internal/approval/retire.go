package approval

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
)

// Retire begins a pack's uninstall: it can't run or be approved from now on, nor anything be granted to it, whatever lies in its
// folder, until Remove ends the uninstall. What else there is of the pack may be taken away in between, in whatever order, and the
// record remains for whoever has to go on with that. A pack that is retired already stays so. installed says that the pack has
// files, so that it is made known if it isn't; known is false for one that has none and isn't.
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
		was := r.Status
		if changed, err := r.Apply(record.Retire, now); err != nil || !changed {
			return nil, err
		}
		return &decision{action: "retired", details: map[string]any{"status": was, "digest": r.Digest}}, nil
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

// Retired are the packs whose uninstall has begun and not ended.
func (s *Service) Retired(ctx context.Context) ([]string, error) { return s.Records.Retired(ctx) }

// Remove ends the uninstall of a retired pack, of which nothing else is left: its record and history are gone. The audit log keeps
// what happened. A pack that is not retired is a conflict: it was installed anew since.
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
	s.gates.remove(id)
	s.forget(id)
	s.OnChange()
	return removed, nil
}
