// Package pip declares the endpoints of pip-installer: operators decide about requirements.lock files, the capability broker fetches what is
// installed, pack-registry has a pack forgotten, approval counts.
package pip

import (
	"slices"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/candidate/wire"
	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/policy/policycheck"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

// Service is pip-installer's name.
const Service = roster.PipInstaller

// The endpoints.
var (
	Candidates = wire.NewEndpoints[LockItem]("/api/pip", Service, "lock files", wire.Verbs{
		Read: access.ReadPip, Scan: access.ScanPip, Reject: access.RejectPip, Unblock: access.UnblockPip,
	})
	Approve = route.New[ApproveRequest, ApproveResponse]("POST", "/api/pip/requests/{candidate_key}/approve", Service, route.Install, access.ApprovePip,
		"Install the packages of a lock file").
		Fails("candidate_blocked", "candidate_changed", "candidate_installed", "candidate_not_found", "docker_unavailable",
			"environment_refused", "hash_mismatch", "image_missing", "index_not_allowed", "index_unreachable", "install_failed",
			"invalid_index_url", "invalid_lock", "other_person_required", "pack_not_approved", "person_required", "policy_violation", "request_differs",
			"request_lapsed", "runtime_unknown", "value_too_long").
		OrWaits()

	GetEnvironment = route.Internal[PackRequest, Environment]("GET", "/internal/environments/{pack_id}", Service, roster.CapabilityBroker)
	// GetTree is answered with a tar archive, as tree.Send writes it.
	GetTree = route.Internal[TreeRequest, route.Stream]("GET", "/internal/environments/{pack_id}/tree", Service, roster.CapabilityBroker)
	Remove  = route.Internal[PackRequest, RemoveResponse]("DELETE", "/internal/packs/{pack_id}", Service, roster.PackRegistry)
	Storage = diskusage.Endpoint(Service)

	CheckPolicy = policycheck.Endpoint(Service)

	// Routes are all of them.
	Routes = slices.Concat(Candidates.Table(), route.NewTable(Approve, GetEnvironment, GetTree, Remove, Storage, CheckPolicy)).
		Fail("invalid_text", "no_space", "store_unavailable")
)

// LockItem is a requirements.lock in the list of candidates.
type LockItem struct {
	Key           string        `json:"candidate_key"` // pack_id:relpath:sha256
	PackID        string        `json:"pack_id"`
	Relpath       string        `json:"requirements_relpath"` // in the pack's folder
	SHA256        string        `json:"requirements_sha256"`  // of the file, in hexadecimal
	Requirements  []Requirement `json:"requirements"`         // what the lock lists, for the reviewer
	Status        string        `json:"status"`
	CreatedAt     time.Time     `json:"created_at"`
	UpdatedAt     time.Time     `json:"updated_at"`
	RejectCount   int           `json:"reject_count"`
	CooldownUntil *time.Time    `json:"cooldown_until"` // null unless rejected
	LastError     *string       `json:"last_error"`     // why it is failed
	AllowSdist    bool          `json:"allow_sdist"`
	IndexURL      *string       `json:"index_url"` // null for the default
	Notes         string        `json:"notes"`
	Actor         string        `json:"actor"` // of the last decision
	RejectReason  string        `json:"reject_reason"`

	OverPolicy *policy.Violation `json:"over_policy"` // the rule of the policy that its approval breaks: what is installed stays

	RequestedBy  string                `json:"requested_by,omitzero"` // who asked for the approval that another person confirmed
	Confirmation *confirm.Confirmation `json:"confirmation,omitzero"` // an approval that waits for another person
}

// Requirement is one line of a lock: exactly one version of one distribution, both as they are written there.
type Requirement struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	Extras  []string `json:"extras,omitempty"`
}

// ApproveRequest has a lock installed.
type ApproveRequest struct {
	Key        string `json:"-" path:"candidate_key"`
	AllowSdist bool   `json:"allow_sdist"` // distributions that have to be built may be
	IndexURL   string `json:"index_url"`   // one of RUMI_PIP_INDEX_URLS; "" for the first of them
	Notes      string `json:"notes"`       // at most 4096 bytes
}

// ApproveResponse says what is installed. Its HTTP status is 202 where the approval waits for another person: then Success is false, the
// status is the one from before, and nothing is installed.
type ApproveResponse struct {
	Success      bool      `json:"success"` // it was carried out
	Key          string    `json:"candidate_key"`
	PackID       string    `json:"pack_id"`
	Status       string    `json:"status"`                      // installed
	SitePackages string    `json:"site_packages_path,omitzero"` // relative to the Rumi home
	Packages     []Package `json:"packages,omitzero"`

	RequestedBy  string                `json:"requested_by,omitzero"` // who asked for the approval that another person has confirmed
	Confirmation *confirm.Confirmation `json:"confirmation,omitzero"` // an approval that waits for another person
}

// StatusCode is the answer's HTTP status.
func (r ApproveResponse) StatusCode() int { return r.Confirmation.StatusCode() }

// Package is a Python distribution that is installed.
type Package struct {
	Name    string `json:"name"`    // as its own metadata spells it
	Version string `json:"version"` // likewise
}

// PackRequest names a pack.
type PackRequest struct {
	PackID string `json:"-" path:"pack_id"`
}

// Environment is the folder of Python packages that were installed for a pack, for its sys.path.
type Environment struct {
	Digest   string    `json:"digest"` // of the folder's tree, "sha256:<hex>"
	Packages []Package `json:"packages"`
	// CandidateKey is the lock that it was installed of: pack_id:relpath:sha256.
	CandidateKey string `json:"candidate_key,omitzero"`
}

// TreeRequest names an environment.
type TreeRequest struct {
	PackID string `json:"-" path:"pack_id"`
	Digest string `json:"-" query:"digest"` // of the environment that is wanted; "" for the one that is installed
}

// RemoveResponse says whether there was anything of the pack.
type RemoveResponse struct {
	Removed bool `json:"removed"`
}
