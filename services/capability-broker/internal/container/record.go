package container

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// Record is what is kept of a pack's container beside what the engine knows: what the operator wants of it, and how it
// went so far. It outlives the broker and the engine.
type Record struct {
	PackID        string         `json:"pack_id"`
	ContainerID   string         `json:"container_id"`
	Digest        string         `json:"digest"` // of the tree that it runs
	Wanted        bool           `json:"wanted"` // an operator has started it, and nobody has stopped it since
	Running       bool           `json:"running"`
	Restart       pack.Restart   `json:"restart"`
	Limits        pack.Resources `json:"limits"`   // that it has
	Warnings      []string       `json:"warnings"` // of what it asked for and was not given
	StartedAt     time.Time      `json:"started_at,omitzero"`
	FinishedAt    time.Time      `json:"finished_at,omitzero"` // of its last end
	Exit          *sandbox.Exit  `json:"exit,omitempty"`       // of its last end
	Reason        string         `json:"reason"`               // of its last end, for people
	Restarts      int            `json:"restarts"`             // since an operator started it
	Failures      int            `json:"failures"`             // ends in a row after short runs: what the pause grows with
	RestartAt     time.Time      `json:"restart_at,omitzero"`  // when it is due to be started again; zero for not
	EngineID      string         `json:"engine_id,omitempty"`  // of the engine that has the container
	PreviousStart time.Time      `json:"before,omitzero"`      // the engine's time of the start before the last one; zero for none
}

// due says whether a container is to be started again now. No pause is longer than a minute: what is due later was written
// by a clock that has been set back since.
func (r *Record) due(now time.Time) bool {
	wait := r.RestartAt.Sub(now)
	return r.Wanted && !r.RestartAt.IsZero() && (wait <= 0 || wait > longestWait)
}

// Bounds of the pause before a restart, which doubles with each run that was short.
const (
	firstPause  = time.Second
	longestWait = time.Minute
	steadyAfter = time.Minute // a run that was longer starts the doubling anew
)

// policy is the record's, with what none means.
func (r *Record) policy() pack.Restart {
	if r.Restart == "" {
		return pack.RestartNo
	}
	return r.Restart
}

// restartsAfter says whether the policy has a container started again that ended by itself.
func (r *Record) restartsAfter(exit sandbox.Exit) bool {
	switch r.policy() {
	case pack.RestartAlways:
		return true
	case pack.RestartOnFailure:
		return exit.Code != 0
	}
	return false
}

// nextPause is how long to wait now, and counts towards the next one.
func (r *Record) nextPause() time.Duration {
	if r.FinishedAt.Sub(r.StartedAt) >= steadyAfter {
		r.Failures = 0
	}
	r.Failures++
	if r.Failures > 6 { // 2^6 s are over a minute
		return longestWait
	}
	return min(firstPause<<(r.Failures-1), longestWait)
}

// Records keeps the records of this host's containers, for all replicas of the broker on it.
type Records interface {
	// Records gives all of them, and false where they are what was given the last time.
	Records(ctx context.Context) (list []Record, changed bool, err error)
	// Record gives one; without one it has nothing but the id.
	Record(ctx context.Context, packID string) (Record, error)
	PutRecord(ctx context.Context, r Record) error
	RemoveRecord(ctx context.Context, packID string) error
}
