package approval

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
)

// gates derives the gate of every pack from the records and publishes what changes: a pack's own gate and those of the packs
// below it ("app" is above "app__plugin"). Two things that no record says can close a gate as well: held and unpinned.
type gates struct {
	publisher *gate.Publisher

	mu      sync.Mutex
	records map[pack.ID]*record.Record // the newest of each
	held    map[pack.ID]string         // packs that must not run though their records still say so, because a change could not be recorded; and why

	// unpinned are children that were approved and whose parent's identity could not be recorded, and why: they may not run until it is.
	unpinned map[pack.ID]string
}

func newGates() *gates {
	return &gates{publisher: gate.NewPublisher(nil), records: map[pack.ID]*record.Record{}, held: map[pack.ID]string{}, unpinned: map[pack.ID]string{}}
}

// set takes over records and publishes the gates that follow from them. A record that is older than the known one is ignored:
// two goroutines may have read the database in one order and arrive here in the other.
func (g *gates) set(ctx context.Context, records ...*record.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var changed []pack.ID
	for _, r := range records {
		id := pack.ID(r.PackID)
		if known, ok := g.records[id]; ok && known.Revision > r.Revision {
			continue
		}
		g.records[id] = r
		if !r.Status.Executable() {
			delete(g.held, id)
		}
		if !r.Status.Executable() || r.ParentIdentity != "" {
			delete(g.unpinned, id)
		}
		changed = append(changed, id)
	}
	g.publish(ctx, changed)
}

// newest is the newest record of a pack that this process knows, nil for none.
func (g *gates) newest(id pack.ID) *record.Record {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.records[id]
}

// executable lists the newest records of the packs that may run.
func (g *gates) executable() (list []*record.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.records {
		if r.Status.Executable() {
			list = append(list, r)
		}
	}
	return list
}

// withDigests lists the records that name one of the digests, by pack id.
func (g *gates) withDigests(digests []string) (list []*record.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.records {
		if slices.Contains(digests, r.Digest) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *record.Record) int { return strings.Compare(a.PackID, b.PackID) })
	return list
}

// unpin closes the gate of an approved child because its parent's identity could not be recorded: without it the child would go
// on running under whatever pack takes the parent's id. The gate opens when set gets a record that has the identity.
func (g *gates) unpin(ctx context.Context, id pack.ID, problem string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unpinned[id] = problem
	g.publish(ctx, []pack.ID{id})
}

// toPin says whether the parent's identity is all that a child's approval lacks, and which it is. It does so only while the
// parent's gate is open: the identity of an unapproved parent must not be recorded.
func (g *gates) toPin(id pack.ID) (parent string, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, known := g.records[id]
	parentProblem, child := pack.Parent(id)
	if !known || !child || !r.Status.Executable() || r.ParentIdentity != "" || g.held[id] != "" || !g.stateLocked(parentProblem).Open {
		return "", false
	}
	parent = g.records[parentProblem].Identity
	return parent, parent != ""
}

// holdClosed closes the gate of a pack that is no longer what was approved, where that can't be recorded (the audit log or the
// database fails). The gate stays closed until it is recorded, or until the pack is approved again. Without this, an attacker
// who can fill the disk could keep a modified pack running.
func (g *gates) holdClosed(ctx context.Context, id pack.ID, problem string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[id] = problem
	g.publish(ctx, []pack.ID{id})
}

// heldReason says why a gate is held closed; "" where it isn't.
func (g *gates) heldReason(id pack.ID) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held[id]
}

// releaseHold takes back holdClosed.
func (g *gates) releaseHold(ctx context.Context, id pack.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, held := g.held[id]; held {
		delete(g.held, id)
		g.publish(ctx, []pack.ID{id})
	}
}

// remove forgets a pack without a record. The gates of its children are published as parent_missing.
func (g *gates) remove(ctx context.Context, id pack.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.records, id)
	delete(g.held, id)
	delete(g.unpinned, id)
	g.publisher.Remove(ctx, string(id))
	g.publish(ctx, []pack.ID{id})
}

// publish sends the gates of the packs in changed, and of all packs below them; mu is held.
func (g *gates) publish(ctx context.Context, changed []pack.ID) {
	set := make(map[pack.ID]bool, len(changed))
	for _, id := range changed {
		set[id] = true
	}
	var states []gate.State
	for id := range g.records {
		for parentProblem, ok := id, true; ok; parentProblem, ok = pack.Parent(parentProblem) {
			if set[parentProblem] {
				states = append(states, g.stateLocked(id))
				break
			}
		}
	}
	g.publisher.Set(ctx, states...)
}

