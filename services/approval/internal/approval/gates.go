package approval

import (
	"sync"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
)

// gates derives every pack's gate from the records and publishes what changes: a pack's own gate and those of the packs
// below it.
type gates struct {
	publisher *gate.Publisher

	mu      sync.Mutex
	records map[pack.ID]*record.Record // the newest of each
}

func newGates() *gates {
	return &gates{publisher: gate.NewPublisher(nil), records: map[pack.ID]*record.Record{}}
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

func (g *gates) remove(id pack.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.records, id)
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
		for above, ok := id, true; ok; above, ok = pack.Parent(above) {
			if set[above] {
				states = append(states, g.state(id))
				break
			}
		}
	}
	g.publisher.Set(states...)
}

// of is a pack's gate as it is published.
func (g *gates) of(id pack.ID) gate.State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state(id)
}

// parentMissing is the status of a gate whose pack is the child of one that nobody installed.
const parentMissing = "parent_missing"

// state is a pack's gate. A parent that is not known lets nothing run.
func (g *gates) state(id pack.ID) gate.State {
	r, ok := g.records[id]
	if !ok {
		return gate.State{PackID: string(id), Status: parentMissing}
	}
	parent, child := pack.Parent(id)
	if !child {
		return r.Gate(nil)
	}
	above := g.state(parent)
	return r.Gate(&above)
}
