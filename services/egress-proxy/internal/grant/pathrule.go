package grant

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/urlpath"
)

// Bounds of a grant's rules.
const (
	MaxRules    = 100
	MaxPrefixes = 100 // path_prefixes of one rule
)

// Methods are those that a rule may name and a request over HTTP may have: those registered with IANA (RFC 9110, section 16.1.1) but
// for CONNECT, TRACE and PRI, and two in wide use.
var Methods = []string{
	"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY", "ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY",
	"LABEL", "LINK", "LIST", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH",
	"PROPFIND", "PROPPATCH", "PURGE", "REBIND", "REPORT", "SEARCH", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE",
	"UPDATEREDIRECTREF", "VERSION-CONTROL",
}

// Rule covers some of the requests to what a grant opens. Of a grant with rules, a request that the proxy can read needs
// one that covers it. An empty list covers everything.
type PathRule struct {
	Domains      []string `json:"domains"`       // as in Grant.AllowedDomains
	Methods      []string `json:"methods"`       // of Methods
	PathPrefixes []string `json:"path_prefixes"` // on segment boundaries; see urlpath.Under
}

func checkPathRules(rules []PathRule) error {
	if len(rules) > MaxRules {
		return fault.Invalid("Too many rules: %d > %d", len(rules), MaxRules).With("too_many_entries")
	}
	for i, rule := range rules {
		if err := rule.check(fmt.Sprintf("rules[%d]", i)); err != nil {
			return err
		}
	}
	return nil
}

// check says what is wrong with a rule; field is how the operator finds it.
func (r PathRule) check(field string) error {
	switch {
	case len(r.Domains) == 0 && len(r.Methods) == 0 && len(r.PathPrefixes) == 0:
		return fault.Invalid("%s must specify domains, methods or path_prefixes", field).With("invalid_rule")
	case len(r.Domains) > MaxEntries:
		return fault.Invalid("Too many %s.domains: %d > %d", field, len(r.Domains), MaxEntries).With("too_many_entries")
	case len(r.Methods) > len(Methods):
		return fault.Invalid("Too many %s.methods: %d > %d", field, len(r.Methods), len(Methods)).With("too_many_entries")
	case len(r.PathPrefixes) > MaxPrefixes:
		return fault.Invalid("Too many %s.path_prefixes: %d > %d", field, len(r.PathPrefixes), MaxPrefixes).With("too_many_entries")
	}
	for _, domain := range r.Domains {
		if _, err := hostname.ParsePattern(domain); err != nil {
			return invalidDomain(field+".domains", domain)
		}
	}
	for _, method := range r.Methods {
		if !slices.Contains(Methods, method) {
			return fault.Invalid("Invalid method in %s.methods: %.50q (want %s)", field, method, strings.Join(Methods, ", ")).With("invalid_method")
		}
	}
	for _, prefix := range r.PathPrefixes {
		if _, err := urlpath.ParsePrefix(prefix); err != nil {
			return fault.Invalid("Invalid path in %s.path_prefixes: %.300q (want a path such as /v1/models, without dot segments, empty segments, escaped slashes or a query)", field, prefix).With("invalid_path")
		}
	}
	return nil
}

// compiledPathRule is a Rule made ready for decisions.
type compiledPathRule struct {
	domains  []hostname.Pattern
	methods  []string
	prefixes []string
}

func compilePathRule(r PathRule) (n compiledPathRule, err error) {
	n.methods = r.Methods
	for _, text := range r.Domains {
		p, err := hostname.ParsePattern(text)
		if err != nil {
			return n, fmt.Errorf("domain %q: %w", text, err)
		}
		n.domains = append(n.domains, p)
	}
	for _, text := range r.PathPrefixes {
		prefix, err := urlpath.ParsePrefix(text)
		if err != nil {
			return n, fmt.Errorf("path prefix %q: %w", text, err)
		}
		n.prefixes = append(n.prefixes, prefix)
	}
	return n, nil
}

// covers says whether the rule covers a request. A path that isn't in its one form, or on whose meaning servers differ, is under
// no prefix: it is sent as it is.
func (n compiledPathRule) covers(host hostname.Host, method, path string) bool {
	if len(n.domains) > 0 && !slices.ContainsFunc(n.domains, func(p hostname.Pattern) bool { return p.Match(host) }) {
		return false
	}
	if len(n.methods) > 0 && !slices.Contains(n.methods, method) {
		return false
	}
	if len(n.prefixes) == 0 {
		return true
	}
	return slices.ContainsFunc(n.prefixes, func(prefix string) bool { return urlpath.Under(path, prefix) }) && urlpath.Exact(path)
}

// What denials are called in the audit log (blocked_reason): those that another grant would have prevented, and two that none would.
const (
	Denied         = "grant_denied"
	RuleDenied     = "rule_denied"
	BodyDenied     = "body_denied"
	ModifiedDenied = "pack_modified"
)

// Reasons of denials by a grant's rules.
const (
	ReasonPathRules = "Request is not covered by the rules of the grant"
	ReasonTunnel    = "Grant with rules does not allow tunnels"
)

// ForRequest narrows an allowed decision to one request by the grant's rules. path is as it is sent; a query is
// ignored. A decision that doesn't allow stays as it is.
func (d Decision) ForRequest(method, path string) Decision {
	if !d.Allowed || d.rule == nil {
		return d
	}
	path, _, _ = strings.Cut(path, "?")
	if d.rule.coversRequest(d.host, method, path) {
		return d
	}
	return Decision{Reason: ReasonPathRules}
}

// HasPathRules says whether rules narrow the grant that allows.
func (d Decision) HasPathRules() bool { return d.rule != nil }

// ForTunnel narrows an allowed decision to a tunnel, in which no request can be read: a grant with rules must say that it
// allows them. A decision that doesn't allow stays as it is.
func (d Decision) ForTunnel() Decision {
	if !d.Allowed || d.rule == nil || d.rule.grant.AllowTunnel {
		return d
	}
	return Decision{Reason: ReasonTunnel}
}

func (r *compiledGrant) coversRequest(host hostname.Host, method, path string) bool {
	return slices.ContainsFunc(r.pathRules, func(n compiledPathRule) bool { return n.covers(host, method, path) })
}

// narrowsPathRules says whether g's rules allow less than old's did, as far as can be told from the lists.
func (g *Grant) narrowsPathRules(old *Grant) bool {
	if len(g.PathRules) == 0 {
		return false
	}
	if len(old.PathRules) == 0 || old.AllowTunnel && !g.AllowTunnel {
		return true
	}
	return slices.ContainsFunc(old.PathRules, func(r PathRule) bool { return !slices.ContainsFunc(g.PathRules, r.equal) })
}

func (r PathRule) equal(other PathRule) bool {
	return slices.Equal(r.Domains, other.Domains) && slices.Equal(r.Methods, other.Methods) && slices.Equal(r.PathPrefixes, other.PathPrefixes)
}
