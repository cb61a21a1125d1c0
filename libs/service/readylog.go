package service

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/periodic"
)

const (
	// readyInterval is how often it is looked whether the service is ready.
	readyInterval = 5 * time.Second
	// readyPatience is for how long the service must have become ready, or not ready, before the audit log has it: a condition that comes and goes
	// must not fill the log. So there are at most six entries a minute.
	readyPatience = 10 * time.Second
)

// readyLog writes an entry when the service is no longer ready, with the conditions that fail, and when it is ready again. A service that has started
// counts as ready: the entry service_started says so.
type readyLog struct {
	ready func(context.Context) Readiness
	write func(context.Context, audit.Entry) error

	unready bool      // as the log has it
	since   time.Time // since when it isn't as the log has it; zero where it is
}

func (l *readyLog) run(ctx context.Context) error {
	return periodic.Run(ctx, readyInterval, l.look)
}

// look compares the service with what the log has. An entry that could not be written is tried again the next time.
func (l *readyLog) look(ctx context.Context) {
	now := l.ready(ctx)
	if ctx.Err() != nil {
		return
	}
	if now.Ready != l.unready {
		l.since = time.Time{}
		return
	}
	if l.since.IsZero() {
		l.since = time.Now()
	}
	if time.Since(l.since) < readyPatience {
		return
	}
	if l.write(ctx, l.entry(now)) == nil {
		l.unready, l.since = !now.Ready, time.Time{}
	}
}

func (l *readyLog) entry(now Readiness) audit.Entry {
	since := map[string]any{"since": l.since.UTC().Format(time.RFC3339Nano)}
	if now.Ready {
		return audit.Entry{Category: audit.System, Action: "service_ready", Success: true, Details: since}
	}
	failing := []any{}
	for _, c := range now.Checks {
		if !c.OK {
			failing = append(failing, map[string]any{"name": c.Name, "detail": c.Detail})
		}
	}
	since["conditions"] = failing
	return audit.Entry{Category: audit.System, Severity: audit.Error, Action: "service_not_ready", Error: "conditions of the service fail", Details: since}
}
