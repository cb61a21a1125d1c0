// Package wire is what the owners of candidates (capability-broker, pip-installer) and their callers say to each other: the endpoints
// that are the same for every owner, and their requests and responses. It has types only, so that a client needs no database.
//
// Answers and texts are those of contract.md, "Candidates".
package wire

import (
	"time"

	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

// Endpoints are those that every owner of candidates has. V is how the owner shows a candidate in the list.
type Endpoints[V any] struct {
	List    route.Endpoint[ListRequest, ListResponse[V]]
	Scan    route.Endpoint[struct{}, ScanResult]
	Reject  route.Endpoint[DecisionRequest, RejectResponse]
	Blocked route.Endpoint[struct{}, BlockedResponse]
	Unblock route.Endpoint[DecisionRequest, UnblockResponse]
	Counts  route.Endpoint[struct{}, Counts] // for approval
}

// NewEndpoints declares the endpoints of an owner, the public ones below prefix: "/api/pip".
func NewEndpoints[V any](prefix, owner string) Endpoints[V] {
	return Endpoints[V]{
		List:    route.New[ListRequest, ListResponse[V]]("GET", prefix+"/requests", owner, route.Quick),
		Scan:    route.New[struct{}, ScanResult]("POST", prefix+"/candidates/scan", owner, route.Slow),
		Reject:  route.New[DecisionRequest, RejectResponse]("POST", prefix+"/requests/{candidate_key}/reject", owner, route.Quick),
		Blocked: route.New[struct{}, BlockedResponse]("GET", prefix+"/blocked", owner, route.Quick),
		Unblock: route.New[DecisionRequest, UnblockResponse]("POST", prefix+"/blocked/{candidate_key}/unblock", owner, route.Quick),
		Counts:  route.Internal[struct{}, Counts]("GET", "/internal/candidates/counts", owner, roster.Approval),
	}
}

// Table has all of the endpoints.
func (e Endpoints[V]) Table() route.Table {
	return route.NewTable(e.Scan, e.List, e.Reject, e.Blocked, e.Unblock, e.Counts)
}

// ListRequest asks for candidates.
type ListRequest struct {
	Status string `json:"-" query:"status"` // the state of those to list; "" or "all" for any
}

// ListResponse has them, the newest first.
type ListResponse[V any] struct {
	Items        []V    `json:"items"`
	Count        int    `json:"count"`
	StatusFilter string `json:"status_filter"` // "all" for any
}

// DecisionRequest rejects or unblocks a candidate.
type DecisionRequest struct {
	Key    string `json:"-" path:"candidate_key"`
	Reason string `json:"reason"` // at most 4096 bytes
}

// RejectResponse is the candidate's new standing.
type RejectResponse struct {
	Success       bool       `json:"success"`
	Status        string     `json:"status"`         // rejected, or blocked by the third rejection
	RejectCount   int        `json:"reject_count"`   // with this one
	CooldownUntil *time.Time `json:"cooldown_until"` // until then scans skip the candidate; null for a blocked one
}

// BlockedItem is a candidate that was rejected too often.
type BlockedItem struct {
	Key         string    `json:"candidate_key"`
	BlockedAt   time.Time `json:"blocked_at"`
	Reason      string    `json:"reason"` // of the last rejection
	RejectCount int       `json:"reject_count"`
}

// BlockedResponse has all blocked candidates by key.
type BlockedResponse struct {
	Blocked map[string]BlockedItem `json:"blocked"`
	Count   int                    `json:"count"`
}

// UnblockResponse says in which state the candidate is now.
type UnblockResponse struct {
	Success     bool   `json:"success"`
	StatusAfter string `json:"status_after"`
}

// Counts is how many candidates are in each state, as pending/summary.json has them. Superseded ones are not counted.
type Counts struct {
	Pending   int `json:"pending_count"`
	Rejected  int `json:"rejected_count"`
	Blocked   int `json:"blocked_count"`
	Failed    int `json:"failed_count"`
	Installed int `json:"installed_count"`
}

// ScanError is something that a scan could not make a candidate of.
type ScanError struct {
	PackID string `json:"pack_id"`
	Path   string `json:"path"`
	Error  string `json:"error"`
}

// ScanResult is the answer to a scan. The counts from PendingCreated on and Errors add up to Scanned.
type ScanResult struct {
	Scanned          int         `json:"scanned_count"`
	PendingCreated   int         `json:"pending_created"` // new, or pending again
	SkippedBlocked   int         `json:"skipped_blocked"`
	SkippedCooldown  int         `json:"skipped_cooldown"`
	SkippedInstalled int         `json:"skipped_installed"`
	SkippedPending   int         `json:"skipped_pending"`
	SkippedFailed    int         `json:"skipped_failed"` // always 0: a scan makes a failed one pending
	Errors           []ScanError `json:"errors"`
	Warnings         []ScanError `json:"warnings,omitzero"` // what was found and will most likely not do what is meant
}
