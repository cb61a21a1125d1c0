// Package installer is the workflow of requirements.lock files: scan, decision, build, and the environment that
// capability-broker gives to the pack's containers. It uses libs/candidate for states and decisions, internal/build for installing, and
// internal/environment for the result.
package installer

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"

	api "github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/lock"
)

// lockPaths are the paths at which a pack may have a lock, relative to its folder.
var lockPaths = []string{"requirements.lock", "backend/requirements.lock"}

// Lock is the payload of a candidate: what a scan found in a lock, and what its approval added.
type Lock struct {
	Relpath      string             `json:"relpath"`
	SHA256       string             `json:"sha256"` // of the file, in hexadecimal
	Requirements []lock.Requirement `json:"requirements"`

	AllowSdist  bool            `json:"allow_sdist,omitzero"`
	IndexURL    string          `json:"index_url,omitzero"` // "" for the default
	Notes       string          `json:"notes,omitzero"`
	Role        access.Role     `json:"role,omitzero"`        // of the person who approved it, by which the policy is applied
	Environment api.Environment `json:"environment,omitzero"` // of an installed one
}

type (
	// Item is a candidate.
	Item = candidate.Item[Lock]
	// Candidates are all of them.
	Candidates = candidate.Candidates[Lock]
)

func keyOf(packID, relpath string, content []byte) (key, digest string) {
	sum := sha256.Sum256(content)
	digest = hex.EncodeToString(sum[:])
	return strings.Join([]string{packID, relpath, digest}, ":"), digest
}

var hexSHA256 = regexp.MustCompile(`\A[0-9a-f]{64}\z`)

// ValidKey says whether s has the form of a candidate's key: pack_id:relpath:sha256.
func ValidKey(s string) bool {
	part := strings.Split(s, ":")
	if len(part) != 3 {
		return false
	}
	_, err := pack.ParseID(part[0])
	return err == nil && slices.Contains(lockPaths, part[1]) && hexSHA256.MatchString(part[2])
}
