package candidate

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

// Wire is how an owner's candidates look from outside.
type Wire[P any] struct {
	Prefix   string                 // "/api/pip"
	KeyForm  string                 // of candidate keys, as fault.InvalidCandidateKey names it
	ValidKey func(string) bool      // a key that isn't valid is answered 400, one that isn't there 404
	View     func(item Item[P]) any // an item of the list, with json tags
}

// Routes serves what is the same for every owner: the list of requests, reject, the list of blocked, unblock, and the
// counts that approval asks for. Scan and approve are the owner's.
func Routes[P any](mux *server.Mux, c *Candidates[P], wire Wire[P]) {
	h := handlers[P]{c, wire}
	mux.Route("GET "+wire.Prefix+"/requests", rpc.Handle(h.list), "gateway")
	mux.Route("POST "+wire.Prefix+"/requests/{candidate_key}/reject", rpc.Handle(h.reject), "gateway")
	mux.Route("GET "+wire.Prefix+"/blocked", rpc.Handle(h.blocked), "gateway")
	mux.Route("POST "+wire.Prefix+"/blocked/{candidate_key}/unblock", rpc.Handle(h.unblock), "gateway")
	mux.Route("GET /internal/candidates/counts", rpc.Handle(h.counts), "approval")
}

type handlers[P any] struct {
	candidates *Candidates[P]
	wire       Wire[P]
}

type listRequest struct {
	Status string `query:"status" json:"-"`
}

type listResponse struct {
	Items        []any  `json:"items"`
	Count        int    `json:"count"`
	StatusFilter string `json:"status_filter"`
}

func (h handlers[P]) list(ctx context.Context, req listRequest) (listResponse, error) {
	state, err := ParseState(req.Status)
	if err != nil {
		return listResponse{}, err
	}
	items, err := h.candidates.List(ctx, state)
	if err != nil {
		return listResponse{}, err
	}
	answer := listResponse{Items: make([]any, 0, len(items)), Count: len(items), StatusFilter: "all"}
	if state != "" {
		answer.StatusFilter = string(state)
	}
	for _, item := range items {
		answer.Items = append(answer.Items, h.wire.View(item))
	}
	return answer, nil
}

type decisionRequest struct {
	Key    string `path:"candidate_key" json:"-"`
	Reason string `json:"reason"`
}

type rejectResponse struct {
	Success       bool       `json:"success"`
	Status        State      `json:"status"`
	RejectCount   int        `json:"reject_count"`
	CooldownUntil *time.Time `json:"cooldown_until"`
}

func (h handlers[P]) reject(ctx context.Context, req decisionRequest) (rejectResponse, error) {
	if !h.wire.ValidKey(req.Key) {
		return rejectResponse{}, fault.InvalidCandidateKey(h.wire.KeyForm)
	}
	item, err := h.candidates.Reject(ctx, req.Key, req.Reason)
	if err != nil {
		return rejectResponse{}, err
	}
	return rejectResponse{Success: true, Status: item.State, RejectCount: item.RejectCount, CooldownUntil: item.CoolsUntil()}, nil
}

type blockedItem struct {
	Key         string    `json:"candidate_key"`
	BlockedAt   time.Time `json:"blocked_at"`
	Reason      string    `json:"reason"`
	RejectCount int       `json:"reject_count"`
}

type blockedResponse struct {
	Blocked map[string]blockedItem `json:"blocked"`
	Count   int                    `json:"count"`
}

func (h handlers[P]) blocked(ctx context.Context, _ struct{}) (blockedResponse, error) {
	items, err := h.candidates.List(ctx, Blocked)
	if err != nil {
		return blockedResponse{}, err
	}
	answer := blockedResponse{Blocked: make(map[string]blockedItem, len(items)), Count: len(items)}
	for _, item := range items {
		answer.Blocked[item.Key] = blockedItem{item.Key, item.UpdatedAt, item.Reason, item.RejectCount}
	}
	return answer, nil
}

type unblockResponse struct {
	Success     bool  `json:"success"`
	StatusAfter State `json:"status_after"`
}

func (h handlers[P]) unblock(ctx context.Context, req decisionRequest) (unblockResponse, error) {
	if !h.wire.ValidKey(req.Key) {
		return unblockResponse{}, fault.InvalidCandidateKey(h.wire.KeyForm)
	}
	item, err := h.candidates.Unblock(ctx, req.Key, req.Reason)
	if err != nil {
		return unblockResponse{}, err
	}
	return unblockResponse{Success: true, StatusAfter: item.State}, nil
}

func (h handlers[P]) counts(ctx context.Context, _ struct{}) (Counts, error) {
	return h.candidates.Counts(ctx)
}
