package candidate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/libs/store"
)

// Scan records the result of a scan that an operator asked for. These candidates become pending: new ones; failed ones;
// rejected ones whose cooldown is over; installed ones, if Config.Differs says that the pack has another payload under the same
// key. A pending one gets the payload that was found now. Candidates that were not found are superseded, except those of packs
// with problems: what these have isn't known.
func (c *Candidates[P]) Scan(ctx context.Context, found []Found[P], problems []ScanError) (ScanResult, error) {
	return c.scan(ctx, found, problems, true)
}

// BackgroundScan records the result of a scan that no operator asked for. Candidates that are pending, failed or rejected stay
// as they are while their bytes are there: an operator may be looking at them, and must not approve something else than was
// shown. The next Scan counts the candidates that BackgroundScan added as new.
func (c *Candidates[P]) BackgroundScan(ctx context.Context, found []Found[P], problems []ScanError) error {
	_, err := c.scan(ctx, found, problems, false)
	return err
}

// scanning is one scan in its transaction.
type scanning[P any] struct {
	*Candidates[P]
	tx        *store.Tx
	now       time.Time
	requested bool // an operator asked for the scan
	result    ScanResult
	changed   bool // the counts have changed
}

func (c *Candidates[P]) scan(ctx context.Context, found []Found[P], problems []ScanError, requested bool) (ScanResult, error) {
	var s *scanning[P]
	err := c.db.Tx(ctx, func(tx *store.Tx) error {
		s = &scanning[P]{Candidates: c, tx: tx, now: c.cfg.Now(), requested: requested}
		s.result = ScanResult{Scanned: len(found) + len(problems), Errors: append([]ScanError{}, problems...)}
		seen := make(map[string]bool, len(found))
		for _, f := range found {
			seen[f.Key] = true
			if err := s.recordSeen(f); err != nil {
				return err
			}
		}
		unreadable := make(map[string]bool, len(problems))
		for _, p := range problems {
			unreadable[p.PackID] = true
		}
		return s.supersedeMissing(seen, unreadable)
	})
	if err != nil {
		return ScanResult{}, fmt.Errorf("scan candidates: %w", err)
	}
	if s.changed {
		c.changed(ctx)
	}
	return s.result, nil
}

// recordSeen records one candidate that was found.
func (s *scanning[P]) recordSeen(f Found[P]) error {
	item, err := load[P](s.tx, f.Key)
	if errors.Is(err, store.ErrNoRows) {
		s.result.PendingCreated++
		s.changed = true
		return insert(s.tx, Item[P]{
			Key: f.Key, PackID: f.PackID, Status: Status{State: Pending}, CreatedAt: s.now, UpdatedAt: s.now, Payload: f.Payload, announced: s.requested,
		})
	}
	if err != nil {
		return err
	}
	before := item.State
	if !s.requested && (waitsForOperator(before) || before == Pending) {
		// An operator may have read a pending one. To replace its payload now would make the approval one of something else.
		return nil
	}
	verb, err := s.verb(item, f)
	if err != nil {
		return err
	}
	next, err := item.Apply(verb, s.now)
	if err != nil {
		return err
	}
	item.enter(next, verb)
	wasAnnounced := item.announced
	s.count(before, item.State, wasAnnounced)
	if item.State != before {
		s.changed = true
		item.UpdatedAt, item.LastError = s.now, ""
	}
	if item.State != Pending && item.State == before {
		return nil
	}
	if item.State == Pending {
		item.Payload, item.LastError = f.Payload, ""
		item.announced = s.requested || wasAnnounced && before == Pending
	}
	return update(s.tx, item)
}

// verb is what the scan of a candidate means: Renew if it isn't what is installed under its key, otherwise Scan.
func (s *scanning[P]) verb(item Item[P], f Found[P]) (Verb, error) {
	if item.State != Installed {
		return Scan, nil
	}
	inUse, err := s.cfg.InUse(s.tx, item)
	if err != nil {
		return "", err
	}
	if !inUse || s.cfg.Differs != nil && s.cfg.Differs(item.Payload, f.Payload) {
		return Renew, nil
	}
	return Scan, nil
}

// waitsForOperator says whether only an operator's decision, or a scan that an operator asks for, changes a candidate in this
// state.
func waitsForOperator(state State) bool { return state == Failed || state == Rejected }

func (s *scanning[P]) count(before, after State, wasAnnounced bool) {
	switch {
	case after == Pending && (before != Pending || !wasAnnounced):
		s.result.PendingCreated++
	case after == Pending:
		s.result.SkippedPending++
	case after == Installed:
		s.result.SkippedInstalled++
	case after == Rejected:
		s.result.SkippedCooldown++
	case after == Blocked:
		s.result.SkippedBlocked++
	}
}

// supersedeMissing supersedes the candidates that were not found, except those of packs that could not be read, and those in
// use.
func (s *scanning[P]) supersedeMissing(seen, unreadable map[string]bool) error {
	items, err := query[P](s.tx, `state NOT IN (?, ?)`, string(Blocked), string(Superseded))
	if err != nil {
		return err
	}
	packs := map[string]bool{}
	for _, item := range items {
		if seen[item.Key] || unreadable[item.PackID] || !s.requested && waitsForOperator(item.State) {
			continue
		}
		if item.State == Installed {
			if inUse, err := s.cfg.InUse(s.tx, item); err != nil {
				return err
			} else if inUse {
				continue
			}
		}
		next, err := item.Apply(Supersede, s.now)
		if err != nil {
			return err
		}
		item.enter(next, Supersede)
		item.UpdatedAt, item.LastError = s.now, ""
		if err := update(s.tx, item); err != nil {
			return err
		}
		s.changed, packs[item.PackID] = true, true
	}
	for packID := range packs {
		if err := forgetSuperseded(s.tx, packID); err != nil {
			return err
		}
	}
	return nil
}

// forgetSuperseded deletes all but the newest superseded candidates of a pack: every edit of a handler makes one.
func forgetSuperseded(tx *store.Tx, packID string) error {
	_, err := tx.Exec(`DELETE FROM candidates WHERE pack_id = ? AND state = ? AND reject_count = 0 AND candidate_key NOT IN (
		SELECT candidate_key FROM candidates WHERE pack_id = ? AND state = ? AND reject_count = 0
		ORDER BY updated_at DESC, candidate_key LIMIT ?)`,
		packID, string(Superseded), packID, string(Superseded), maxSuperseded)
	return err
}

// lastInstalled says whether no candidate of the same pack was installed after item.
func lastInstalled[P any](tx *store.Tx, item Item[P]) (bool, error) {
	var later int
	err := tx.QueryRow(`SELECT COUNT(*) FROM candidates WHERE pack_id = ? AND state = ? AND updated_at > ?`,
		item.PackID, string(Installed), item.UpdatedAt).Scan(&later)
	return later == 0, err
}
