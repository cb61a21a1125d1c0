package grant

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/pack"
)

// StatusModified is the status of a pack whose files are not what was approved.
const StatusModified = pack.StatusModified

// Gates knows which packs there are and what approval decided about them; *gate.View implements it.
type Gates interface {
	Get(packID string) (gate.State, bool)
	GetLatest(ctx context.Context, packID string) (gate.State, bool)
	CatchUp(ctx context.Context, packID string) error
	All() []gate.State
	Fresh() bool
}

// Auditor writes audit entries; *audit.Log implements it.
type Auditor interface {
	Write(ctx context.Context, e audit.Entry) error
}

// Service carries out the operators' changes of grants. Each change writes its audit entry inside the store's transaction, before the
// commit: a kill at any point leaves no change without an entry. A commit that fails leaves an entry too many, which is
// the better of the two errors.
type Service struct {
	cache *Cache
	gates Gates
	audit Auditor
}

// NewService makes the service over a cache.
func NewService(cache *Cache, gates Gates, auditor Auditor) *Service {
	return &Service{cache, gates, auditor}
}

// Granted is the answer to a Grant: the grant that was made, and what the one before it had granted and it doesn't.
type Granted struct {
	Grant
	Removed Removed
}

// Grant replaces the pack's grant by the requested one. The error is a not-found fault for a pack that approval doesn't
// know, a conflict for one that is being uninstalled, an invalid one for a request that breaks a bound, and a denied one for a request that
// breaks a rule of the policy.
func (s *Service) Grant(ctx context.Context, packID string, r Request) (Granted, error) {
	now := storedNow()
	if err := r.Check(now); err != nil {
		return Granted{}, err
	}
	if err := gate.MustKnow(ctx, s.gates, packID); err != nil {
		return Granted{}, err
	}
	r.GrantedBy, r.Role = origin.Of(ctx).Actor, origin.Of(ctx).Role
	if broken := r.violations(s.cache.policy.Current(), r.Role); len(broken) > 0 {
		return Granted{}, s.refuse(ctx, packID, r, broken)
	}
	severity := audit.Info
	if r.Wide() {
		severity = audit.Warning
	}
	var granted Granted
	err := s.cache.Apply(ctx, packID, func(old *Grant) (*Grant, error) {
		// An uninstall retires the pack, then calls Remove. mustKnow above ran before this transaction, and Remove may have run
		// between the two; without this second look, the grant would outlive its pack and be there for the next of its name.
		state, known := s.gates.Get(packID)
		if !known {
			return nil, fault.PackNotFound()
		}
		if err := state.Grantable(); err != nil {
			return nil, err
		}
		granted = Granted{Grant: r.Replace(packID, old, now)}
		if old != nil && old.InForce(now) {
			granted.Removed = granted.removed(old)
		}
		details := map[string]any{
			"permission_type": "network", "allowed_domains": r.AllowedDomains, "allowed_ports": r.AllowedPorts,
			"granted_by": r.GrantedBy, "notes": r.Notes, "wildcard": r.Wide(),
		}
		if r.GrantedByNote != "" {
			details["granted_by_note"] = r.GrantedByNote
		}
		if !r.ExpiresAt.IsZero() {
			details["expires_at"] = r.ExpiresAt
		}
		if len(r.PathRules) > 0 {
			details["rules"] = r.PathRules
		}
		if r.AllowTunnel {
			details["allow_tunnel"] = true
		}
		return &granted.Grant, s.audit.Write(ctx, audit.Entry{
			Category: audit.Permission, Severity: severity, Action: "permission_grant", Success: true, OwnerPack: packID, Details: details,
		})
	})
	granted.judge(s.cache.policy.Current())
	return granted, err
}

// Revoke takes the pack's grant back and keeps the record, disabled. revoked says whether there was one in force. The error is a
// not-found fault for a pack that has no record and that approval doesn't know.
func (s *Service) Revoke(ctx context.Context, packID, reason string) (revoked bool, err error) {
	if len(reason) > MaxNotes {
		return false, fault.Invalid("reason is too long: %d > %d bytes", len(reason), MaxNotes).With("value_too_long")
	}
	if _, ok := s.cache.Get(packID); !ok {
		if err := gate.MustKnow(ctx, s.gates, packID); err != nil {
			return false, err
		}
	}
	now := storedNow()
	err = s.cache.Apply(ctx, packID, func(old *Grant) (*Grant, error) {
		revoked = old != nil && old.Revoke(now)
		if !revoked {
			return nil, errUnchanged
		}
		return old, s.auditRevoke(ctx, packID, reason)
	})
	return revoked, err
}

