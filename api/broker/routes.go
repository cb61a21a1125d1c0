// Package broker declares the endpoints of the capability broker: operators decide about handlers and capability grants, run packs' containers and
// read their logs; pack-registry has a pack forgotten; approval counts.
package broker

import (
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/candidate/wire"
	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/policy/policycheck"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

// Service is the broker's name.
const Service = roster.CapabilityBroker

// The endpoints of handlers and grants.
var (
	Candidates = wire.NewEndpoints[HandlerItem]("/api/capability", Service, "handlers", wire.Verbs{
		Read: access.ReadCapabilities, Scan: access.ScanCapabilities, Reject: access.RejectCapabilities, Unblock: access.UnblockCapabilities,
	})
	Approve = route.New[ApproveRequest, ApproveResponse]("POST", "/api/capability/requests/{candidate_key}/approve", Service, route.Slow, access.ApproveCapabilities,
		"Trust a handler").
		Fails("candidate_blocked", "candidate_changed", "candidate_installed", "candidate_not_found", "grant_too_large", "hash_mismatch",
			"other_person_required", "pack_not_approved", "person_required", "request_lapsed", "value_too_long").
		OrWaits()
	Withdraw = route.New[WithdrawRequest, WithdrawResponse]("POST", "/api/capability/requests/{candidate_key}/revoke", Service, route.Quick, access.WithdrawCapabilities,
		"Withdraw the trust in a handler").
		Fails("candidate_not_found", "candidate_not_installed", "value_too_long")
	ListGrants = route.New[GrantsRequest, GrantsResponse]("GET", "/api/capability/grants", Service, route.Quick, access.ReadCapabilities,
		"List the capability grants").
		Fails("invalid_principal_id")
	PostGrant = route.New[GrantRequest, GrantResponse]("POST", "/api/capability/grants/grant", Service, route.Quick, access.GrantCapabilities,
		"Grant a permission to a principal").
		Fails("docker_unavailable", "grant_too_large", "invalid_args_schema", "invalid_config", "invalid_expires_at", "invalid_grant",
			"invalid_handler", "invalid_limits", "invalid_max_uses", "invalid_mounts", "invalid_permission_id", "invalid_principal_id",
			"invalid_rate_limit", "missing_permission_id", "missing_principal_id", "pack_not_found", "policy_violation",
			"uninstall_incomplete", "unknown_permission_id")
	RevokeGrant = route.New[RevokeRequest, RevokeResponse]("POST", "/api/capability/grants/revoke", Service, route.Quick, access.RevokeCapabilities,
		"Revoke a permission of a principal").
		Fails("invalid_permission_id", "invalid_principal_id", "missing_permission_id", "missing_principal_id", "pack_not_found")

	ListHandlers = route.New[HandlersRequest, HandlersResponse]("GET", "/api/capability/handlers", Service, route.Quick, access.ReadCapabilities,
		"List the trusted handlers").
		Fails("invalid_pack_id")
	HandlerLogs = route.New[HandlerLogsRequest, HandlerLogsResponse]("GET", "/api/capability/handlers/{pack_id}/{slug}/logs", Service, route.Logs, access.ReadCapabilities,
		"Show or follow what a handler prints").
		Fails("container_not_found", "handler_not_found").
		Follows(HandlerLine{})
)

// The endpoints of containers.
var (
	DockerStatus = route.New[struct{}, DockerStatusResponse]("GET", "/api/docker/status", Service, route.Quick, access.ReadContainers,
		"Show the Docker engine and what weakens its isolation")
	ListContainers = route.New[struct{}, []Container]("GET", "/api/containers", Service, route.Quick, access.ReadContainers,
		"List the packs' containers").
		Fails("docker_unavailable", "record_unreadable")
	StartContainer = route.New[PackRequest, StartResponse]("POST", "/api/containers/{pack_id}/start", Service, route.Slow, access.StartContainers,
		"Start a pack's container").
		Fails("data_full", "docker_unavailable", "image_missing", "pack_not_approved", "pack_not_found", "pack_not_startable",
			"policy_violation", "record_unreadable", "runtime_unknown")
	StopContainer = route.New[PackRequest, StopResponse]("POST", "/api/containers/{pack_id}/stop", Service, route.Slow, access.StopContainers,
		"Stop a pack's container").
		Fails("docker_unavailable", "pack_not_found", "record_unreadable")
	DeleteContainer = route.New[PackRequest, DeleteResponse]("DELETE", "/api/containers/{pack_id}", Service, route.Slow, access.DeleteContainers,
		"Remove a pack's container").
		Fails("docker_unavailable", "pack_not_found", "record_unreadable")
	ContainerStats = route.New[PackRequest, StatsResponse]("GET", "/api/containers/{pack_id}/stats", Service, route.Quick, access.ReadContainers,
		"Show what a pack's container uses").
		Fails("container_not_found", "container_not_running", "docker_unavailable", "pack_not_found", "record_unreadable")
	ContainerLogs = route.New[LogsRequest, LogsResponse]("GET", "/api/containers/{pack_id}/logs", Service, route.Logs, access.ReadContainers,
		"Show or follow what a pack prints").
		Fails("container_not_found", "docker_unavailable", "pack_not_found", "record_unreadable", "run_not_found").
		Follows(Line{})
)

// The endpoints of other services.
var (
	Remove      = route.Internal[PackRequest, Removal]("DELETE", "/internal/packs/{pack_id}", Service, roster.PackRegistry)
	RestoreData = route.Internal[PackRequest, RestoredData]("POST", "/internal/packs/{pack_id}/data", Service, roster.PackRegistry)
	Storage     = diskusage.Endpoint(Service)
	CheckPolicy = policycheck.Endpoint(Service)
)

// Routes are all endpoints.
var Routes = slices.Concat(Candidates.Table(), route.NewTable(Approve, Withdraw, ListGrants, PostGrant, RevokeGrant, ListHandlers, HandlerLogs,
	DockerStatus, ListContainers, StartContainer, StopContainer, DeleteContainer, ContainerStats, ContainerLogs,
	Remove, RestoreData, Storage, CheckPolicy)).
	Fail("invalid_text", "no_space", "store_unavailable")

// PackRequest names a pack.
type PackRequest struct {
	PackID string `json:"-" path:"pack_id"`
}

// HandlerItem is a handler in the list of candidates.
type HandlerItem struct {
	Key           string           `json:"candidate_key"` // pack_id:slug:handler_id:sha256
	Status        string           `json:"status"`
	RejectCount   int              `json:"reject_count"`
	CooldownUntil *time.Time       `json:"cooldown_until"` // null unless rejected
	LastEventTS   time.Time        `json:"last_event_ts"`
	CreatedAt     time.Time        `json:"created_at"`
	Candidate     HandlerCandidate `json:"candidate"`
	InstalledTo   *string          `json:"installed_to"`      // null also for one that another version has replaced
	LastError     *string          `json:"last_error"`        // why it is failed
	Effects       []string         `json:"effects,omitempty"` // of one that waits: what approving it does to grants

	RequestedBy  string                `json:"requested_by,omitzero"` // who asked for the approval that another person confirmed
	Confirmation *confirm.Confirmation `json:"confirmation,omitzero"` // an approval that waits for another person
}

// HandlerCandidate is a handler as its pack ships it.
type HandlerCandidate struct {
	PackID       string `json:"pack_id"`
	Slug         string `json:"slug"`
	HandlerID    string `json:"handler_id"`
	PermissionID string `json:"permission_id"`
	Entrypoint   string `json:"entrypoint"`
	SourceDir    string `json:"source_dir"` // relative to the pack's folder
	ScriptSHA256 string `json:"handler_py_sha256"`
	Description  string `json:"description"`
	Risk         string `json:"risk"`

	ConfigSchema jsontext.Value `json:"config_schema,omitzero"` // JSON Schema that a grant's config must satisfy

	FolderDigest string `json:"folder_digest,omitzero"` // set by approval
	Notes        string `json:"notes,omitzero"`         // of the operator that approved
}

// ApproveRequest has a handler trusted and installed.
type ApproveRequest struct {
	Key   string `json:"-" path:"candidate_key"`
	Notes string `json:"notes"` // at most 4096 bytes
}

// ApproveResponse says what is trusted now. Its HTTP status is 202 where the approval waits for another person: then Success is false, the
// status is the one from before, and nothing is installed.
type ApproveResponse struct {
	Success     bool     `json:"success"`               // it was carried out
	Status      string   `json:"status"`                // installed
	InstalledTo string   `json:"installed_to,omitzero"` // relative to the Rumi home
	HandlerID   string   `json:"handler_id"`
	Permission  string   `json:"permission_id"`
	SHA256      string   `json:"sha256"`          // of its script
	Digest      string   `json:"digest,omitzero"` // of the whole folder
	Warnings    []string `json:"warnings"`        // what it did, or will do, to grants

	RequestedBy  string                `json:"requested_by,omitzero"` // who asked for the approval that another person has confirmed
	Confirmation *confirm.Confirmation `json:"confirmation,omitzero"` // an approval that waits for another person
}

// StatusCode is the answer's HTTP status.
func (r ApproveResponse) StatusCode() int { return r.Confirmation.StatusCode() }

// WithdrawRequest ends the trust in a handler.
type WithdrawRequest struct {
	Key    string `json:"-" path:"candidate_key"`
	Reason string `json:"reason"`
}

// WithdrawResponse is the candidate's new standing.
type WithdrawResponse struct {
	Success       bool       `json:"success"`
	Status        string     `json:"status"`
	RejectCount   int        `json:"reject_count"`
	CooldownUntil *time.Time `json:"cooldown_until"`
	Warnings      []string   `json:"warnings"` // which grants are refused now
}

// Terms narrow a grant beyond its config. What is absent narrows nothing.
type Terms struct {
	MaxUses    *int64         `json:"max_uses,omitzero"`    // calls that may ever start
	RateLimit  *int           `json:"rate_limit,omitzero"`  // calls in a minute
	ArgsSchema jsontext.Value `json:"args_schema,omitzero"` // JSON Schema that a call's args must satisfy
	Handler    *HandlerRef    `json:"handler,omitzero"`     // which one, where several serve the permission
	Limits     *Limits        `json:"limits,omitzero"`      // of the handler's containers
	Mounts     []Mount        `json:"mounts,omitzero"`      // what the handler's containers see of the host
}

// HandlerRef names a handler.
type HandlerRef struct {
	PackID string `json:"pack_id"`
	Slug   string `json:"slug"`
}

// Limits bound a container. What is absent is the broker's default.
type Limits struct {
	MemoryMB       *int64   `json:"memory_mb,omitzero"` // MiB
	CPUs           *float64 `json:"cpus,omitzero"`
	PIDs           *int64   `json:"pids,omitzero"`
	TimeoutSeconds *float64 `json:"timeout_seconds,omitzero"`
}

// Mount is a folder of the host that a container sees.
type Mount struct {
	Source   string `json:"source"`             // absolute, or relative to the folder that packs share
	Target   string `json:"target,omitzero"`    // absolute
	ReadOnly *bool  `json:"read_only,omitzero"` // absent means true
}

// GrantsRequest asks for grants.
type GrantsRequest struct {
	PrincipalID string `json:"-" query:"principal_id"` // "" for all
}

// GrantsResponse has grants by principal.
type GrantsResponse struct {
	Grants map[string]PrincipalGrants `json:"grants"`
	Count  int                        `json:"count"` // of principals
}

// PrincipalGrants are the grants of a principal, by permission.
type PrincipalGrants struct {
	Version     string           `json:"version"`
	PrincipalID string           `json:"principal_id"`
	Enabled     bool             `json:"enabled"` // any permission is
	GrantedAt   time.Time        `json:"granted_at"`
	UpdatedAt   time.Time        `json:"updated_at"`
	Permissions map[string]Grant `json:"permissions"`
}

// Grant is one permission of a principal.
type Grant struct {
	Enabled   bool           `json:"enabled"` // neither revoked nor expired nor suspended
	Config    jsontext.Value `json:"config"`
	ExpiresAt *time.Time     `json:"expires_at"` // null for never
	GrantedAt time.Time      `json:"granted_at"`
	UpdatedAt time.Time      `json:"updated_at"`
	GrantedBy string         `json:"granted_by"`
	Reason    string         `json:"reason,omitzero"` // why it allows nothing
	Terms

	GrantedRole string            `json:"granted_role"` // of the person who granted it; "" for a grant from before there were roles
	Suspended   *policy.Violation `json:"suspended"`    // the rule of the policy that it breaks; null where it breaks none

	Uses     *int64   `json:"uses,omitzero"` // calls that have started, of a grant with max_uses
	Warnings []string `json:"warnings"`      // as when it is granted
}

// GrantRequest grants a permission. It replaces the grant of this permission that the principal may have.
type GrantRequest struct {
	PrincipalID  string         `json:"principal_id" api:"required"`
	PermissionID string         `json:"permission_id" api:"required"`
	Config       jsontext.Value `json:"config" api:"type=object"` // an object, or absent
	ExpiresAt    *string        `json:"expires_at"`               // RFC 3339; null for never
	Terms
}

// GrantResponse is the grant.
type GrantResponse struct {
	Success      bool           `json:"success"`
	PrincipalID  string         `json:"principal_id"`
	PermissionID string         `json:"permission_id"`
	Granted      bool           `json:"granted"`
	Config       jsontext.Value `json:"config"`
	ExpiresAt    *time.Time     `json:"expires_at"`
	Warnings     []string       `json:"warnings"` // why calls will be refused as things are
	Terms
}

// RevokeRequest takes a grant back. It has the fields of a grant, since callers may send what they granted; only the names count.
type RevokeRequest struct {
	GrantRequest
	Reason string `json:"reason"`
}

// RevokeResponse says whether there was one.
type RevokeResponse struct {
	Success      bool   `json:"success"`
	PrincipalID  string `json:"principal_id"`
	PermissionID string `json:"permission_id"`
	Revoked      bool   `json:"revoked"`
}

// HandlersRequest asks for trusted handlers.
type HandlersRequest struct {
	PackID string `json:"-" query:"pack_id"` // "" for every pack
}

// HandlersResponse has them, by pack and slug.
type HandlersResponse struct {
	Handlers []Handler `json:"handlers"`
	Count    int       `json:"count"`
}

// Handler is a trusted handler.
type Handler struct {
	PackID       string    `json:"pack_id"`
	Slug         string    `json:"slug"`
	HandlerID    string    `json:"handler_id"`
	PermissionID string    `json:"permission_id"`
	Entrypoint   string    `json:"entrypoint"`
	CandidateKey string    `json:"candidate_key"`
	Digest       string    `json:"digest"` // of the whole folder
	InstalledAt  time.Time `json:"installed_at"`
	InstalledBy  string    `json:"installed_by"`
	InstalledTo  string    `json:"installed_to"`
}

// HandlerLogsRequest asks what a handler has printed.
type HandlerLogsRequest struct {
	PackID string `json:"-" path:"pack_id"`
	Slug   string `json:"-" path:"slug"`
	Tail   int    `json:"-" query:"tail" api:"min=1,max=10000,default=100"` // lines, 1 to 10,000; 100 where it is absent
	Follow bool   `json:"-" query:"follow" api:"default=false"`
}

// HandlerLogsResponse has the last lines.
type HandlerLogsResponse struct {
	PackID string        `json:"pack_id"`
	Slug   string        `json:"slug"`
	Lines  []HandlerLine `json:"lines"`
}

// HandlerLine is a line that a handler has printed.
type HandlerLine struct {
	TS        time.Time `json:"ts,omitzero"`                     // when it was read; absent in lines of earlier versions
	RequestID string    `json:"request_id"`                      // the id of the call during which the line was printed; "" for a line between calls
	Stream    string    `json:"stream" api:"enum=stdout|stderr"` // stdout or stderr
	Text      string    `json:"text"`
}

// DockerStatusResponse describes the Docker engine: versions, features, and warnings about both.
type DockerStatusResponse struct {
	Available  bool    `json:"available"`
	Required   bool    `json:"required"` // false in permissive mode
	Version    string  `json:"version"`
	APIVersion string  `json:"api_version"`
	OS         string  `json:"os"`
	Arch       string  `json:"arch"`
	Image      string  `json:"image"` // that packs run in
	Error      *string `json:"error"`

	Components     map[string]string `json:"components"`
	Kernel         string            `json:"kernel"`
	Runtimes       []string          `json:"runtimes"`
	DefaultRuntime string            `json:"default_runtime"`
	Runtime        string            `json:"runtime"` // that containers run in
	StorageDriver  string            `json:"storage_driver"`
	CgroupVersion  string            `json:"cgroup_version"`
	CgroupDriver   string            `json:"cgroup_driver"`
	Security       DockerSecurity    `json:"security"`
	LiveRestore    bool              `json:"live_restore"`
	Warnings       []DockerWarning   `json:"warnings"`
}

// DockerSecurity says which of the kernel's means the engine uses.
type DockerSecurity struct {
	Seccomp        bool `json:"seccomp"`
	AppArmor       bool `json:"apparmor"`
	SELinux        bool `json:"selinux"`
	UserNamespaces bool `json:"userns"`
	Rootless       bool `json:"rootless"`
}

// DockerWarning is something that weakens the isolation of containers.
type DockerWarning struct {
	Code         string   `json:"code"`
	Message      string   `json:"message"`
	CVE          string   `json:"cve,omitempty"`
	Component    string   `json:"component,omitempty"`
	Version      string   `json:"version,omitempty"`
	FixedIn      []string `json:"fixed_in,omitempty"`
	MayBePatched bool     `json:"may_be_patched,omitzero"`
}

// Container is the container of a pack.
type Container struct {
	PackID        string          `json:"pack_id"`
	ID            string          `json:"container_id"`
	Status        string          `json:"status"` // the engine's word: created, running, exited, …
	Image         string          `json:"image"`
	ImageID       string          `json:"image_id"`
	Digest        string          `json:"digest"` // of the tree that it runs
	CreatedAt     time.Time       `json:"created_at"`
	StartedAt     *time.Time      `json:"started_at"`
	FinishedAt    *time.Time      `json:"finished_at"` // of its last end, like the next three
	ExitCode      *int            `json:"exit_code"`   // null while it runs
	OOMKilled     bool            `json:"oom_killed"`
	Reason        string          `json:"reason"`
	RestartPolicy pack.Restart    `json:"restart_policy" api:"enum="`
	Restarts      int             `json:"restarts"`   // since it was started
	RestartAt     *time.Time      `json:"restart_at"` // when it is due to be started again
	LastExit      *LastExit       `json:"last_exit"`  // kept while it runs again
	Limits        *pack.Resources `json:"limits"`
	Warnings      []string        `json:"warnings"` // one for each resource of which the pack gets less than it asked for

	OverPolicy *policy.Violation `json:"over_policy"` // the rule of the policy that it breaks: it runs on, and is not started again
}

// LastExit is how a container's last run ended.
type LastExit struct {
	Code      int       `json:"code"`
	OOMKilled bool      `json:"oom_killed"`
	At        time.Time `json:"at"`
	Reason    string    `json:"reason"`
}

// StartResponse is the container that runs.
type StartResponse struct {
	Success bool   `json:"success"`
	PackID  string `json:"pack_id"`
	ID      string `json:"container_id"`
	Status  string `json:"status"` // running
	Digest  string `json:"digest"` // of the tree that it runs
	ImageID string `json:"image_id"`

	Warnings []string `json:"warnings"` // one for each resource of which the pack gets less than it asked for
}

// StopResponse says whether there was one that ran.
type StopResponse struct {
	Success bool   `json:"success"`
	PackID  string `json:"pack_id"`
	Stopped bool   `json:"stopped"`
}

// DeleteResponse says whether there was one.
type DeleteResponse struct {
	Success bool   `json:"success"`
	PackID  string `json:"pack_id"`
	Removed bool   `json:"removed"`
}

// StatsResponse is one reading of a container's use of processors, memory, processes and disk.
type StatsResponse struct {
	PackID        string      `json:"pack_id"`
	ID            string      `json:"container_id"`
	TS            time.Time   `json:"ts"`
	StartedAt     time.Time   `json:"started_at"`
	UptimeSeconds float64     `json:"uptime_seconds"`
	CPU           CPUStats    `json:"cpu"`
	Memory        MemoryStats `json:"memory"`
	PIDs          PIDStats    `json:"pids"`
	BlockIO       BlockStats  `json:"block_io"`
	Data          *DataStats  `json:"data"`
}

// CPUStats counts since the container was started.
type CPUStats struct {
	UsageSeconds     float64 `json:"usage_seconds"`
	ThrottledSeconds float64 `json:"throttled_seconds"`
}

// MemoryStats are of now, but for the peak.
type MemoryStats struct {
	UsageBytes int64  `json:"usage_bytes"`
	LimitBytes int64  `json:"limit_bytes"`
	PeakBytes  *int64 `json:"peak_bytes"` // null where the kernel doesn't count it
}

// PIDStats are processes and threads.
type PIDStats struct {
	Current int64 `json:"current"`
	Limit   int64 `json:"limit"`
}

// BlockStats counts since the container was started.
type BlockStats struct {
	ReadBytes    int64 `json:"read_bytes"`
	WrittenBytes int64 `json:"written_bytes"`
}

// DataStats is the size of a pack's folder /data.
type DataStats struct {
	UsedBytes  int64  `json:"used_bytes"`
	Files      int64  `json:"files"`
	LimitBytes *int64 `json:"limit_bytes"` // null for none
}

// LogsRequest asks what a pack has printed. Follow, Run and Since exclude each other.
type LogsRequest struct {
	PackID string `json:"-" path:"pack_id"`
	Tail   int    `json:"-" query:"tail" api:"min=1,max=10000,default=100"` // lines, 1 to 10,000; 100 where it is absent
	Follow bool   `json:"-" query:"follow" api:"default=false"`
	Run    int    `json:"-" query:"run" api:"max=0"` // 0 for the current run, -1 for the one before, …
	Since  string `json:"-" query:"since"`           // RFC 3339
}

// LogsResponse has the last lines.
type LogsResponse struct {
	PackID string `json:"pack_id"`
	Lines  []Line `json:"lines"`
}

// Line is a line that a pack has printed, or the first line of a run, which the broker writes.
type Line struct {
	TS     time.Time `json:"ts"`
	Stream string    `json:"stream" api:"enum=stdout|stderr|run"` // stdout or stderr; run for the first line of a run
	Text   string    `json:"text"`
}

// Removal says what the broker had of a pack that is being uninstalled. A second removal of the same pack finds
// nothing and says false everywhere.
type Removal struct {
	ContainerStopped bool `json:"container_stopped"` // a container was running
	ContainerRemoved bool `json:"container_removed"` // the pack had a container, running or not
	GrantsRemoved    bool `json:"grants_removed"`    // the pack had a grant, a trust or an installed handler

	// DataPath is where what the pack kept in /data was put aside, relative to the Rumi home: "user_data/packs/.uninstalled/x/…"; ""
	// where it kept nothing.
	DataPath string `json:"data_path,omitzero"`
}

// RestoredData says from where the data of a pack was put back.
type RestoredData struct {
	Path string `json:"path"` // relative to the Rumi home; nothing is there any more
}
