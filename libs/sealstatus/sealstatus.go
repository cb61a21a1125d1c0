// Package sealstatus is how the sealer of the audit log says to its own health check and to the gateway how it is: one file in a folder that the
// sealer writes and the gateway mounts read-only. No service can read, or write to, the seals themselves.
package sealstatus

import (
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/libs/statusfile"
)

// File is the file of the status.
var File = statusfile.File[Status]{Of: "the sealer", Folder: "user_data/seal_status", Mode: 0o640}

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
