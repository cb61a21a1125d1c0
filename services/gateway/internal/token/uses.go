package token

import (
	"context"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
)

const (
	// usesInterval is how often last uses are written: a request must not wait for that, nor cause a write of its own.
	usesInterval = 5 * time.Second
	// usesBatch is how many are written in one transaction, so that others that write needn't wait long.
	usesBatch = 500
)

// Uses writes when and from where each token was used last. Use NewUses.
type Uses struct {
	cache *Cache
	file  *File

	mu      sync.Mutex // one goroutine writes at a time
	written map[string]time.Time
}

// NewUses makes the writer.
func NewUses(cache *Cache, file *File) *Uses {
	return &Uses{cache: cache, file: file, written: map[string]time.Time{}}
}

// Run writes until ctx ends.
func (u *Uses) Run(ctx context.Context) error {
	failing := false
	return periodic.Run(ctx, usesInterval, func(ctx context.Context) {
		err := u.Flush(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			u.cache.log.WarnContext(ctx, "when tokens were used last can't be written; it will be tried again", "error", err)
		}
		failing = err != nil
	})
}

// Flush writes what has been used since it was last called. Without a database nothing is lost but by the end of the process.
func (u *Uses) Flush(ctx context.Context) error {
	on := u.cache.on.Load()
	if on == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	batch := map[string]principal.Use{}
	save := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := on.store.SaveUses(ctx, batch); err != nil {
			return err
		}
		for id, use := range batch {
			u.written[id] = use.At
		}
		batch = map[string]principal.Use{}
		return nil
	}
	uses := func(yield func(string, *principal.LastUse) bool) {
		if !yield(InitName, &u.file.lastUse) {
			return
		}
		for id, e := range on.snapshot.Value().byID {
			if !yield(id, e.lastUse) {
				return
			}
		}
	}
	for id, last := range uses {
		if use, used := last.Last(); used && !use.At.Equal(u.written[id]) {
			if batch[id] = use; len(batch) == usesBatch {
				if err := save(); err != nil {
					return err
				}
			}
		}
	}
	return save()
}
