// Package sealstatus is how the sealer of the audit log says to its own health check and to the gateway how it is: one file in a folder that the
// sealer writes and the gateway mounts read-only. No service can read, or write to, the seals themselves.
package sealstatus

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/atomicfile"
)

const (
	name    = "status.json"
	maxFile = 64 << 10
)

// StaleAfter is how old the status of a sealer that works can't be: it writes one every few seconds.
const StaleAfter = 30 * time.Second

// Status is what the sealer has done last.
type Status struct {
	At      time.Time `json:"at"`             // of the last pass; UTC
	Records uint64    `json:"records"`        // signed ones in the log
	Changes int       `json:"changes"`        // how often it noticed, since it was started, that sealed lines were changed
	Last    string    `json:"last,omitzero"`  // the last of these: "security_2026-01-31.jsonl, line 7: changed"
	Error   string    `json:"error,omitzero"` // why nothing is sealed, or not everything
}

// Write replaces the status in a folder.
func Write(dir string, s Status) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("write the status of the sealer: %w", err)
	}
	defer root.Close()
	data, err := json.Marshal(s)
	if err == nil {
		err = atomicfile.Write(root, name, append(data, '\n'), 0o640, atomicfile.TempName("."+name+".new"))
	}
	if err != nil {
		return fmt.Errorf("write the status of the sealer: %w", err)
	}
	return nil
}

// Read reads the status in a folder. ok is false if there is none: no sealer was started.
func Read(dir string) (s Status, ok bool, err error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return s, false, nil
	} else if err != nil {
		return s, false, fmt.Errorf("read the status of the sealer: %w", err)
	}
	defer root.Close()
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return s, false, nil
	} else if err != nil {
		return s, false, fmt.Errorf("read the status of the sealer: %w", err)
	}
	defer f.Close()
	if err := json.UnmarshalRead(io.LimitReader(f, maxFile), &s); err != nil {
		return s, false, fmt.Errorf("read the status of the sealer: user_data/seal_status/%s holds none", name)
	}
	return s, true, nil
}

// States of the sealer.
const (
	OK      = "ok"
	Late    = "late"    // it doesn't run, or hangs
	Failed  = "failed"  // something can't be sealed
	Changed = "changed" // it noticed that sealed lines were changed
)

// Verdict says how the sealer is, and what is wrong. A change comes first: it matters even if the sealer has stopped since.
func (s Status) Verdict(now time.Time) (state, detail string) {
	switch age := now.Sub(s.At); {
	case s.Changes > 0:
		return Changed, fmt.Sprintf("Sealed lines of the audit log were changed (%d times). The last: %s", s.Changes, s.Last)
	case age > StaleAfter:
		return Late, fmt.Sprintf("The audit log has not been sealed for %v", age.Round(time.Second))
	case s.Error != "":
		return Failed, s.Error
	}
	return OK, ""
}
