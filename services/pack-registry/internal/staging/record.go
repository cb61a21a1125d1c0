package staging

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
)

// Staging is an import that may be applied. Its files are in the folder of the area that is named by its id.
type Staging struct {
	ID         string // 16 hexadecimal digits
	CreatedAt  time.Time
	InputType  string // "folder", "zip" or "rumipack"
	SourcePath string // as the operator gave it
	Notes      string
	Actor      string
	Multi      bool // several packs in packs/
	Packs      []StagedPack
	Warnings   []string // what the import left out, for the operator
	Err        error    // why Packs can't be read; only Stagings sets it
}

// StagedPack is one pack of a staging.
type StagedPack struct {
	Dir      string  `json:"dir"`    // its folder's name in the staging's payload
	Folder   string  `json:"folder"` // the name that its folder had in the import
	Declared pack.ID `json:"declared"`
	Identity string  `json:"identity"`
	Version  string  `json:"version"`

	Warnings []string `json:"warnings,omitempty"` // for the operator
}

// ErrUnknown says that there is no staging with an id.
var ErrUnknown = errors.New("no such staging")

// Store keeps the records of stagings. internal/store implements it. Every method may fail because the database can't be asked.
type Store interface {
	// AddStaging stores a new staging.
	AddStaging(ctx context.Context, st Staging) error

	// Staging reads a staging. Without one the error is ErrUnknown.
	Staging(ctx context.Context, id string) (Staging, error)

	// Stagings lists the stagings made at a time or after it, the newest first. One whose packs can't be read is listed with its Err.
	Stagings(ctx context.Context, since time.Time) ([]Staging, error)

	// StagingTimes reads when each staging was made, by id. It reads nothing else, so that it works for stagings that can't be read.
	StagingTimes(ctx context.Context) (made map[string]time.Time, err error)

	// RemoveStaging forgets a staging, if there is one.
	RemoveStaging(ctx context.Context, id string) error
}

// NewID makes the id of a staging or of an operation on the ecosystem folder: 16 random hexadecimal digits.
func NewID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
