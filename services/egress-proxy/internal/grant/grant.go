// Package grant has network grants: which domains and ports a pack may reach, and until when.
//
// Requests are judged by an immutable snapshot in memory (Cache); the store behind it is shared by all replicas.
package grant

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
)

// Bounds of a grant.
const (
	MaxEntries   = 1000 // domains, and ports
	MaxNotes     = 4096 // bytes
	MaxGrantedBy = 128  // bytes
)

// Grant is what a pack was granted. A revoked grant stays, with Enabled false.
type Grant struct {
	PackID         string
	Enabled        bool
	AllowedDomains []string // as the operator wrote them; see hostname.Pattern
	AllowedPorts   []int    // 0 is all
	GrantedAt      time.Time
	UpdatedAt      time.Time
	GrantedBy      string
	Notes          string
	ExpiresAt      time.Time  // zero for never
	PathRules      []PathRule // nil for none
	AllowTunnel    bool       // with rules: tunnels, in which they can't be kept, are allowed nevertheless
	Revision       int64      // of the store when it was written; grows with every change of any grant
}

// Request is what an operator asks for.
type Request struct {
	AllowedDomains []string
	AllowedPorts   []int
	GrantedBy      string
	Notes          string
	ExpiresAt      time.Time
	PathRules      []PathRule
	AllowTunnel    bool
}

// Check says what is wrong with a request; the error is a fault for the operator.
func (w Request) Check(now time.Time) error {
	switch {
	case len(w.AllowedDomains) == 0 && len(w.AllowedPorts) == 0:
		return fault.Invalid("Must specify allowed_domains or allowed_ports").With("grant_empty")
	case len(w.AllowedDomains) > MaxEntries:
		return fault.Invalid("Too many allowed_domains: %d > %d", len(w.AllowedDomains), MaxEntries).With("too_many_entries")
	case len(w.AllowedPorts) > MaxEntries:
		return fault.Invalid("Too many allowed_ports: %d > %d", len(w.AllowedPorts), MaxEntries).With("too_many_entries")
	case len(w.Notes) > MaxNotes:
		return fault.Invalid("notes is too long: %d > %d bytes", len(w.Notes), MaxNotes).With("value_too_long")
	case len(w.GrantedBy) > MaxGrantedBy:
		return fault.Invalid("granted_by is too long: %d > %d bytes", len(w.GrantedBy), MaxGrantedBy).With("value_too_long")
	case !w.ExpiresAt.IsZero() && !w.ExpiresAt.After(now):
		return fault.Invalid("expires_at must lie in the future").With("invalid_expires_at")
	}
	for _, domain := range w.AllowedDomains {
		if _, err := hostname.ParsePattern(domain); err != nil {
			return invalidDomain("allowed_domains", domain)
		}
	}
	for _, port := range w.AllowedPorts {
		if port < 0 || port > 65535 {
			return fault.Invalid("Invalid port in allowed_ports: %d (want 1 to 65535, or 0 for all)", port).With("invalid_port")
		}
	}
	return checkPathRules(w.PathRules)
}

// invalidDomain says what is wrong with an entry, and what to write instead where that can be told.
func invalidDomain(field, domain string) *fault.Fault {
	want := "a name such as api.example.com, *.example.com, an address or *"
	if name := nameIn(domain); name != "" {
		want = "the name alone: " + name + "; ports go to allowed_ports, paths to rules"
	}
	return fault.Invalid("Invalid domain in %s: %.300q (want %s)", field, domain, want).With("invalid_domain")
}

// nameIn is the host in a URL or in host:port, "" where there is none.
func nameIn(text string) string {
	if _, rest, ok := strings.Cut(text, "://"); ok {
		text = rest
	}
	u, err := url.Parse("http://" + text)
	if err != nil || u.User != nil {
		return ""
	}
	p, err := hostname.ParsePattern(u.Hostname())
	if err != nil {
		return ""
	}
	return p.String()
}

// Wide says whether the request opens every domain or every port.
func (w Request) Wide() bool {
	return slices.Contains(w.AllowedDomains, "*") || slices.Contains(w.AllowedPorts, 0)
}

// Apply makes the grant that old becomes by the request; old is nil for a pack that has no record. What the request doesn't
// name is not granted any more.
func (w Request) Apply(packID string, old *Grant, now time.Time) Grant {
	g := Grant{
		PackID: packID, Enabled: true, AllowedDomains: w.AllowedDomains, AllowedPorts: w.AllowedPorts,
		GrantedAt: now, UpdatedAt: now, GrantedBy: w.GrantedBy, Notes: w.Notes, ExpiresAt: w.ExpiresAt,
		PathRules: w.PathRules, AllowTunnel: w.AllowTunnel,
	}
	if old != nil && old.InForce(now) {
		g.GrantedAt = old.GrantedAt
	}
	return g
}

// Revoke takes the grant back. It says whether there was anything to take.
func (g *Grant) Revoke(now time.Time) bool {
	if !g.InForce(now) {
		return false
	}
	g.Enabled, g.UpdatedAt = false, now
	return true
}

// InForce says whether the grant grants anything at that time.
func (g *Grant) InForce(now time.Time) bool {
	return g.Enabled && (g.ExpiresAt.IsZero() || now.Before(g.ExpiresAt))
}

// narrows says whether g allows less than old did, as far as can be told from their lists.
func (g *Grant) narrows(old *Grant, now time.Time) bool {
	if !old.InForce(now) {
		return false
	}
	if !g.Enabled || !g.ExpiresAt.IsZero() && (old.ExpiresAt.IsZero() || g.ExpiresAt.Before(old.ExpiresAt)) {
		return true
	}
	return !slices.Contains(g.AllowedDomains, "*") && !containsAll(g.AllowedDomains, old.AllowedDomains) ||
		!slices.Contains(g.AllowedPorts, 0) && !containsAll(g.AllowedPorts, old.AllowedPorts) ||
		g.narrowsPathRules(old)
}

func containsAll[T comparable](all, some []T) bool {
	for _, v := range some {
		if !slices.Contains(all, v) {
			return false
		}
	}
	return true
}
