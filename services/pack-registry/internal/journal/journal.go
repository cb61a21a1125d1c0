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
	StagingID string // the staging that is applied; "" for a rollback, which restores a backup
	StartedAt time.Time
	State     State
	Packs     []Pack
	Err       error // why Packs can't be read; then nothing is done about the operation
}

// State says how far an operation is. It decides what a process does that finds the operation after a crash.
type State int64

// The states of operations.
const (
	Undoing   State = 0 // it is being prepared, or it has failed: it is undone
	Committed State = 1 // everything is prepared, nothing is visible yet: it is finished, or undone where that is impossible
	Installed State = 2 // all packs are installed and that is audited: what is left over is removed
)

// Pack is the part of an operation that concerns one pack.
type Pack struct {
	ID        pack.ID `json:"id"`
	Source    string  `json:"from"`   // the folder that is copied: in the staging's payload, or a backup in the folder of backups
	Prepared  string  `json:"new"`    // the hidden name in ecosystem/ under which the new folder is prepared
	Backup    string  `json:"backup"` // the backup of the replaced folder, relative to the folder of backups; "" for a new pack
	LegacyDir string  `json:"old"`    // "packs/<id>" if the replaced folder is in the legacy folder of packs, else ""

	// Inode and Born identify the new folder whatever name it has after a crash. Born is the inode's birth time in ns, because numbers of
	// inodes are used again; 0 where the file system doesn't have it. Both are set before the operation is committed.
	Inode uint64 `json:"inode"`
	Born  int64  `json:"born"`

	// The same of the folder that is replaced; 0 where there is none.
	OldInode uint64 `json:"old_inode"`
	OldBorn  int64  `json:"old_born"`
}
