package candidate

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/store"
)

const columns = `candidate_key, pack_id, state, reject_count, cooldown_until, created_at, updated_at, actor, reason, last_error, payload, announced, revision, request`

func query[P any](tx *store.Tx, where string, args ...any) ([]Item[P], error) {
	items := []Item[P]{}
	err := tx.Each(func(scan func(...any) error) error {
		item, err := read[P](scan)
		items = append(items, item)
		return err
	}, `SELECT `+columns+` FROM candidates WHERE `+where+` ORDER BY created_at, candidate_key`, args...)
	return items, err
}

func load[P any](tx *store.Tx, key string) (Item[P], error) {
	return read[P](tx.QueryRow(`SELECT `+columns+` FROM candidates WHERE candidate_key = ?`, key).Scan)
}

// get is load with the answer that callers get.
func get[P any](tx *store.Tx, key string) (Item[P], error) {
	item, err := load[P](tx, key)
	if errors.Is(err, store.ErrNoRows) {
		return item, fault.NotFound("Candidate not found").With("candidate_not_found")
	}
	return item, err
}

func read[P any](scan func(...any) error) (Item[P], error) {
	var item Item[P]
	var payload, request string
	var announced int
	err := scan(&item.Key, &item.PackID, &item.State, &item.RejectCount, store.Time(&item.CooldownUntil), store.Time(&item.CreatedAt),
		store.Time(&item.UpdatedAt), &item.Actor, &item.Reason, &item.LastError, &payload, &announced, &item.revision, &request)
	if err != nil {
		return item, err
	}
	item.announced, item.Request = announced != 0, confirm.Decode(request)
	if err := json.Unmarshal([]byte(payload), &item.Payload); err != nil {
		// The row is damaged, or was written by another version. It must not keep the others from being shown; its LastError says so.
		item.Payload = *new(P)
		item.LastError = "What is stored of this candidate can't be read. Scan again."
	}
	return item, nil
}

func insert[P any](tx *store.Tx, item Item[P]) error {
	payload, err := json.Marshal(item.Payload)
	if err != nil {
		return fmt.Errorf("write payload of %s: %w", item.Key, err)
	}
	request, err := item.Request.Encode()
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO candidates (`+columns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		item.Key, item.PackID, string(item.State), item.RejectCount, item.CooldownUntil, item.CreatedAt, item.UpdatedAt,
		item.Actor, item.Reason, item.LastError, string(payload), number(item.announced), 1, request)
	return err
}

func update[P any](tx *store.Tx, item Item[P]) error {
	payload, err := json.Marshal(item.Payload)
	if err != nil {
		return fmt.Errorf("write payload of %s: %w", item.Key, err)
	}
	request, err := item.Request.Encode()
	if err != nil {
		return err
	}
	_, err = tx.Exec(`UPDATE candidates SET state = ?, reject_count = ?, cooldown_until = ?, updated_at = ?, actor = ?, reason = ?,
		last_error = ?, payload = ?, announced = ?, request = ?, revision = revision + 1 WHERE candidate_key = ?`,
		string(item.State), item.RejectCount, item.CooldownUntil, item.UpdatedAt, item.Actor, item.Reason,
		item.LastError, string(payload), number(item.announced), request, item.Key)
	return err
}

// number is a boolean as both databases store it.
func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// clipText cuts a text to MaxText bytes, as valid UTF-8 without NUL, which PostgreSQL doesn't store.
func clipText(s string) string {
	s = strings.ReplaceAll(s, "\x00", "\uFFFD")
	if len(s) > MaxText {
		s = s[:MaxText]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
