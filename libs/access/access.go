// Package access says who may do what: each public endpoint needs one verb, and each role has a set of verbs.
//
//	access.Operator.May(access.ApprovePacks) // true
//	access.Viewer.May(access.ApprovePacks)   // false
//
// An endpoint names its verb where it is declared (libs/route). The gateway compares it with the caller's role, and with the scopes of the
// caller's token, before a service hears of the request. The services get the role, too: a rule of the policy can differ by role.
package access

import "slices"

// Role is what the holder of a token, or a person who has signed in, may do at most. The zero value may do nothing.
type Role string

// The roles, each with all that the one before it may do.
const (
	Viewer   Role = "viewer"   // reads, and changes nothing
	Operator Role = "operator" // decides about packs: approvals, grants, secrets, containers
	Admin    Role = "admin"    // decides about people: tokens
)

// Roles are all roles, the least first. The slice is the caller's.
func Roles() []Role { return []Role{Viewer, Operator, Admin} }

// Verb is a kind of act, as scopes of tokens name it: "packs.approve".
type Verb string

// The verbs. One that ends in .read changes nothing.
const (
	ReadHealth  Verb = "health.read"  // which services are ready
	ReadPending Verb = "pending.read" // what waits for a person
	ReadStorage Verb = "storage.read" // what takes disk space
	ReadMetrics Verb = "metrics.read" // the metrics of all services
	ReadPolicy  Verb = "policy.read"  // the policy in force, and what a policy doesn't cover
	ReadAudit   Verb = "audit.read"   // the audit log, and its entries as they are written

	ReadPacks      Verb = "packs.read"
	ScanPacks      Verb = "packs.scan"
	ImportPacks    Verb = "packs.import" // into the staging area, and what is there
	ApplyPacks     Verb = "packs.apply"
	ApprovePacks   Verb = "packs.approve"
	RejectPacks    Verb = "packs.reject"
	RollBackPacks  Verb = "packs.rollback"
	UninstallPacks Verb = "packs.uninstall"
	DiscardPacks   Verb = "packs.discard" // backups and stagings

	ReadNetwork   Verb = "network.read"
	GrantNetwork  Verb = "network.grant"
	RevokeNetwork Verb = "network.revoke"

	ReadCapabilities     Verb = "capability.read"
	ScanCapabilities     Verb = "capability.scan"
	ApproveCapabilities  Verb = "capability.approve"
	RejectCapabilities   Verb = "capability.reject"
	UnblockCapabilities  Verb = "capability.unblock"
	WithdrawCapabilities Verb = "capability.withdraw" // the trust in a handler
	GrantCapabilities    Verb = "capability.grant"
	RevokeCapabilities   Verb = "capability.revoke"

	ReadContainers   Verb = "containers.read" // their logs, too
	StartContainers  Verb = "containers.start"
	StopContainers   Verb = "containers.stop"
	DeleteContainers Verb = "containers.delete"

	ReadPip    Verb = "pip.read"
	ScanPip    Verb = "pip.scan"
	ApprovePip Verb = "pip.approve"
	RejectPip  Verb = "pip.reject"
	UnblockPip Verb = "pip.unblock"

	ReadSecrets   Verb = "secrets.read" // names and times; no call shows a value
	SetSecrets    Verb = "secrets.set"
	DeleteSecrets Verb = "secrets.delete"

	ReadSelf     Verb = "self.read"   // the caller's own name, role and scopes; every scope has it
	ReadTokens   Verb = "tokens.read" // names, roles and last uses; no call shows a secret again
	CreateTokens Verb = "tokens.create"
	RotateTokens Verb = "tokens.rotate"
	RevokeTokens Verb = "tokens.revoke"
)

// least is the table role × verb: the least role that has a verb. A verb that is not here belongs to nobody.
var least = map[Verb]Role{
	ReadHealth: Viewer, ReadMetrics: Viewer, ReadPending: Viewer, ReadStorage: Viewer, ReadPolicy: Viewer, ReadAudit: Viewer,

	ReadPacks: Viewer, ScanPacks: Operator, ImportPacks: Operator, ApplyPacks: Operator, ApprovePacks: Operator, RejectPacks: Operator,
	RollBackPacks: Operator, UninstallPacks: Operator, DiscardPacks: Operator,

	ReadNetwork: Viewer, GrantNetwork: Operator, RevokeNetwork: Operator,

	ReadCapabilities: Viewer, ScanCapabilities: Operator, ApproveCapabilities: Operator, RejectCapabilities: Operator,
	UnblockCapabilities: Operator, WithdrawCapabilities: Operator, GrantCapabilities: Operator, RevokeCapabilities: Operator,

	ReadContainers: Viewer, StartContainers: Operator, StopContainers: Operator, DeleteContainers: Operator,

	ReadPip: Viewer, ScanPip: Operator, ApprovePip: Operator, RejectPip: Operator, UnblockPip: Operator,

	ReadSecrets: Viewer, SetSecrets: Operator, DeleteSecrets: Operator,

	ReadSelf: Viewer, ReadTokens: Viewer, CreateTokens: Admin, RotateTokens: Admin, RevokeTokens: Admin,
}

// Known says whether a verb is in the table.
func (v Verb) Known() bool { return least[v] != "" }

// Least is the least role that has the verb, "" for an unknown verb.
func (v Verb) Least() Role { return least[v] }

// Verbs are all verbs, sorted. The slice is the caller's.
func Verbs() []Verb {
	verbs := make([]Verb, 0, len(least))
	for v := range least {
		verbs = append(verbs, v)
	}
	slices.Sort(verbs)
	return verbs
}

// Known says whether a role is one of Roles.
func (r Role) Known() bool { return slices.Contains(Roles(), r) }

// Covers says whether r may do all that other may. An unknown role covers nothing and is covered by none.
func (r Role) Covers(other Role) bool { return other.rank() > 0 && r.rank() >= other.rank() }

// rank is a role's place among Roles, from 1; 0 for an unknown one. The gateway asks for each request, so nothing is allocated.
func (r Role) rank() int {
	switch r {
	case Viewer:
		return 1
	case Operator:
		return 2
	case Admin:
		return 3
	}
	return 0
}

// May says whether the role has the verb.
func (r Role) May(v Verb) bool { return r.Covers(least[v]) }
