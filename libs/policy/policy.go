// Package policy is the ceiling above every approval: what nobody may grant, whoever he is and however he clicks.
//
//	{
//	  "version": 1,
//	  "network": {"domains": {"allow": ["*.example.com"], "deny": ["evil.example.com"]}, "ports": [443, "8000-8999"], "wildcard": false},
//	  "roles": {"operator": {"pip": {"sdists": false}}}
//	}
//
// Parse reads the document. The owners of grants decide with the methods of Policy, which are pure: at the moment of a grant, and again for each
// grant that exists when the policy changes. They get the policy in force from a Reader, which follows the copy that `rumi reconcile` makes
// of the operator's file.
//
// What the document doesn't name has no ceiling. A section under "roles" narrows the policy for grants of that role and never widens it: a
// grant must be within both. A grant of an unknown role must be within all of them.
package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/hostname"
)

// Path is the operator's file, relative to the Rumi home, as messages name it.
const Path = "user_data/settings/policy.json"

// Code is the error code of Violations.Err.
const Code = "policy_violation"

// The rules. Each is the path of a member in the document. That of a role's section has "roles.operator." before it. The names are stable: they
// are in refusals, in lists of grants and in the audit log.
const (
	Domains     = "network.domains"
	Ports       = "network.ports"
	Wildcard    = "network.wildcard"
	Tunnels     = "network.tunnels"
	Permissions = "capability.permissions"
	Mounts      = "capability.mounts"
	Sdists      = "pip.sdists"
	Memory      = "containers.memory"
)

// Violation is a rule of the policy that a grant breaks.
type Violation struct {
	Rule   string `json:"rule"`   // one of the rules above: "network.domains", "roles.operator.network.domains"
	Reason string `json:"reason"` // what is over the ceiling, and what is allowed
}

// Violations are all rules that one grant breaks, each once, in the order of the rules above; those of the role last. None is nil.
type Violations []Violation

// Err is nil for no violation, else the denied fault that answers the request for such a grant.
func (v Violations) Err() error {
	if len(v) == 0 {
		return nil
	}
	texts := make([]string, len(v))
	for i, one := range v {
		texts[i] = one.Rule + ": " + one.Reason
	}
	return fault.Denied("Not allowed by the policy (%s): %s", Path, strings.Join(texts, "; ")).With("policy_violation")
}

// First is the first violation, nil for none.
func (v Violations) First() *Violation {
	if len(v) == 0 {
		return nil
	}
	return &v[0]
}

// Rules are the names of the rules, for audit entries.
func (v Violations) Rules() []string {
	rules := make([]string, len(v))
	for i, one := range v {
		rules[i] = one.Rule
	}
	return rules
}

// Policy is a document, made ready for decisions. It is never changed, and safe for concurrent use. Use Parse or None.
type Policy struct {
	text    []byte
	digest  string
	base    section
	byRole  map[access.Role]section
	narrows []section // of all roles, sorted by their names
}

// Document is the text that the policy was read from. Don't change the slice: it is shared.
func (p *Policy) Document() []byte { return p.text }

// Digest is the SHA-256 of the document: "sha256:<hex>".
func (p *Policy) Digest() string { return p.digest }

// sections are those that count for a grant of the role: the one for all, and the role's own. Of an unknown role it isn't known which section
// counts, so all of them do.
func (p *Policy) sections(role access.Role) []section {
	if !role.Known() {
		return append([]section{p.base}, p.narrows...)
	}
	if s, ok := p.byRole[role]; ok {
		return []section{p.base, s}
	}
	return []section{p.base}
}

func (p *Policy) judge(role access.Role, judge func(s *section, broken func(rule, reason string, args ...any))) (all Violations) {
	for _, s := range p.sections(role) {
		judge(&s, func(rule, reason string, args ...any) {
			all = append(all, Violation{s.prefix + rule, fmt.Sprintf(reason, args...)})
		})
	}
	return all
}

// section is the policy for everyone, or what a role's own adds. A rule that is nil has no ceiling.
type section struct {
	prefix      string // "" or "roles.operator."
	domains     *domainRule
	ports       []portRange
	wildcard    *bool
	tunnels     *bool
	permissions *permissionRule
	mounts      []Mount
	sdists      *bool
	memory      int64 // bytes; 0 for no ceiling
}

