package approval

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
)

// gates derives every pack's gate from the records and publishes what changes: a pack's own gate and those of the packs
// below it.
type gates struct {
	publisher *gate.Publisher

	mu      sync.Mutex
	records map[pack.ID]*record.Record // the newest of each
	held    map[pack.ID]string         // packs that are not what was approved though their records lack it, and how it was noticed

	// unpinned are children that were approved and whose parent's identity could not be recorded, and why: they may not run until it is.
	unpinned map[pack.ID]string
}

func newGates() *gates {
	return &gates{publisher: gate.NewPublisher(nil), records: map[pack.ID]*record.Record{}, held: map[pack.ID]string{}, unpinned: map[pack.ID]string{}}
}

// set takes over records. One that is older than what is known changes nothing.
func (g *gates) set(records ...*record.Record) {
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
	g.publish(changed)
}

// newest is the newest record of a pack that this process knows of, nil for none.
func (g *gates) newest(id pack.ID) *record.Record {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.records[id]
}

// executable are the newest records of packs that may run.
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

// naming are the records that name one of the digests.
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

// unpin closes the gate of a child that was approved, because the identity of its parent could not be recorded: under another parent
// it would run without a decision. It opens when set is told of a record that has the identity.
func (g *gates) unpin(id pack.ID, problem string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unpinned[id] = problem
	g.publish([]pack.ID{id})
}

// toPin says whether a child may run, but for the missing identity of its parent, which is parent.
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

// hold closes the gate of a pack that is no longer what was approved where that can't be recorded: it stays closed until it
// can, or until the pack is approved again.
func (g *gates) holdClosed(id pack.ID, problem string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[id] = problem
	g.publish([]pack.ID{id})
}

// holds says why a gate is held, "" for one that is not.
func (g *gates) heldReason(id pack.ID) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held[id]
}

// release takes back hold.
func (g *gates) releaseHold(id pack.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, held := g.held[id]; held {
		delete(g.held, id)
		g.publish([]pack.ID{id})
	}
}

func (g *gates) remove(id pack.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.records, id)
	delete(g.held, id)
	delete(g.unpinned, id)
	g.publisher.Remove(string(id))
	g.publish([]pack.ID{id})
}

// publish tells the gates of the packs in changed that are known, and of all below them.
func (g *gates) publish(changed []pack.ID) {
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
	g.publisher.Set(states...)
}

// of is a pack's gate as it is published.
func (g *gates) state(id pack.ID) gate.State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stateLocked(id)
}

// replaced says whether the parent of a pack is another than it was approved under.
func (g *gates) hasOtherParent(id pack.ID, r *record.Record) bool {
	parent, child := pack.Parent(id)
	if !child || r.ParentIdentity == "" {
		return false
	}
	p, known := g.records[parent]
	return known && p.Identity != r.ParentIdentity
}

// parentIdentity is the pack_identity of the parent of a pack; "" for one that is no child or whose parent isn't known.
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

// state is a pack's gate. A parent that is not known lets nothing run.
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

// reason says why a pack's own record, or what is remembered beside it, keeps its gate closed; "" where a pack above it does.
func (g *gates) reason(id pack.ID, r *record.Record, status pack.Status) string {
	review := fmt.Sprintf("GET /api/packs/%s/review", id)
	why := ""
	switch {
	case status == pack.StatusParentUnrecorded, status == pack.StatusParentReplaced && g.hasOtherParent(id, r):
		why = g.parentProblemLocked(id)
	case r.Status.Executable() && g.held[id] != "":
		why = g.held[id] + "; " + review
	case r.Status == pack.StatusModified:
		// The digest of what lies there now helps nobody who reads this.
		short, _, _ := strings.Cut(r.LastError, ": sha256:")
		why = strings.TrimPrefix(short+"; "+review, "; ")
	case r.Status == pack.StatusPending:
		why = review
	case r.Status == pack.StatusBlocked:
		why = r.RejectionReason
	case r.Status == pack.StatusError:
		why = r.LastError
	}
	why = text.Escape(why)
	if len(why) > gate.MaxReason {
		why = strings.ToValidUTF8(why[:gate.MaxReason-len("…")], "") + "…"
	}
	return why
}

// above says which pack above a pack keeps its gate closed, and why; "" where none does.
func (g *gates) parentProblem(id pack.ID) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.parentProblemLocked(id)
}

// aboveLocked is above; mu is held.
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
