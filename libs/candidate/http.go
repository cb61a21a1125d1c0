package candidate

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/candidate/wire"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/route"
)

// Shown describes an owner's candidates in requests and answers. V is the type of a candidate in the list.
type Shown[P, V any] struct {
	KeyForm  string               // of candidate keys: fault.HandlerKeyForm or fault.LockKeyForm
	ValidKey func(string) bool    // false is answered 400; a valid key without a candidate 404
	View     func(item Item[P]) V // an item of the list
}

// Handle answers all endpoints of e but Scan: how to find candidates is known to the owner only.
func Handle[P, V any](h *route.Handlers, e wire.Endpoints[V], c *Candidates[P], shown Shown[P, V]) {
	a := answers[P, V]{c, shown}
	route.Handle(h, e.List, a.list)
	route.Handle(h, e.Reject, a.reject)
	route.Handle(h, e.Blocked, a.blocked)
	route.Handle(h, e.Unblock, a.unblock)
	route.Handle(h, e.Counts, a.counts)
}

// answers has the handlers of the endpoints, one method each.
type answers[P, V any] struct {
	candidates *Candidates[P]
	shown      Shown[P, V]
}

func (a answers[P, V]) list(ctx context.Context, req wire.ListRequest) (wire.ListResponse[V], error) {
	state, err := ParseState(req.Status)
	if err != nil {
		return wire.ListResponse[V]{}, err
	}
	items, err := a.candidates.List(ctx, state)
	if err != nil {
		return wire.ListResponse[V]{}, err
	}
	answer := wire.ListResponse[V]{Items: make([]V, 0, len(items)), Count: len(items), StatusFilter: "all"}
	if state != "" {
		answer.StatusFilter = string(state)
	}
	for _, item := range items {
		answer.Items = append(answer.Items, a.shown.View(item))
	}
	return answer, nil
}

func (a answers[P, V]) reject(ctx context.Context, req wire.DecisionRequest) (wire.RejectResponse, error) {
	if !a.shown.ValidKey(req.Key) {
		return wire.RejectResponse{}, fault.InvalidCandidateKey(a.shown.KeyForm)
	}
	item, err := a.candidates.Reject(ctx, req.Key, req.Reason)
	if err != nil {
		return wire.RejectResponse{}, err
	}
	return wire.RejectResponse{Success: true, Status: string(item.State), RejectCount: item.RejectCount, CooldownUntil: item.CoolsUntil()}, nil
}

// CoolsUntil is CooldownUntil as answers have it: nil, which is null, unless there is a cooldown.
func (s Status) CoolsUntil() *time.Time {
	if s.CooldownUntil.IsZero() {
		return nil
	}
	return &s.CooldownUntil
}

func (a answers[P, V]) blocked(ctx context.Context, _ struct{}) (wire.BlockedResponse, error) {
	items, err := a.candidates.List(ctx, Blocked)
	if err != nil {
		return wire.BlockedResponse{}, err
	}
	answer := wire.BlockedResponse{Blocked: make(map[string]wire.BlockedItem, len(items)), Count: len(items)}
	for _, item := range items {
		answer.Blocked[item.Key] = wire.BlockedItem{Key: item.Key, BlockedAt: item.UpdatedAt, Reason: item.Reason, RejectCount: item.RejectCount}
	}
	return answer, nil
}

func (a answers[P, V]) unblock(ctx context.Context, req wire.DecisionRequest) (wire.UnblockResponse, error) {
	if !a.shown.ValidKey(req.Key) {
		return wire.UnblockResponse{}, fault.InvalidCandidateKey(a.shown.KeyForm)
	}
	item, err := a.candidates.Unblock(ctx, req.Key, req.Reason)
	if err != nil {
		return wire.UnblockResponse{}, err
	}
	return wire.UnblockResponse{Success: true, StatusAfter: string(item.State)}, nil
}

func (a answers[P, V]) counts(ctx context.Context, _ struct{}) (Counts, error) {
	return a.candidates.Counts(ctx)
}