type domainRule struct {
	allow, deny           *hostname.Set // allow is nil where all are allowed that aren't denied
	shownAllow, shownDeny string
}

type portRange struct{ first, last int }

func (r portRange) String() string {
	if r.first == r.last {
		return strconv.Itoa(r.first)
	}
	return fmt.Sprintf("%d-%d", r.first, r.last)
}

type permissionRule struct {
	allow, deny           permissionSet // allow is nil where all are allowed that aren't denied
	shownAllow, shownDeny string
}

// Network is a network grant: each of the domains joined with each of the ports.
type Network struct {
	Domains []string // as in grants: names, addresses, "*.x.com", "*"
	Ports   []int    // 0 is all
	Tunnels bool     // the grant names tunnels. One without path rules doesn't, though it allows them: see Policy.Tunnels
}

// Network decides about a network grant. A domain must be wholly within the allowed ones and not overlap a denied one: "*.example.com" is
// refused where evil.example.com is denied.
func (p *Policy) Network(role access.Role, n Network) Violations {
	return p.judge(role, func(s *section, broken func(string, string, ...any)) {
		s.judgeDomains(n.Domains, broken)
		s.judgePorts(n.Ports, broken)
		if s.wildcard != nil && !*s.wildcard {
			switch {
			case slices.Contains(n.Domains, "*"):
				broken(Wildcard, `every domain ("*") may not be granted`)
			case slices.Contains(n.Ports, 0):
				broken(Wildcard, "every port (0) may not be granted")
			}
		}
		if n.Tunnels && s.tunnels != nil && !*s.tunnels {
			broken(Tunnels, "tunnels (allow_tunnel) may not be granted")
		}
	})
}

func (s *section) judgeDomains(domains []string, broken func(string, string, ...any)) {
	if s.domains == nil {
		return
	}
	for _, text := range domains {
		pattern, err := hostname.ParsePattern(text)
		switch {
		case err != nil: // no such grant is made
			broken(Domains, "%.300q is no domain", text)
		case s.domains.deny.Overlaps(pattern):
			broken(Domains, "%.300q covers denied domains (denied: %s)", text, s.domains.shownDeny)
		case s.domains.allow != nil && !s.domains.allow.Covers(pattern):
			broken(Domains, "%.300q is not within the allowed domains (allowed: %s)", text, s.domains.shownAllow)
		default:
			continue
		}
		return
	}
}

func (s *section) judgePorts(ports []int, broken func(string, string, ...any)) {
	if s.ports == nil {
		return
	}
	for _, port := range ports {
		first, last, shown := port, port, "port "+strconv.Itoa(port)
		if port == 0 {
			first, last, shown = 1, 65535, "every port (0)"
		}
		// The ranges are sorted and don't touch each other: what they cover together, one of them covers.
		if !slices.ContainsFunc(s.ports, func(r portRange) bool { return r.first <= first && last <= r.last }) {
			broken(Ports, "%s is not among the allowed ports (allowed: %s)", shown, shown5(s.ports))
			return
		}
	}
}

// Tunnels says which rule keeps a grant of the role from allowing tunnels, nil for none. A grant without path rules allows tunnels without
// naming them: it stays in force under such a rule, and its tunnels are refused.
func (p *Policy) Tunnels(role access.Role) *Violation {
	return p.judge(role, func(s *section, broken func(string, string, ...any)) {
		if s.tunnels != nil && !*s.tunnels {
			broken(Tunnels, "tunnels are not allowed")
		}
	}).First()
}

// Mount is a folder of the host that a handler sees.
type Mount struct {
	Path     string // absolute, or relative to user_data/shared; "." in a policy is all of user_data/shared
	ReadOnly bool
}

// covers says whether m is a folder around other, or other itself, that may be written if other may.
func (m Mount) covers(other Mount) bool {
	if m.ReadOnly && !other.ReadOnly {
		return false
	}
	absolute := strings.HasPrefix(other.Path, "/")
	switch m.Path {
	case "/":
		return absolute
	case ".":
		return !absolute
	}
	return other.Path == m.Path || strings.HasPrefix(other.Path, m.Path+"/")
}

