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
	// Action is Docker's word: start, die, oom, destroy, pause, unpause or rename; or Resync, when events may have been missed (at the beginning, too)
	// and List alone tells what is so; or Lost, when the engine went away.
	Action    string
	Container Container // ID, and what labels tell; empty for Resync and Lost
	ExitCode  int       // for die
}

// Actions of our own.
const (
	Resync = "resync" // look for yourself
	Lost   = "lost"   // from here to the next Resync nothing is told
)

// eventsRetry is how long Events waits before it asks again an engine that went away.
const eventsRetry = time.Second

// Events calls on for each event, one at a time, until ctx ends. An engine that is absent or goes away is asked again each
// second. An event may be told of something that Resync's List has shown already.
func (e *Engine) Events(ctx context.Context, on func(Event)) {
	for ctx.Err() == nil {
		e.events(ctx, on)
		select {
		case <-ctx.Done():
		case <-time.After(eventsRetry):
		}
	}
}

// events goes on until the stream of events breaks.
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
	// The engine may take up the request for events after it has answered the List that follows Resync: what happens in
	// between is told too, since the engine keeps its last events and is asked for those from now on, by its own clock.
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
			// An event names no mounts: who hears of a container without a home looks whether it is ours.
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
