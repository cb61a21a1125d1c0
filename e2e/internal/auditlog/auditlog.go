// Package auditlog reads the files of the audit log, as an operator does, and checks their form.
package auditlog

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"
)

// Entry is one line of the audit log.
type Entry struct {
	TS              time.Time      `json:"ts"`
	Category        string         `json:"category"`
	Severity        string         `json:"severity"`
	Action          string         `json:"action"`
	Success         bool           `json:"success"`
	OwnerPack       string         `json:"owner_pack"`
	Details         map[string]any `json:"details"`
	Error           string         `json:"error"`
	RejectionReason string         `json:"rejection_reason"`
	RequestID       string         `json:"request_id"`
	TraceID         string         `json:"trace_id"`
	Actor           string         `json:"actor"`
	Service         string         `json:"service"`
}

// String is the entry in a few words.
func (e Entry) String() string {
	outcome := "ok"
	if !e.Success {
		outcome = "refused"
	}
	return fmt.Sprintf("%s/%s %s by %s", e.Category, e.Action, outcome, e.Actor)
}

// Read returns the entries of a folder that were written at since or later, file by file. It is an error if a line isn't an entry, or is in the
// file of another category or day.
func Read(dir string, since time.Time) ([]Entry, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("list audit log: %w", err)
	}
	var entries []Entry
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read audit log: %w", err)
		}
		scanner := bufio.NewScanner(bytes.NewReader(data))
		scanner.Buffer(nil, 128<<10) // the log's own bound is 64 KiB a line
		for number := 1; scanner.Scan(); number++ {
			line := scanner.Bytes()
			if len(line) == 0 {
				continue // the log begins a new line after a crash in the middle of one
			}
			var e Entry
			if err := json.Unmarshal(line, &e); err != nil {
				return nil, fmt.Errorf("read audit log: %s:%d: %w", path, number, err)
			}
			if want := e.Category + "_" + e.TS.UTC().Format(time.DateOnly) + ".jsonl"; filepath.Base(path) != want {
				return nil, fmt.Errorf("read audit log: %s:%d belongs to %s", path, number, want)
			}
			if !e.TS.Before(since) {
				entries = append(entries, e)
			}
		}
		if err := scanner.Err(); err != nil {
			return nil, fmt.Errorf("read audit log: %s: %w", path, err)
		}
	}
	return entries, nil
}

// Await reads the log every 50 ms until fits returns true for an entry, and returns that entry. It ends with ctx.
func Await(ctx context.Context, dir string, since time.Time, fits func(Entry) bool) (Entry, error) {
	for {
		entries, err := Read(dir, since)
		if err != nil {
			return Entry{}, err
		}
		for _, e := range entries {
			if fits(e) {
				return e, nil
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return Entry{}, fmt.Errorf("await audit entry: none of %d fits: %w", len(entries), ctx.Err())
		}
	}
}
