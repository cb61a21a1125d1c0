package grant

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/urlpath"
)

// Bounds of a grant's path rules. Each request is compared with all of them.
const (
	MaxRules    = 100
	MaxPrefixes = 100 // path_prefixes of one rule
)

// Methods are the methods that a rule may name and a request over HTTP may have: those registered with IANA (RFC 9110, section
// 16.1.1), and two in wide use. CONNECT is left out since it opens a tunnel, TRACE since it echoes header fields, PRI since it
// begins HTTP/2.
var Methods = []string{
	"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY", "ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY",
	"LABEL", "LINK", "LIST", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH",
	"PROPFIND", "PROPPATCH", "PURGE", "REBIND", "REPORT", "SEARCH", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE",
	"UPDATEREDIRECTREF", "VERSION-CONTROL",
}

// PathRule covers some of the requests to what a grant opens. If a grant has path rules, a request that the proxy can read is allowed
// only if one of them covers its domain, its method and its path. An empty list covers everything. JSON calls them "rules".
type PathRule struct {
	Domains      []string `json:"domains"`       // as in Grant.AllowedDomains
	Methods      []string `json:"methods"`       // each one of Methods
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

// check is nil for a rule that can be granted, else an invalid fault; field is the rule's path in the operator's JSON ("rules[0]").
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

// compiledPathRule is a PathRule made ready for decisions.
type compiledPathRule struct {
	domains  []hostname.Pattern
	methods  []string
	prefixes []string
}

func compilePathRule(r PathRule) (c compiledPathRule, err error) {
	c.methods = r.Methods
	for _, text := range r.Domains {
		p, err := hostname.ParsePattern(text)
		if err != nil {
			return c, fmt.Errorf("domain %q: %w", text, err)
		}
		c.domains = append(c.domains, p)
	}
	for _, text := range r.PathPrefixes {
		prefix, err := urlpath.ParsePrefix(text)
		if err != nil {
			return c, fmt.Errorf("path prefix %q: %w", text, err)
		}
		c.prefixes = append(c.prefixes, prefix)
	}
	return c, nil
}

// covers says whether the rule covers a request.
//
// The path is compared and sent as it is, so a path that servers read differently is under no prefix: "/v1/..%2fadmin" is under /v1 for
// us and /admin for a server that decodes before it looks. Rewriting such a path would not help; the next server on the
// way may read it in a third way. A rule without prefixes covers it, since that rule promises nothing about paths.
func (c compiledPathRule) covers(host hostname.Host, method, path string) bool {
	if len(c.domains) > 0 && !slices.ContainsFunc(c.domains, func(p hostname.Pattern) bool { return p.Match(host) }) {
		return false
	}
	if len(c.methods) > 0 && !slices.Contains(c.methods, method) {
		return false
	}
	if len(c.prefixes) == 0 {
		return true
	}
	return slices.ContainsFunc(c.prefixes, func(prefix string) bool { return urlpath.Under(path, prefix) }) && urlpath.Exact(path)
}

// The values of blocked_reason in the audit log that this package decides.
const (
	Denied         = "grant_denied"  // no grant, or none for the host and port; another grant would have allowed it
	RuleDenied     = "rule_denied"   // the grant's path rules; another grant would have allowed it
	BodyDenied     = "body_denied"   // a body that a server may take for a second request, under path rules; no grant allows it
	ModifiedDenied = "pack_modified" // the pack's files changed since it was approved; no grant allows it
)

// The reasons of denials by a grant's path rules.
const (
	ReasonPathRules = "Request is not covered by the rules of the grant"
	ReasonTunnel    = "Grant with rules does not allow tunnels"
)

// ForRequest narrows an allowed decision to one request by the grant's path rules. path is as it will be sent; its query is ignored. A
// decision that denies stays as it is.
func (d Decision) ForRequest(method, path string) Decision {
	if !d.Allowed || d.ruled == nil {
		return d
	}
	path, _, _ = strings.Cut(path, "?")
	if d.ruled.coversRequest(d.host, method, path) {
		return d
	}
	return Decision{Reason: ReasonPathRules}
}

// HasPathRules says whether the grant that allows has path rules.
func (d Decision) HasPathRules() bool { return d.ruled != nil }

// ForTunnel narrows an allowed decision to a tunnel. No request in a tunnel can be read, so path rules can't be applied: a grant with
// path rules allows tunnels only if its AllowTunnel says so. The policy may forbid all tunnels. A decision that denies stays as it is.
func (d Decision) ForTunnel() Decision {
	if d.Allowed && d.noTunnels != nil {
		return *d.noTunnels
	}
	if !d.Allowed || d.ruled == nil || d.ruled.grant.AllowTunnel {
		return d
	}
	return Decision{Reason: ReasonTunnel}
}

func (c *compiledGrant) coversRequest(host hostname.Host, method, path string) bool {
	return slices.ContainsFunc(c.pathRules, func(n compiledPathRule) bool { return n.covers(host, method, path) })
}

// narrowsPathRules is narrows for the path rules alone. A rule of old that g lacks counts as narrowing, though another one may
// cover as much.
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
