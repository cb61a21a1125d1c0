package candidate

import (
	"context"
	"log/slog"
	"time"
)

const (
	taskTimeout  = time.Minute
	taskRetry    = time.Second
	taskRetryMax = 30 * time.Second
)

// Task is work that is due after changes: it is done once for changes that come close together, and repeated until it succeeds.
// Make one with NewTask.
type Task struct {
	name string // for the log: "notifying approval of pending locks"
	do   func(context.Context) error
	due  chan struct{}
}

// NewTask makes a task that is not due yet.
func NewTask(name string, do func(context.Context) error) *Task {
	return &Task{name, do, make(chan struct{}, 1)}
}

// Due says that the task has to be done. It never blocks.
func (t *Task) Due() {
	select {
	case t.due <- struct{}{}:
	default:
	}
}

// Run does the task whenever it is due, until ctx ends. After a failure it tries again after a second, then after twice as long
// each time, up to half a minute.
func (t *Task) Run(ctx context.Context, log *slog.Logger) error {
	wait := taskRetry
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.due:
		}
		bound, cancel := context.WithTimeout(ctx, taskTimeout)
		err := t.do(bound)
		cancel()
		if err == nil || ctx.Err() != nil {
			wait = taskRetry
			continue
		}
		log.WarnContext(ctx, t.name+" failed; trying again", "in_seconds", wait.Seconds(), "error", err)
		t.Due()
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, taskRetryMax)
	}
}
