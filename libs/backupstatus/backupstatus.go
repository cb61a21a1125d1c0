// Package backupstatus is how the scheduled backups say to the gateway how they went: one file in a folder that the backup writes and the gateway
// mounts read-only. The gateway can't read the backups themselves.
package backupstatus

import (
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/libs/statusfile"
)

// File is the file of the status. Whoever may read the folder may read it.
var File = statusfile.File[Status]{Of: "the backups", Folder: "user_data/backup_status", Mode: 0o644}

// Status is what is known of the scheduled backups. Times are in UTC.
type Status struct {
	Interval float64   `json:"interval_seconds"`
	Newest   *Backup   `json:"newest,omitempty"` // the newest verified one; nil for none
	LastRun  time.Time `json:"last_run"`         // when a backup was last tried; zero for never
	Problem  string    `json:"problem"`          // why the last one failed or isn't verified; "" if it is
	Problems []string  `json:"problems"`         // each thing that doesn't fit in the last one
}

// Backup is one verified backup.
type Backup struct {
	Name  string    `json:"name"`
	At    time.Time `json:"at"`
	Size  int64     `json:"size_bytes"`
	Files int       `json:"files"` // 0 where it isn't known: the file is from before the status
	Took  float64   `json:"took_seconds"`
}

// States of the scheduled backups.
const (
	OK     = "ok"
	Late   = "late"   // the newest verified one is older than twice the interval, or there is none
	Failed = "failed" // the last one failed, or its verification did
)

// Verdict says how the backups are, and what is wrong.
func (s Status) Verdict(now time.Time) (state, detail string) {
	late := ""
	switch {
	case s.Newest == nil && !s.LastRun.IsZero():
		late = "There is no verified backup"
	case s.Newest != nil && now.Sub(s.Newest.At).Seconds() > 2*s.Interval:
		late = fmt.Sprintf("The newest verified backup, %s, is %v old", s.Newest.Name, now.Sub(s.Newest.At).Round(time.Minute))
	}
	switch {
	case s.Problem != "" && late != "":
		return Failed, s.Problem + ". " + late
	case s.Problem != "":
		return Failed, s.Problem
	case late != "":
		return Late, late
	}
	return OK, ""
}
