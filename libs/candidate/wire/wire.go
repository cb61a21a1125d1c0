// Package wire has the endpoints that both owners of candidates (capability-broker, pip-installer) have, with their requests and responses.
// It is a package apart from candidate, because clients use it, too, and must not link a database for that.
//
// Answers and texts are those of docs/contract.md, "Candidates".
package wire

import (
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

// Endpoints are the endpoints of an owner of candidates. V is the type of a candidate in the answer of List; each owner has its own.
type Endpoints[V any] struct {
	List    route.Endpoint[ListRequest, ListResponse[V]]
	Scan    route.Endpoint[struct{}, ScanResult]
	Reject  route.Endpoint[DecisionRequest, RejectResponse]
	Blocked route.Endpoint[struct{}, BlockedResponse]
	Unblock route.Endpoint[DecisionRequest, UnblockResponse]
	Counts  route.Endpoint[struct{}, Counts] // for approval, which shows the numbers of all owners
}

// Verbs are what callers of the public endpoints must be allowed to do; each owner has its own.
type Verbs struct {
	Read, Scan, Reject, Unblock access.Verb
}

// NewEndpoints declares the endpoints of owner, the name of a service. The public ones are below prefix: "/api/pip". what is the
// candidates' noun in the summaries, in the plural: "lock files".
func NewEndpoints[V any](prefix, owner, what string, verbs Verbs) Endpoints[V] {
	return Endpoints[V]{
		List: route.New[ListRequest, ListResponse[V]]("GET", prefix+"/requests", owner, route.Quick, verbs.Read, "List the "+what+" that were found, by state").
			Fails("invalid_status"),
		Scan: route.New[struct{}, ScanResult]("POST", prefix+"/candidates/scan", owner, route.Slow, verbs.Scan, "Find the "+what+" of all packs"),
		Reject: route.New[DecisionRequest, RejectResponse]("POST", prefix+"/requests/{candidate_key}/reject", owner, route.Quick, verbs.Reject, "Reject one of the "+what).
			Fails("candidate_blocked", "candidate_installed", "candidate_not_found", "value_too_long"),
		Blocked: route.New[struct{}, BlockedResponse]("GET", prefix+"/blocked", owner, route.Quick, verbs.Read, "List the "+what+" that are blocked"),
		Unblock: route.New[DecisionRequest, UnblockResponse]("POST", prefix+"/blocked/{candidate_key}/unblock", owner, route.Quick, verbs.Unblock, "Unblock one of the "+what).
			Fails("candidate_not_blocked", "candidate_not_found", "value_too_long"),
		Counts: route.Internal[struct{}, Counts]("GET", "/internal/candidates/counts", owner, roster.Approval),
	}
}

// Table is the table of all endpoints, for the gateway and the documentation.
func (e Endpoints[V]) Table() route.Table {
	return route.NewTable(e.Scan, e.List, e.Reject, e.Blocked, e.Unblock, e.Counts)
}

// ListRequest is the request of List.
type ListRequest struct {
	Status string `json:"-" query:"status" api:"enum=all|pending|installed|rejected|blocked|failed|superseded,default=all"` // the state of the candidates to list; "" or "all" for any
}

// ListResponse is the answer of List: the candidates, the newest first.
type ListResponse[V any] struct {
	Items        []V    `json:"items"`
	Count        int    `json:"count"`
	StatusFilter string `json:"status_filter"` // "all" for any
}

// DecisionRequest is the request of Reject and of Unblock.
type DecisionRequest struct {
	Key    string `json:"-" path:"candidate_key"` // in a form of libs/fault: HandlerKeyForm or LockKeyForm
	Reason string `json:"reason"`                 // at most 4096 bytes
}

// RejectResponse is the answer of Reject: the candidate as the rejection left it.
type RejectResponse struct {
	Success       bool       `json:"success"`
	Status        string     `json:"status"`         // "rejected", or "blocked" after the third rejection
	RejectCount   int        `json:"reject_count"`   // this one included
	CooldownUntil *time.Time `json:"cooldown_until"` // scans skip the candidate until then; null for a blocked one
}

// BlockedItem is a blocked candidate: it was rejected three times, and only Unblock makes it pending again.
type BlockedItem struct {
	Key         string    `json:"candidate_key"`
	BlockedAt   time.Time `json:"blocked_at"`
	Reason      string    `json:"reason"` // of the last rejection
	RejectCount int       `json:"reject_count"`
}

// BlockedResponse is the answer of Blocked: all blocked candidates, by candidate key.
type BlockedResponse struct {
	Blocked map[string]BlockedItem `json:"blocked"`
	Count   int                    `json:"count"`
}

// UnblockResponse is the answer of Unblock. StatusAfter is the candidate's new state: "pending".
type UnblockResponse struct {
	Success     bool   `json:"success"`
	StatusAfter string `json:"status_after"`
}

// Counts is the answer of the endpoint Counts: the number of candidates in each state. The file pending/summary.json has the same fields.
// Superseded candidates are not counted.
type Counts struct {
	Pending   int `json:"pending_count"`
	Rejected  int `json:"rejected_count"`
	Blocked   int `json:"blocked_count"`
	Failed    int `json:"failed_count"`
	Installed int `json:"installed_count"`
}

// ScanError is a file or folder from which a scan could not make a candidate, and why.
type ScanError struct {
	PackID string `json:"pack_id"`
	Path   string `json:"path"`
	Error  string `json:"error"`
}

// ScanResult is the answer of Scan. Scanned is the sum of the other counts and the number of Errors: each thing that was scanned counts once.
type ScanResult struct {
	Scanned          int         `json:"scanned_count"`
	PendingCreated   int         `json:"pending_created"` // new, or pending again
	SkippedBlocked   int         `json:"skipped_blocked"`
	SkippedCooldown  int         `json:"skipped_cooldown"`
	SkippedInstalled int         `json:"skipped_installed"`
	SkippedPending   int         `json:"skipped_pending"`
	SkippedFailed    int         `json:"skipped_failed"` // always 0: a scan makes a failed one pending
	Errors           []ScanError `json:"errors"`
	Warnings         []ScanError `json:"warnings,omitzero"` // candidates that will most likely not do what their author means
}
