// Package grant has network grants: which hosts and ports a pack may reach, by which requests, and until when.
//
// Two sides use it. Package decision asks the Cache about each request of a pack; operators change grants through the
// Service, which package httpapi serves. Between them is a Store that all replicas share (package store implements it):
// the Cache of each replica follows it.
//
// A grant is compared with hosts in hostname's normal form and with paths in urlpath's, never with what a pack sent. It
// says nothing about addresses: a granted name that resolves to an internal address is refused by package address.
package grant

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/libs/policy"
)

// Bounds of a grant.
const (
	MaxEntries   = 1000 // domains, and ports
	MaxNotes     = 4096 // bytes
	MaxGrantedBy = 128  // bytes
)

// Grant is a pack's record. Granted is each of AllowedDomains joined with each of AllowedPorts. A revoked grant keeps its record, with
// Enabled false, so that operators see what it was.
type Grant struct {
	PackID         string
	Enabled        bool
	AllowedDomains []string // as the operator wrote them; see hostname.Pattern
	AllowedPorts   []int    // 0 is all
	GrantedAt      time.Time
	UpdatedAt      time.Time
	GrantedBy      string
	Notes          string
	ExpiresAt      time.Time   // zero for never
	PathRules      []PathRule  // nil for none: every request to a granted host and port is allowed
	AllowTunnel    bool        // only with PathRules: allows tunnels, whose requests can't be read and so not compared with the rules
	Role           access.Role // of the person who granted it, by which the policy is applied; "" where it isn't known
	Revision       int64       // the store's revision at which it was written

	// What the policy in force says of the grant. The store doesn't keep it.
	Suspended *policy.Violation // the first rule that the grant breaks: it grants nothing while that is so; nil for none
	NoTunnels *policy.Violation // the rule that forbids its tunnels; nil for none
}

// Request is a grant that an operator asks for. Fields are as in Grant.
type Request struct {
	AllowedDomains []string
	AllowedPorts   []int
	GrantedBy      string // the actor, set by Service.Grant
	GrantedByNote  string // whom the caller names. Nobody believes it, so it decides nothing; the audit log keeps it
	Notes          string
	ExpiresAt      time.Time
	PathRules      []PathRule
	AllowTunnel    bool
	Role           access.Role // of the person who asks
}

// Check is nil for a request that can be granted, else an invalid fault that names the field.
func (r Request) Check(now time.Time) error {
	switch {
	case len(r.AllowedDomains) == 0 && len(r.AllowedPorts) == 0:
		return fault.Invalid("Must specify allowed_domains or allowed_ports").With("grant_empty")
	case len(r.AllowedDomains) > MaxEntries:
		return fault.Invalid("Too many allowed_domains: %d > %d", len(r.AllowedDomains), MaxEntries).With("too_many_entries")
	case len(r.AllowedPorts) > MaxEntries:
		return fault.Invalid("Too many allowed_ports: %d > %d", len(r.AllowedPorts), MaxEntries).With("too_many_entries")
	case len(r.Notes) > MaxNotes:
		return fault.Invalid("notes is too long: %d > %d bytes", len(r.Notes), MaxNotes).With("value_too_long")
	case len(r.GrantedByNote) > MaxGrantedBy:
		return fault.Invalid("granted_by is too long: %d > %d bytes", len(r.GrantedByNote), MaxGrantedBy).With("value_too_long")
	case !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(now):
		return fault.ExpiresTooEarly()
	}
	for _, domain := range r.AllowedDomains {
		if _, err := hostname.ParsePattern(domain); err != nil {
			return invalidDomain("allowed_domains", domain)
		}
	}
	for _, port := range r.AllowedPorts {
		if port < 0 || port > 65535 {
			return fault.Invalid("Invalid port in allowed_ports: %d (want 1 to 65535, or 0 for all)", port).With("invalid_port")
		}
	}
	return checkPathRules(r.PathRules)
}

// invalidDomain is the fault for an entry that is no pattern. People paste URLs and host:port; for these it names what to write
// instead.
func invalidDomain(field, domain string) *fault.Fault {
	want := "a name such as api.example.com, *.example.com, an address or *"
	if name := nameIn(domain); name != "" {
		want = "the name alone: " + name + "; ports go to allowed_ports, paths to rules"
	}
	return fault.Invalid("Invalid domain in %s: %.300q (want %s)", field, domain, want).With("invalid_domain")
}

// nameIn is the host of a URL or of host:port, "" where there is none.
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
func (r Request) Wide() bool {
	return slices.Contains(r.AllowedDomains, "*") || slices.Contains(r.AllowedPorts, 0)
}

// Replace makes the grant that replaces old, which is nil for a pack that has no record. What the request doesn't name is
// not granted any more: a request is the whole grant, not an addition.
func (r Request) Replace(packID string, old *Grant, now time.Time) Grant {
	g := Grant{
		PackID: packID, Enabled: true, AllowedDomains: r.AllowedDomains, AllowedPorts: r.AllowedPorts,
		GrantedAt: now, UpdatedAt: now, GrantedBy: r.GrantedBy, Notes: r.Notes, ExpiresAt: r.ExpiresAt,
		PathRules: r.PathRules, AllowTunnel: r.AllowTunnel, Role: r.Role,
	}
	if old != nil && old.InForce(now) {
		g.GrantedAt = old.GrantedAt
	}
	return g
}

// Revoke disables the grant. It says whether the grant was in force.
func (g *Grant) Revoke(now time.Time) bool {
	if !g.InForce(now) {
		return false
	}
	g.Enabled, g.UpdatedAt = false, now
	return true
}

// InForce says whether the grant is neither revoked nor expired at that time. It may be suspended by the policy nevertheless.
func (g *Grant) InForce(now time.Time) bool {
	return g.Enabled && (g.ExpiresAt.IsZero() || now.Before(g.ExpiresAt))
}

// narrows says whether g allows less than old did, by comparing their lists. Where lists can't tell ("*.x.com" in place of
// "a.x.com"), the answer is true: a session that is ended without need costs a pack a retry, one that goes on without
// a grant is a hole.
func (g *Grant) narrows(old *Grant, now time.Time) bool {
	if !old.InForce(now) || old.Suspended != nil {
		return false
	}
	if g.narrowedByPolicy(old) || !g.Enabled || !g.ExpiresAt.IsZero() && (old.ExpiresAt.IsZero() || g.ExpiresAt.Before(old.ExpiresAt)) {
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
