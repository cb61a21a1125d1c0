package grant

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
)

// StatusModified is the status of a pack whose files are not what was approved.
const StatusModified = pack.StatusModified

// errUnchanged leaves a record as it is.
var errUnchanged = errors.New("unchanged")

// Gates is what is known of packs; *gate.View is it.
type Gates interface {
	Get(packID string) (gate.State, bool)
	GetLatest(ctx context.Context, packID string) (gate.State, bool)
	CatchUp(ctx context.Context, packID string) error
	All() []gate.State
	Fresh() bool
}

// Auditor writes audit entries; *audit.Log is it.
type Auditor interface {
	Write(ctx context.Context, e audit.Entry) error
}

// Service has the verbs of operators. Each leaves its audit entry before its change is committed, so that no change
// goes without one; a change that then fails leaves an entry too many.
type Service struct {
	cache *Cache
	gates Gates
	audit Auditor
}

// NewService makes the service over a cache.
func NewService(cache *Cache, gates Gates, auditor Auditor) *Service {
	return &Service{cache, gates, auditor}
}

// Granted is a grant that was made, and what the one before granted and it doesn't.
type Granted struct {
	Grant
	Removed Removed
}

// Grant gives the pack what is asked for, in place of what it had. A pack that approval doesn't know is a not-found fault, one that is
// being uninstalled a conflict.
func (s *Service) Grant(ctx context.Context, packID string, w Request) (Granted, error) {
	now := stamp()
	if err := w.Check(now); err != nil {
		return Granted{}, err
	}
	if err := s.mustKnow(ctx, packID); err != nil {
		return Granted{}, err
	}
	if w.GrantedBy == "" {
		w.GrantedBy = origin.Of(ctx).Actor
	}
	severity := audit.Info
	if w.Wide() {
		severity = audit.Warning
	}
	var granted Granted
	err := s.change(ctx, packID, func(old *Grant) (*Grant, error) {
		// Asked once more, so that no grant follows the Remove of an uninstall.
		state, known := s.gates.Get(packID)
		if !known {
			return nil, fault.PackNotFound()
		}
		if err := state.Grantable(); err != nil {
			return nil, err
		}
		granted = Granted{Grant: w.Apply(packID, old, now)}
		if old != nil && old.InForce(now) {
			granted.Removed = granted.removed(old)
		}
		details := map[string]any{
			"permission_type": "network", "allowed_domains": w.AllowedDomains, "allowed_ports": w.AllowedPorts,
			"granted_by": w.GrantedBy, "notes": w.Notes, "wildcard": w.Wide(),
		}
		if !w.ExpiresAt.IsZero() {
			details["expires_at"] = w.ExpiresAt
		}
		if len(w.PathRules) > 0 {
			details["rules"] = w.PathRules
		}
		if w.AllowTunnel {
			details["allow_tunnel"] = true
		}
		return &granted.Grant, s.audit.Write(ctx, audit.Entry{
			Category: audit.Permission, Severity: severity, Action: "permission_grant", Success: true, OwnerPack: packID, Details: details,
		})
	})
	return granted, err
}

// Revoke takes the pack's grant back and keeps the record. revoked says whether there was one in force. A pack that
// nobody ever knew is a not-found fault.
func (s *Service) Revoke(ctx context.Context, packID, reason string) (revoked bool, err error) {
	if len(reason) > MaxNotes {
		return false, fault.Invalid("reason is too long: %d > %d bytes", len(reason), MaxNotes).With("value_too_long")
	}
	if _, ok := s.cache.Get(packID); !ok {
		if err := s.mustKnow(ctx, packID); err != nil {
			return false, err
		}
	}
	now := stamp()
	err = s.change(ctx, packID, func(old *Grant) (*Grant, error) {
		revoked = old != nil && old.Revoke(now)
		if !revoked {
			return nil, errUnchanged
		}
		return old, s.auditRevoke(ctx, packID, reason)
	})
	return revoked, err
}

// Remove takes the pack's grant and its record away. revoked says whether there was a grant in force. What is taken stays away where
// approval has retired the pack before: Grant knows that by the time. Where it may not the error is a fault, 503.
func (s *Service) Remove(ctx context.Context, packID string) (revoked bool, err error) {
	behind := s.gates.CatchUp(ctx, packID)
	now := stamp()
	err = s.change(ctx, packID, func(old *Grant) (*Grant, error) {
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

func (s *Service) change(ctx context.Context, packID string, change func(*Grant) (*Grant, error)) error {
	switch err := s.cache.store.Apply(ctx, packID, change); {
	case errors.Is(err, errUnchanged):
		return nil
	case err != nil:
		return err
	}
	// The change is committed: it must be followed here whether or not the caller still waits.
	return s.cache.Refresh(context.WithoutCancel(ctx))
}

// List are all records and the packs whose network is off because they are modified.
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

// Check says what the pack's grant says of a domain and port. The answer is audited as an access check, a denial as
// such, too.
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
		host = hostname.Host{} // no host at all: no list has it
	}
	return s.cache.Check(packID, host, domain, port)
}

// Propose makes the smallest request that keeps what the pack is granted and would have allowed what was refused to it. Refusals
// that no grant prevents are left out, each with the reason. A pack that approval doesn't know is a not-found fault.
func (s *Service) Propose(ctx context.Context, packID string, refused []Refusal, obstacle Obstacle) (Request, []LeftOut, error) {
	if err := s.mustKnow(ctx, packID); err != nil {
		return Request{}, nil, err
	}
	var old *Grant
	if g, ok := s.cache.Get(packID); ok {
		old = &g
	}
	return propose(old, refused, obstacle, time.Now())
}

// mustKnow refuses packs that approval doesn't know.
func (s *Service) mustKnow(ctx context.Context, packID string) error {
	if _, known := s.gates.Get(packID); known {
		return nil
	}
	if _, known := s.gates.GetLatest(ctx, packID); known {
		return nil
	}
	if !s.gates.Fresh() {
		return fault.Unavailable("Can't tell whether the pack exists: approval does not answer").With("service_unavailable")
	}
	return fault.PackNotFound()
}

// stamp is now as the store keeps it.
func stamp() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
