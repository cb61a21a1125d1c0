package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const brokerDatabase = stateDir + "/capability-broker/capability-broker.db"

// restoredAt is a time that has passed, so that the broker makes the restart at once.
const restoredAt = `"2000-01-01T00:00:00Z"`

// wakePacks makes the packs that ran when a home was backed up due to be started. Their records name containers that are gone: on another machine,
// and on this one where they were removed. The broker would take a container that is gone for one that somebody has removed on purpose.
func wakePacks(ctx context.Context, home string) (woken int, err error) {
	file := filepath.Join(home, brokerDatabase)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	db, err := open(file)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	records, err := runningRecords(ctx, db)
	if err != nil {
		return 0, fmt.Errorf("make packs due to be started: %w", err)
	}
	for id, record := range records {
		if _, err := db.ExecContext(ctx, "UPDATE capability_containers SET record = ? WHERE rowid = ?", record, id); err != nil {
			return 0, fmt.Errorf("make packs due to be started: %w", err)
		}
	}
	return len(records), nil
}

// runningRecords are the records of packs that ran, changed so that they are due, by row. Members that are not known here stay.
func runningRecords(ctx context.Context, db *sql.DB) (map[int64]string, error) {
	rows, err := db.QueryContext(ctx, "SELECT rowid, record FROM capability_containers")
	if err != nil && strings.Contains(err.Error(), "no such table") {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer rows.Close()
	records := map[int64]string{}
	for rows.Next() {
		var id int64
		var text string
		if err := rows.Scan(&id, &text); err != nil {
			return nil, err
		}
		var record map[string]jsontext.Value
		if json.Unmarshal([]byte(text), &record) != nil {
			continue // the broker says that it can't be read
		}
		if string(record["running"]) != "true" || string(record["wanted"]) != "true" {
			continue
		}
		record["running"], record["restart_at"], record["reason"] = jsontext.Value("false"), jsontext.Value(restoredAt), jsontext.Value(`"restored from a backup"`)
		changed, err := json.Marshal(record)
		if err != nil {
			return nil, err
		}
		records[id] = string(changed)
	}
	return records, rows.Err()
}
