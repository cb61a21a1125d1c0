package vault

import (
	"fmt"
	"os"
	"time"

	"github.com/go-json-experiment/json"
)

// journalName is the append-only list of what was done to the secrets.
const journalName = "journal.jsonl"

// line is one change. It is on the disk before the change is made, so that nothing happens without a line; a change
// that was cut short leaves a line whose ts is in no file. Values are never part of it.
type line struct {
	TS     time.Time `json:"ts"` // the updated_at or deleted_at of the key's file
	Action string    `json:"action"`
	Key    string    `json:"key"`
	Actor  string    `json:"actor"`
}

// appendJournal appends l to the journal and syncs it. The caller holds the lock of all writers.
func (v *Vault) appendJournal(l line) error {
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	data = append(data, '\n')
	info, err := v.journal.Stat()
	if err != nil {
		return err
	}
	if torn, err := endsTorn(v.journal, info.Size()); err != nil {
		return err
	} else if torn {
		data = append([]byte{'\n'}, data...)
	}
	if _, err := v.journal.Write(data); err != nil {
		// A full disk may have taken a part of the line; without it the next one starts clean.
		if cut := v.journal.Truncate(info.Size()); cut != nil {
			return fmt.Errorf("%w (and truncate: %w)", err, cut)
		}
		return err
	}
	return v.journal.Sync()
}

// endsTorn says whether the last line lacks its end, as a power cut can leave it.
func endsTorn(f *os.File, size int64) (bool, error) {
	if size == 0 {
		return false, nil
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], size-1); err != nil {
		return false, err
	}
	return last[0] != '\n', nil
}
