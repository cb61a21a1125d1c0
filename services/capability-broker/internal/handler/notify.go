package handler

import (
	"context"
	"log/slog"
	"time"
)

const (
	notifyTimeout = 5 * time.Second
	notifyRetry   = time.Second
)

// Notifier tells approval that counts of candidates have changed, once for changes that come close together, and again
// until it was heard. Use NewNotifier.
type Notifier struct{ due chan struct{} }

// NewNotifier makes a Notifier; changes are told by Run.
func NewNotifier() *Notifier { return &Notifier{make(chan struct{}, 1)} }

// Changed notes that there is something to tell. It never blocks.
func (n *Notifier) Changed(context.Context) {
	select {
	case n.due <- struct{}{}:
	default:
	}
}

// Run tells until ctx ends.
func (n *Notifier) Run(ctx context.Context, tell func(context.Context) error, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.due:
		}
		bound, cancel := context.WithTimeout(ctx, notifyTimeout)
		err := tell(bound)
		cancel()
		if err == nil || ctx.Err() != nil {
			continue
		}
		log.WarnContext(ctx, "approval could not be told of candidates; trying again", "error", err)
		n.Changed(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(notifyRetry):
		}
	}
}