// String shows the mount in reasons.
func (m Mount) String() string {
	if m.ReadOnly {
		return m.Path + " read-only"
	}
	return m.Path
}

// Capability is a capability grant.
type Capability struct {
	Permission string
	Mounts     []Mount // their paths are clean
	Memory     int64   // bytes that the grant asks for; 0 for none
}

// Capability decides about a capability grant.
func (p *Policy) Capability(role access.Role, c Capability) Violations {
	return p.judge(role, func(s *section, broken func(string, string, ...any)) {
		if r := s.permissions; r != nil {
			switch {
			case r.deny.has(c.Permission):
				broken(Permissions, "%.130q is denied (denied: %s)", c.Permission, r.shownDeny)
			case r.allow != nil && !r.allow.has(c.Permission):
				broken(Permissions, "%.130q is not among the allowed permissions (allowed: %s)", c.Permission, r.shownAllow)
			}
		}
		s.judgeMounts(c.Mounts, broken)
		s.judgeMemory(c.Memory, broken)
	})
}

func (s *section) judgeMounts(mounts []Mount, broken func(string, string, ...any)) {
	if s.mounts == nil {
		return
	}
	for _, m := range mounts {
		if slices.ContainsFunc(s.mounts, func(allowed Mount) bool { return allowed.covers(m) }) {
			continue
		}
		what := "writable "
		if m.ReadOnly {
			what = ""
		}
		broken(Mounts, "%s%.300q is not within the allowed folders (allowed: %s)", what, m.Path, shown5(s.mounts))
		return
	}
}

func (s *section) judgeMemory(asked int64, broken func(string, string, ...any)) {
	if s.memory > 0 && asked > s.memory {
		broken(Memory, "%s of memory is more than the allowed %s", shownBytes(asked), shownBytes(s.memory))
	}
}

// Container decides about the memory that a pack asks for, in bytes; 0 for a pack that asks for none. The role is that of the person who
// starts it.
func (p *Policy) Container(role access.Role, memory int64) Violations {
	return p.judge(role, func(s *section, broken func(string, string, ...any)) { s.judgeMemory(memory, broken) })
}

// MaxMemory is the most memory, in bytes, that a container may have under a decision of the role; 0 for no ceiling. What asks for no memory gets
// the default, or this if it is less.
func (p *Policy) MaxMemory(role access.Role) (most int64) {
	for _, s := range p.sections(role) {
		if s.memory > 0 && (most == 0 || s.memory < most) {
			most = s.memory
		}
	}
	return most
}

// Lock decides about the approval of a requirements.lock. sdists says that distributions which have to be built may be.
func (p *Policy) Lock(role access.Role, sdists bool) Violations {
	return p.judge(role, func(s *section, broken func(string, string, ...any)) {
		if sdists && s.sdists != nil && !*s.sdists {
			broken(Sdists, "distributions that have to be built (allow_sdist) may not be installed")
		}
	})
}

// permissionSet has names ("secrets.get") and prefixes with their dot ("store." of "store.*"; "" of "*").
type permissionSet map[string]bool

func (s permissionSet) has(permission string) bool {
	if s[permission] || s[""] {
		return true
	}
	for i, c := range permission {
		if c == '.' && s[permission[:i+1]] {
			return true
		}
	}
	return false
}

// shown5 lists at most five of what is allowed: a reason is a line, not a page.
func shown5[T any](all []T) string {
	const most = 5
	if len(all) == 0 {
		return "none"
	}
	texts := make([]string, 0, most+1)
	for i, one := range all {
		if i == most {
			texts = append(texts, "…")
			break
		}
		texts = append(texts, fmt.Sprint(one))
	}
	return strings.Join(texts, ", ")
}

func shownBytes(n int64) string {
	switch {
	case n%(1<<30) == 0:
		return strconv.FormatInt(n>>30, 10) + "g"
	case n%(1<<20) == 0:
		return strconv.FormatInt(n>>20, 10) + "m"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}