// Remove deletes the pack's record. revoked says whether a grant was in force. approval must have retired the pack before: Remove
// first brings our copy of the gates up to approval, so that no later Grant at this replica sees the pack as it was before. If it
// can't, the record is deleted nevertheless, and the error is an unavailable fault (503): the caller tries again.
func (s *Service) Remove(ctx context.Context, packID string) (revoked bool, err error) {
	behind := s.gates.CatchUp(ctx, packID)
	now := storedNow()
	err = s.cache.Apply(ctx, packID, func(old *Grant) (*Grant, error) {
		if old == nil {
			return nil, errUnchanged
		}
		if revoked = old.Revoke(now); !revoked {
			return nil, nil
		}
		return nil, s.auditRevoke(ctx, packID, "pack removed")
	})
	return revoked, errors.Join(err, behind)
}

func (s *Service) auditRevoke(ctx context.Context, packID, reason string) error {
	return s.audit.Write(ctx, audit.Entry{
		Category: audit.Permission, Action: "permission_revoke", Success: true, OwnerPack: packID,
		Details: map[string]any{"permission_type": "network", "reason": reason},
	})
}

// List gives all records, and the ids of the packs whose network is off because they are modified, sorted.
func (s *Service) List() (grants []Grant, modified []string) {
	modified = []string{} // never null in the answer
	for _, state := range s.gates.All() {
		if state.Status == StatusModified {
			modified = append(modified, state.PackID)
		}
	}
	slices.Sort(modified)
	return s.cache.List(), modified
}

// Check says whether the pack's grant covers a domain and port, as if the pack had asked. Every answer has an audit entry of
// category network, as the pack's own requests have; a denial has one of category security, too.
func (s *Service) Check(ctx context.Context, packID, domain string, port uint16) (Decision, error) {
	d := s.decide(packID, domain, port)
	details := map[string]any{
		"domain": domain, "port": int(port), "allowed": d.Allowed, "check_type": "access_check",
	}
	if !d.Allowed {
		details["blocked_reason"] = Denied
		if d.Reason == ReasonModified {
			details["blocked_reason"] = ModifiedDenied
		}
		if err := s.audit.Write(ctx, audit.Entry{
			Category: audit.Security, Severity: audit.Warning, Action: "network_denied", OwnerPack: packID, Details: details, RejectionReason: d.Reason,
		}); err != nil {
			return Decision{}, err
		}
	}
	e := audit.Entry{Category: audit.Network, Action: "network_request", Success: d.Allowed, OwnerPack: packID, Details: details}
	if !d.Allowed {
		e.Severity, e.RejectionReason = audit.Warning, d.Reason
	}
	return d, s.audit.Write(ctx, e)
}

func (s *Service) decide(packID, domain string, port uint16) Decision {
	if state, ok := s.gates.Get(packID); ok && state.Status == StatusModified {
		return Decision{Reason: ReasonModified}
	}
	host, err := hostname.Parse(domain)
	if err != nil {
		host = hostname.Host{} // the zero Host is in no list, so the decision names the domain as not allowed
	}
	return s.cache.Check(packID, host, domain, port)
}

// Propose makes the smallest request that keeps what the pack is granted and would have allowed what was refused to it. Refusals
// that no grant prevents are left out, each with the reason. Nothing is changed: an operator decides. The error is a not-found
// fault for a pack that approval doesn't know.
func (s *Service) Propose(ctx context.Context, packID string, refused []Refusal, obstacle Obstacle) (Request, []LeftOut, error) {
	if err := gate.MustKnow(ctx, s.gates, packID); err != nil {
		return Request{}, nil, err
	}
	var old *Grant
	if g, ok := s.cache.Get(packID); ok {
		old = &g
	}
	return propose(old, refused, obstacle, time.Now())
}

// storedNow is the time now as the store keeps it: UTC, in microseconds. With more digits, the answer to a grant would differ from what
// is read later.
func storedNow() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
