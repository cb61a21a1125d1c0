package audit

import (
	"context"
	"maps"
)

// WriteEach writes an entry about several packs once for each of them, with OwnerPack and details.pack_id, so that a pack's entries are
// found by its id. Where no pack is known there is one entry, without. It fails as Write does, with the first error.
func (l *Log) WriteEach(ctx context.Context, entry Entry, packIDs []string) error {
	if len(packIDs) == 0 {
		return l.Write(ctx, entry)
	}
	entries := make([]Entry, 0, len(packIDs))
	for _, id := range packIDs {
		one := entry
		one.OwnerPack, one.Details = id, map[string]any{"pack_id": id}
		maps.Copy(one.Details, entry.Details)
		entries = append(entries, one)
	}
	return l.Submit(ctx, entries...)()
}
