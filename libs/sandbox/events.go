package sandbox

import (
	"context"
	"strconv"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
)

// Event is something that happened to a container of this instance.
type Event struct {
	// Action is Docker's word: start, die, oom, destroy, pause, unpause or rename. Or it is Resync: events may have been missed (at the beginning,
	// too), and List returns the present state. Or Lost: the connection to the engine broke.
	Action    string
	Container Container // ID, and what labels say; empty for Resync and Lost
	ExitCode  int       // for die
}

// Actions of our own.
const (
	Resync = "resync" // list what there is
	Lost   = "lost"   // no event is reported from here to the next Resync
)

// eventsRetry is how long Events waits before it tries to reach the engine again.
const eventsRetry = time.Second

// Events calls on for each event, one at a time, until ctx ends. If the engine can't be reached Events tries again each
// second. An event may report what a List after Resync has shown already.
func (e *Engine) Events(ctx context.Context, on func(Event)) {
	for ctx.Err() == nil {
		e.events(ctx, on)
		select {
		case <-ctx.Done():
		case <-time.After(eventsRetry):
		}
	}
}

// events is Events until the stream of events breaks.
func (e *Engine) events(ctx context.Context, on func(Event)) {
	mine, err := e.ownership(ctx)
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wanted := filters.NewArgs(filters.Arg("type", string(events.ContainerEventType)), filters.Arg("label", labelKind))
	for _, action := range []events.Action{
		events.ActionStart, events.ActionDie, events.ActionOOM, events.ActionDestroy, events.ActionPause, events.ActionUnPause, events.ActionRename,
	} {
		wanted.Add("event", string(action))
	}
	// Race: the engine may take up the request for events after it has answered the List that follows Resync, and what happened in
	// between would be in neither. So the events are asked for from now on, by the engine's own clock: it keeps its last events.
	info, err := e.info(ctx)
	if err != nil {
		return
	}
	e.mu.Lock()
	e.engineID = info.ID
	e.mu.Unlock()
	messages, failure := e.api.Events(ctx, events.ListOptions{Filters: wanted, Since: info.SystemTime})
	on(Event{Action: Resync})
	for {
		select {
		case <-failure:
			on(Event{Action: Lost})
			return
		case m := <-messages:
			// A container without a home's label may be an earlier version's of ours, which only its mounts say (see owns); an event has no
			// mounts. It is passed on, and the receiver's Find decides.
			if home, labelled := m.Actor.Attributes[labelHome]; mine.home != "" && labelled && home != mine.home {
				continue
			} else if mine.home == "" && (labelled || m.Actor.Attributes[labelInstance] != mine.instance) {
				continue
			}
			event := Event{Action: string(m.Action), Container: fromLabels(m.Actor.Attributes)}
			event.Container.ID = m.Actor.ID
			event.ExitCode, _ = strconv.Atoi(m.Actor.Attributes["exitCode"]) // only die has one
			on(event)
		}
	}
}
