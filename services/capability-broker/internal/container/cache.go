package container

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// recordCache is a copy in memory of the records of this host's containers. Other replicas write records, too; refresh reads
// theirs.
type recordCache struct {
	store Records

	// io is held over each read or write of the store together with the update of byPack. Otherwise a refresh that read
	// an older state could finish after a put, and byPack would go back in time.
	io sync.Mutex

	mu     sync.Mutex // guards byPack; not held over calls of the store, so that get never waits for a database
	byPack map[string]Record
}

func newRecordCache(store Records) recordCache {
	return recordCache{store: store, byPack: make(map[string]Record)}
}

// put stores a record. The cache has it even if the store fails: the record says what happened to a container, and that
// is so whether or not it could be written.
func (c *recordCache) put(ctx context.Context, r Record) error {
	c.io.Lock()
	defer c.io.Unlock()
	err := c.store.PutRecord(ctx, r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byPack[r.PackID] = r
	return err
}

// remove removes a pack's record, from the cache even if the store fails.
func (c *recordCache) remove(ctx context.Context, packID string) error {
	c.io.Lock()
	defer c.io.Unlock()
	err := c.store.RemoveRecord(ctx, packID)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byPack, packID)
	return err
}

// refresh takes over what other replicas have recorded. An error may come with records: those that could be read.
func (c *recordCache) refresh(ctx context.Context) error {
	c.io.Lock()
	defer c.io.Unlock()
	list, changed, err := c.store.Records(ctx)
	if !changed {
		return err
	}
	byPack := make(map[string]Record, len(list))
	for _, r := range list {
		byPack[r.PackID] = r
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byPack = byPack
	return err
}

// get returns a pack's record as it was last read or written.
func (c *recordCache) get(packID string) (Record, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, known := c.byPack[packID]
	return r, known
}

// all returns the records of all packs, in no order.
func (c *recordCache) all() []Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.byPack))
}
