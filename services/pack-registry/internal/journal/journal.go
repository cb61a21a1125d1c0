// Package journal has the entries of pack-registry's journal: changes of the ecosystem folder that have begun and not ended. An entry says
// which folders a change replaces and how far it is, so that a process that finds it after a crash can finish or undo the change.
//
// It is a leaf. Package ecosystem writes and follows the journal; internal/store keeps it.
package journal

import (
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
)

// Operation is an apply or a rollback that has begun and not ended.
type Operation struct {
	ID        string // 16 hexadecimal digits
	StagingID string // what is applied; "" for a rollback, which puts backups back
	StartedAt time.Time
	State     State
	Packs     []Pack
	Err       error // why Packs can't be read; then nothing is known of them
}

// State says how far an operation is, and so what whoever finds it interrupted does with it.
type State int64

// The states of operations.
const (
	Undoing   State = 0 // nothing of it counts: it is being prepared, or has failed. It is undone
	Committed State = 1 // everything is prepared. It is finished, or undone where that is impossible
	Installed State = 2 // all of it is in place, and that is audited. What it has left is removed
)

// Pack is what an operation does to one pack.
type Pack struct {
	ID        pack.ID `json:"id"`
	Source    string  `json:"from"`   // its folder in the staging's payload, or that of a backup in the folder of backups
	Prepared  string  `json:"new"`    // the name in ecosystem/ under which its new folder is prepared
	Backup    string  `json:"backup"` // its backup, relative to the folder of backups; "" where it is not installed
	LegacyDir string  `json:"old"`    // where it is installed in the old place, relative to ecosystem/; else ""
	Inode     uint64  `json:"inode"`  // of the new folder, by which it is known wherever it is; set when committed
	Born      int64   `json:"born"`   // when that inode was made, in ns, since numbers are used again; 0 where the file system doesn't say

	// The same of the folder that is replaced; 0 where there is none.
	OldInode uint64 `json:"old_inode"`
	OldBorn  int64  `json:"old_born"`
}
