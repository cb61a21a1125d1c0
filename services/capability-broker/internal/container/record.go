package container

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// Record has the facts about a pack's container that the engine doesn't know, as they are stored: what an operator wants of it, and how it went so
// far. It outlives the broker and the engine. It is stored as JSON, so the names in the tags must not change.
type Record struct {
	PackID      string         `json:"pack_id"`
	ContainerID string         `json:"container_id"`  // of the only container that counts as the pack's own; stored before it is started first
	Digest      string         `json:"digest"`        // of the tree that it runs
	Role        access.Role    `json:"role,omitzero"` // of the operator who started it, by which the policy is applied
	Wanted      bool           `json:"wanted"`        // an operator has started it, and none has stopped it since
	Running     bool           `json:"running"`
	Restart     pack.Restart   `json:"restart"`
	Limits      pack.Resources `json:"limits"`   // that it has
	Warnings    []string       `json:"warnings"` // of what the pack asked for and was not given
	StartedAt   time.Time      `json:"started_at,omitzero"`
	FinishedAt  time.Time      `json:"finished_at,omitzero"` // of its last end
	Exit        *sandbox.Exit  `json:"exit,omitempty"`       // of its last end
	Reason      string         `json:"reason"`               // of its last end, for people
	Restarts    int            `json:"restarts"`             // since an operator started it
	Failures    int            `json:"failures"`             // ends in a row after short runs; the pause before a restart grows with it
	RestartAt   time.Time      `json:"restart_at,omitzero"`  // when it is due to be started again; zero for not
	EngineID    string         `json:"engine_id,omitempty"`  // of the engine that has the container

	// PreviousStart is the engine's own time of the container's start before the one that this record is about; zero for none. It is
	// stored before the engine is asked to start. If the broker dies in between, the engine's last start is still this one,
	// and the next broker knows that the start never happened.
	PreviousStart time.Time `json:"before,omitzero"`
}

// due says whether a container is to be started again now. No pause is longer than longestPause: a restart that is due later than
// that was scheduled by a clock that has been set back since, and is due now.
func (r *Record) due(now time.Time) bool {
	wait := r.RestartAt.Sub(now)
	return r.Wanted && !r.RestartAt.IsZero() && (wait <= 0 || wait > longestPause)
}

// Bounds of the pause before a restart. It doubles with each run that was short, so that a pack that fails at once
// doesn't keep the engine busy.
const (
	firstPause   = time.Second
	longestPause = time.Minute
	steadyAfter  = time.Minute // a run that was longer starts the doubling anew
)

// policy is the record's restart policy; a record without one has pack.RestartNo.
func (r *Record) policy() pack.Restart {
	if r.Restart == "" {
		return pack.RestartNo
	}
	return r.Restart
}

// restartsAfter says whether the policy has a container that ended by itself with that exit started again.
func (r *Record) restartsAfter(exit sandbox.Exit) bool {
	switch r.policy() {
	case pack.RestartAlways:
		return true
	case pack.RestartOnFailure:
		return exit.Code != 0
	}
	return false
}

// nextPause returns how long to wait before the next restart, and makes the one after that longer. FinishedAt is set.
func (r *Record) nextPause() time.Duration {
	if r.FinishedAt.Sub(r.StartedAt) >= steadyAfter {
		r.Failures = 0
	}
	r.Failures++
	if r.Failures > 6 { // 2^6 s are over a minute
		return longestPause
	}
	return min(firstPause<<(r.Failures-1), longestPause)
}

// Records stores the records of this host's containers, for all replicas of the broker on it. Package store implements it.
type Records interface {
	// Records returns all records; changed is false if they are the same as at the last call, and list is then empty. An error may
	// come with records: those that could be read.
	Records(ctx context.Context) (list []Record, changed bool, err error)
	// Record returns a pack's record. Without one it has nothing but the id.
	Record(ctx context.Context, packID string) (Record, error)
	PutRecord(ctx context.Context, r Record) error
	RemoveRecord(ctx context.Context, packID string) error
}
