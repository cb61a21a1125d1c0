// Package approval declares the endpoints of the service approval: operators review, approve and reject packs; pack-registry has packs read again
// and forgotten; others fetch approved trees. Gates are followed with libs/gate.
package approval

import (
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/api/review"
	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

// Service is approval's name.
const Service = roster.Approval

// The public endpoints.
var (
	List = route.New[struct{}, []Listed]("GET", "/api/packs", Service, route.Quick, access.ReadPacks,
		"List the packs")
	ListPending = route.New[struct{}, []string]("GET", "/api/packs/pending", Service, route.Quick, access.ReadPacks,
		"List the packs that wait for a decision") // ids of packs that a person has to decide about
	Status = route.New[PackRequest, StatusResponse]("GET", "/api/packs/{pack_id}/status", Service, route.Quick, access.ReadPacks,
		"Show a pack's state and history").
		Fails("pack_not_found", "tree_not_found")
	Review = route.New[ReviewRequest, review.Review]("GET", "/api/packs/{pack_id}/review", Service, route.Slow, access.ReadPacks,
		"Show what an approval would allow").
		Fails("busy", "pack_changing", "pack_folder_gone", "pack_not_found", "pack_refused", "pack_unreadable", "tree_not_found",
			"uninstall_incomplete")
	ReviewFile = route.New[ReviewFileRequest, review.Excerpt]("GET", "/api/packs/{pack_id}/review/file", Service, route.Slow, access.ReadPacks,
		"Show a file of a pack, or what changed in it").
		Fails("busy", "digest_mismatch", "file_not_found", "invalid_digest", "missing_path", "never_approved", "not_a_file",
			"pack_changing", "pack_folder_gone", "pack_not_found", "pack_refused", "pack_unreadable", "tree_not_found",
			"uninstall_incomplete")
	Approve = route.New[ApproveRequest, Decision]("POST", "/api/packs/{pack_id}/approve", Service, route.Slow, access.ApprovePacks,
		"Approve a pack's files as they are now").
		Fails("digest_mismatch", "invalid_digest", "other_person_required", "pack_changing", "pack_folder_gone", "pack_invalid", "pack_not_found",
			"pack_refused", "pack_unreadable", "person_required", "request_lapsed", "state_forbids", "uninstall_incomplete").
		OrWaits()
	Reject = route.New[RejectRequest, Decision]("POST", "/api/packs/{pack_id}/reject", Service, route.Slow, access.RejectPacks,
		"Reject a pack").
		Fails("pack_not_found", "state_forbids", "uninstall_incomplete")
)

// The endpoints of other services.
var (
	Overview    = route.Internal[OverviewRequest, []Summary]("GET", "/internal/packs/overview", Service, roster.Gateway)
	Refresh     = route.Internal[RefreshRequest, struct{}]("POST", "/internal/packs/refresh", Service, roster.PackRegistry)
	Retire      = route.Internal[RetireRequest, RetireResponse]("PUT", "/internal/packs/{pack_id}/retired", Service, roster.PackRegistry)
	ListRetired = route.Internal[struct{}, RetiredResponse]("GET", "/internal/packs/retired", Service, roster.PackRegistry)
	WasApproved = route.Internal[PackRequest, ApprovedResponse]("GET", "/internal/packs/{pack_id}/approved", Service, roster.PackRegistry)
	Remove      = route.Internal[PackRequest, RemoveResponse]("DELETE", "/internal/packs/{pack_id}", Service, roster.PackRegistry)
	SetRunning  = route.Internal[RunningRequest, struct{}]("PUT", "/internal/packs/{pack_id}/running", Service, roster.CapabilityBroker)
	// GetTree is answered with a tar archive, as tree.Send writes it.
	GetTree        = route.Internal[TreeRequest, route.Stream]("GET", "/internal/trees/{digest}", Service, roster.CapabilityBroker, roster.PipInstaller)
	RefreshPending = route.Internal[struct{}, struct{}]("POST", "/internal/pending/refresh", Service, roster.CapabilityBroker, roster.PipInstaller)
	Storage        = diskusage.Endpoint(Service)
)

// Routes are all endpoints, those of libs/gate too.
var Routes = append(route.NewTable(List, ListPending, Status, Review, ReviewFile, Approve, Reject,
	Overview, Refresh, Retire, ListRetired, WasApproved, Remove, SetRunning, GetTree, RefreshPending, Storage).
	Fail("invalid_text", "no_space", "store_unavailable"), gate.Table...)

// PackRequest names a pack.
type PackRequest struct {
	PackID string `json:"-" path:"pack_id"`
}

// Requested lists the secrets, domains and ports that a pack's descriptor asks for.
type Requested struct {
	Secrets []string `json:"secrets"`
	Domains []string `json:"allowed_domains"`
	Ports   []uint16 `json:"allowed_ports"`
}

// Listed is a pack in the list.
type Listed struct {
	PackID       string      `json:"pack_id"`
	Status       pack.Status `json:"status"`
	MayRun       bool        `json:"may_run"` // approved, and so is every pack above it
	PackIdentity string      `json:"pack_identity"`
	Version      string      `json:"version"`
	Description  string      `json:"description"`
	CreatedAt    time.Time   `json:"created_at"`
	ApprovedAt   *time.Time  `json:"approved_at"` // null before the first approval
	Digest       *string     `json:"digest"`      // of the approved tree; null before the first approval
	Error        *string     `json:"error"`
	Missing      bool        `json:"missing"` // it has no folder

	Confirmation *confirm.Confirmation `json:"confirmation,omitzero"` // an approval that waits for another person
}

// StatusResponse is a pack with its files and its history.
type StatusResponse struct {
	PackID   string      `json:"pack_id"`
	Status   pack.Status `json:"status"`
	Approval PackDetails `json:"approval"`
}

// PackDetails is all that approval keeps of a pack.
type PackDetails struct {
	PackID         string      `json:"pack_id"`
	Status         pack.Status `json:"status"`
	MayRun         bool        `json:"may_run"`
	CreatedAt      time.Time   `json:"created_at"`
	ApprovedAt     *time.Time  `json:"approved_at"`
	Digest         *string     `json:"digest"`
	FileHashes     FileHashes  `json:"file_hashes"` // of the approved tree
	Requested      Requested   `json:"permissions_requested"`
	Rejection      *string     `json:"rejection_reason"`
	LastError      *string     `json:"last_error"`
	Missing        bool        `json:"missing"`
	Version        string      `json:"version"`
	VersionHistory []Event     `json:"version_history"`

	RequestedBy  string                `json:"requested_by,omitzero"` // who asked for the approval that another person confirmed
	Confirmation *confirm.Confirmation `json:"confirmation,omitzero"` // an approval that waits for another person
}

// Event is an entry of a pack's history.
type Event struct {
	Version    string     `json:"version"`
	Timestamp  time.Time  `json:"timestamp"`
	Action     string     `json:"action"` // approved, rejected, modified, …
	Actor      string     `json:"actor"`  // of an approval that took two persons, who confirmed it
	Digest     *string    `json:"digest"` // of the tree that an approval, or a request for one, was about
	Reason     *string    `json:"reason"`
	FileHashes FileHashes `json:"file_hashes"` // of the approved tree

	RequestedBy string `json:"requested_by,omitzero"` // who asked for an approval that took two persons
}

// FileHashes maps the path of every file of a tree to "sha256:<hex>". A client reads ByPath. The server sets Each instead, which
// yields them while the answer is written: a history names many trees, and all their files at once may not fit in memory.
type FileHashes struct {
	ByPath map[string]string
	Each   func(yield func(path, hash string) error) error
}

// MarshalJSONTo writes an object: what Each yields, or ByPath where Each is nil.
func (f FileHashes) MarshalJSONTo(out *jsontext.Encoder) error {
	if f.Each == nil {
		if f.ByPath == nil {
			f.ByPath = map[string]string{}
		}
		return json.MarshalEncode(out, f.ByPath)
	}
	if err := out.WriteToken(jsontext.BeginObject); err != nil {
		return err
	}
	err := f.Each(func(path, hash string) error {
		if err := out.WriteToken(jsontext.String(path)); err != nil {
			return err
		}
		return out.WriteToken(jsontext.String(hash))
	})
	if err != nil {
		return err
	}
	return out.WriteToken(jsontext.EndObject)
}

// UnmarshalJSONFrom reads an object into ByPath.
func (f *FileHashes) UnmarshalJSONFrom(in *jsontext.Decoder) error {
	return json.UnmarshalDecode(in, &f.ByPath)
}

// ReviewRequest asks what is to be approved.
type ReviewRequest struct {
	PackID   string `json:"-" path:"pack_id"`
	Warnings string `json:"-" query:"warnings"` // the one kind that is listed, each by itself; "" for all
}

// ReviewFileRequest asks for a part of a file.
type ReviewFileRequest struct {
	PackID string `json:"-" path:"pack_id"`
	Path   string `json:"-" query:"path" api:"required"`                              // in the pack's folder
	Tree   string `json:"-" query:"tree" api:"enum=current|approved,default=current"` // current, the default, or approved
	Digest string `json:"-" query:"digest"`                                           // what that tree's must be; "" for any
	Offset int64  `json:"-" query:"offset" api:"min=0,default=0"`                     // in bytes
	Limit  int64  `json:"-" query:"limit" api:"min=0,max=1048576,default=65536"`      // in bytes; 0 for the default, 64 KiB
}

// ApproveRequest approves a pack.
type ApproveRequest struct {
	PackID string `json:"-" path:"pack_id"`
	// Digest is the digest of the tree that was reviewed, a string. Without the field, the tree that is installed now is approved. The
	// field is raw JSON, because null and "" must not count as absent: they are mistakes of a caller that wanted to bind its decision.
	Digest jsontext.Value `json:"digest,omitzero" api:"type=string,pattern=^sha256:[0-9a-f]{64}$"`
}

// RejectRequest rejects a pack.
type RejectRequest struct {
	PackID string `json:"-" path:"pack_id"`
	Reason string `json:"reason"` // "" for "User rejected"
}

// Decision is the answer to an approval or a rejection: the pack and its new status. Its HTTP status is 202 where an approval waits for
// another person: then Success is false, and the status is the one from before.
type Decision struct {
	Success bool        `json:"success"` // it was carried out
	PackID  string      `json:"pack_id"`
	Status  pack.Status `json:"status"`
	Digest  *string     `json:"digest,omitzero"` // that is approved
	Reason  *string     `json:"reason,omitzero"` // of a rejection

	RequestedBy  string                `json:"requested_by,omitzero"` // who asked for the approval that another person has confirmed
	Confirmation *confirm.Confirmation `json:"confirmation,omitzero"` // an approval that waits for another person
}

// StatusCode is the answer's HTTP status.
func (d Decision) StatusCode() int { return d.Confirmation.StatusCode() }

// OverviewRequest may name one pack.
type OverviewRequest struct {
	PackID string `json:"-" query:"pack_id"` // "" for all
}

// Summary is a pack without its files, for the gateway's lists.
type Summary struct {
	PackID      string      `json:"pack_id"`
	Status      pack.Status `json:"status"`
	Undecided   bool        `json:"undecided"` // a person has to approve or reject it
	MayRun      bool        `json:"may_run"`
	Identity    string      `json:"pack_identity"`
	Version     string      `json:"version"`
	Description string      `json:"description"`
	CreatedAt   time.Time   `json:"created_at"`
	UpdatedAt   time.Time   `json:"updated_at"`
	ApprovedAt  *time.Time  `json:"approved_at"`
	Digest      *string     `json:"digest"`
	Error       *string     `json:"error"`
	Requested   Requested   `json:"permissions_requested"`

	Confirmation *confirm.Confirmation `json:"confirmation,omitzero"` // an approval that waits for another person
}

// RefreshRequest names packs to read again; none means all.
type RefreshRequest struct {
	PackIDs  []string `json:"pack_ids"`
	Replaced bool     `json:"replaced,omitzero"` // the folders of the named packs have just been replaced
}

// RetireRequest begins a pack's uninstall.
type RetireRequest struct {
	PackID    string `json:"-" path:"pack_id"`
	Installed bool   `json:"installed"` // it has files, so it is to be known
}

// RetireResponse says whether there is such a pack.
type RetireResponse struct {
	Known bool `json:"known"`
}

// RetiredResponse lists the packs whose uninstall has begun and not ended.
type RetiredResponse struct {
	PackIDs []string `json:"pack_ids"`
}

// ApprovedResponse says whether a pack was ever approved since it became known.
type ApprovedResponse struct {
	Approved bool `json:"approved"`
}

// RemoveResponse says whether there was a record to remove.
type RemoveResponse struct {
	Removed bool `json:"removed"`
}

// RunningRequest says whether a pack's container runs.
type RunningRequest struct {
	PackID  string `json:"-" path:"pack_id"`
	Running bool   `json:"running"`
}

// TreeRequest names an approved tree.
type TreeRequest struct {
	Digest string `json:"-" path:"digest"` // "sha256:<hex>"
}
