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
	// Action is Docker's word: start, die, oom or destroy; or Resync, when events may have been missed (at the beginning, too)
	// and List alone tells what is so.
	Action    string
	Container Container // ID, and what labels tell; empty for Resync
	ExitCode  int       // for die
}

// Resync is the Action of an Event that says: look for yourself.
const Resync = "resync"

// eventsRetry is how long Events waits before it asks again an engine that went away.
const eventsRetry = time.Second

// Events calls on for each event, one at a time, until ctx ends. An engine that is absent or goes away is asked again each
// second.
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
	instance, err := e.Instance(ctx)
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wanted := filters.NewArgs(filters.Arg("type", string(events.ContainerEventType)), filters.Arg("label", labelInstance+"="+instance))
	for _, action := range []events.Action{events.ActionStart, events.ActionDie, events.ActionOOM, events.ActionDestroy} {
		wanted.Add("event", string(action))
	}
	messages, failure := e.api.Events(ctx, events.ListOptions{Filters: wanted})
	// The request for events is on its way, not necessarily there: a ping behind it doesn't order the two either. Since both
	// only ever add knowledge, Resync comes first and a late event tells the rest.
	if _, err := e.api.Ping(ctx); err != nil {
		return
	}
	on(Event{Action: Resync})
	for {
		select {
		case <-failure:
			return
		case m := <-messages:
			event := Event{Action: string(m.Action), Container: labelled(m.Actor.Attributes)}
			event.Container.ID = m.Actor.ID
			event.ExitCode, _ = strconv.Atoi(m.Actor.Attributes["exitCode"]) // only die has one
			on(event)
		}
	}
}