// state is a pack's gate as it is published.
func (g *gates) state(id pack.ID) gate.State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stateLocked(id)
}

// hasOtherParent says whether the pack that is installed as the parent now has another pack_identity than the one that the
// child was approved under.
func (g *gates) hasOtherParent(id pack.ID, r *record.Record) bool {
	parent, child := pack.Parent(id)
	if !child || r.ParentIdentity == "" {
		return false
	}
	p, known := g.records[parent]
	return known && p.Identity != r.ParentIdentity
}

// parentIdentity is the pack_identity of a pack's parent; "" for a pack without a parent, or whose parent isn't known.
func (g *gates) parentIdentity(id pack.ID) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if parent, child := pack.Parent(id); child {
		if p, known := g.records[parent]; known {
			return p.Identity
		}
	}
	return ""
}

// stateLocked is state; mu is held. A child whose parent isn't known is closed.
func (g *gates) stateLocked(id pack.ID) gate.State {
	r, ok := g.records[id]
	if !ok {
		return gate.State{PackID: string(id), Status: pack.StatusParentMissing}
	}
	var parentProblem *gate.State
	if parent, child := pack.Parent(id); child {
		a := g.stateLocked(parent)
		parentProblem = &a
	}
	stateLocked := r.Gate(parentProblem)
	if stateLocked.Open && g.hasOtherParent(id, r) {
		stateLocked.Open, stateLocked.Status = false, pack.StatusParentReplaced
	}
	if stateLocked.Open && g.unpinned[id] != "" {
		stateLocked.Open, stateLocked.Status = false, pack.StatusParentUnrecorded
	}
	if _, held := g.held[id]; held && r.Status.Executable() {
		stateLocked.Open, stateLocked.Status = false, pack.StatusModified
	}
	if !stateLocked.Open {
		stateLocked.Reason = g.reason(id, r, stateLocked.Status)
	}
	return stateLocked
}

// reason says why a pack's own record, or what is remembered beside it, keeps its gate closed; "" where the gate of a parent
// does.
func (g *gates) reason(id pack.ID, r *record.Record, status pack.Status) string {
	review := fmt.Sprintf("GET /api/packs/%s/review", id)
	why := ""
	switch {
	case status == pack.StatusParentUnrecorded, status == pack.StatusParentReplaced && g.hasOtherParent(id, r):
		why = g.parentProblemLocked(id)
	case r.Status.Executable() && g.held[id] != "":
		why = g.held[id] + "; " + review
	case r.Status == pack.StatusModified:
		// The digest of the folder now is left out: an operator can do nothing with it.
		short, _, _ := strings.Cut(r.LastError, ": sha256:")
		why = strings.TrimPrefix(short+"; "+review, "; ")
	case r.Status == pack.StatusPending:
		why = review
	case r.Status == pack.StatusBlocked:
		why = r.RejectionReason
	case r.Status == pack.StatusError:
		why = r.LastError
	}
	if why = text.Escape(why); len(why) > gate.MaxReason {
		why = text.Clip(why, gate.MaxReason-len("…"))
	}
	return why
}

// parentProblem says which pack above this one keeps its gate closed, and why; "" where none does.
func (g *gates) parentProblem(id pack.ID) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.parentProblemLocked(id)
}

// parentProblemLocked is parentProblem; mu is held.
func (g *gates) parentProblemLocked(id pack.ID) string {
	if r, known := g.records[id]; known && g.hasOtherParent(id, r) {
		return fmt.Sprintf("it was approved under a parent with the pack_identity '%s', and its parent is another pack now: approve it again", r.ParentIdentity)
	}
	if problem := g.unpinned[id]; problem != "" {
		return fmt.Sprintf("the identity of its parent could not be recorded; this is tried again, or approve it again: %s", problem)
	}
	for parent, child := pack.Parent(id); child; parent, child = pack.Parent(parent) {
		r, known := g.records[parent]
		switch {
		case !known:
			return fmt.Sprintf("its parent '%s' is not installed", parent)
		case g.held[parent] != "":
			return fmt.Sprintf("its parent '%s' is held closed: %s", parent, g.held[parent])
		case !r.Status.Executable():
			return fmt.Sprintf("its parent '%s' is %s: it runs only while that is approved", parent, r.Status)
		}
	}
	return ""
}
