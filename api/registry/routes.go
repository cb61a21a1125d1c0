// Package registry declares the endpoints of pack-registry: operators import, apply, roll back and uninstall packs; other services read files of
// installed packs, in whatever state these are.
package registry

import (
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

// Service is pack-registry's name.
const Service = roster.PackRegistry

// The endpoints.
var (
	Scan = route.New[struct{}, ScanResponse]("POST", "/api/packs/scan", Service, route.Slow, access.ScanPacks,
		"Find the packs in ecosystem/").
		Fails("busy", "prepared_folder_gone", "service_unavailable").
		Fails(pack.AdviceCodes()...)
	Import = route.New[ImportRequest, ImportResponse]("POST", "/api/packs/import", Service, route.Upload, access.ImportPacks,
		"Stage a pack for installation").
		Fails("archive_absolute_path", "archive_duplicate_name", "archive_empty", "archive_invalid", "archive_invalid_name", "archive_link",
			"archive_path_traversal", "archive_special_file", "archive_too_large", "archive_too_many_files", "archive_top_level",
			"invalid_descriptor", "invalid_form", "invalid_pack_id", "missing_file", "missing_path", "no_descriptor", "path_outside",
			"source_not_found", "source_unreadable", "unsupported_input").
		TakesForm(ImportForm{})
	Apply = route.New[ApplyRequest, ApplyResponse]("POST", "/api/packs/apply", Service, route.Slow, access.ApplyPacks,
		"Install what is staged").
		Fails("busy", "invalid_staging_id", "missing_staging_id", "pack_refused", "prepared_folder_gone", "staging_not_found",
			"unsupported_mode").
		Fails(pack.AdviceCodes()...)
	Uninstall = route.New[PackRequest, UninstallResponse]("DELETE", "/api/packs/{pack_id}", Service, route.Slow, access.UninstallPacks,
		"Remove a pack with its grants, handlers and containers").
		Fails("busy", "pack_barred", "pack_not_found", "prepared_folder_gone", "state_forbids", "uninstall_incomplete").
		Fails(pack.AdviceCodes()...)
	ListBackups = route.New[PackRequest, BackupsResponse]("GET", "/api/packs/{pack_id}/backups", Service, route.Slow, access.ReadPacks,
		"List a pack's backups").
		Fails("pack_not_found")
	RemoveBackup = route.New[BackupRequest, BackupResponse]("DELETE", "/api/packs/{pack_id}/backups/{backup}", Service, route.Slow, access.DiscardPacks,
		"Remove a backup of a pack").
		Fails("backup_not_found", "busy").
		Fails(pack.AdviceCodes()...)
	Rollback = route.New[RollbackRequest, RollbackResponse]("POST", "/api/packs/{pack_id}/rollback", Service, route.Slow, access.RollBackPacks,
		"Put a backup in the place of a pack").
		Fails("backup_not_found", "busy", "data_exists", "docker_unavailable", "missing_backup", "no_data_kept", "pack_refused",
			"pack_running", "prepared_folder_gone", "record_unreadable").
		Fails(pack.AdviceCodes()...)
	ListStagings = route.New[struct{}, []StagingSummary]("GET", "/api/packs/staging", Service, route.Slow, access.ReadPacks,
		"List what is staged")
	InspectStaging = route.New[StagingRequest, StagingResponse]("GET", "/api/packs/staging/{staging_id}", Service, route.Slow, access.ReadPacks,
		"Show what is staged under an id").
		Fails("staging_not_found")
	DiscardStaging = route.New[StagingRequest, DiscardResponse]("DELETE", "/api/packs/staging/{staging_id}", Service, route.Slow, access.DiscardPacks,
		"Discard what is staged under an id").
		Fails("busy", "prepared_folder_gone", "staging_not_found").
		Fails(pack.AdviceCodes()...)

	Select = route.Internal[SelectRequest, SelectResponse]("POST", "/internal/packs/select", Service,
		roster.Approval, roster.CapabilityBroker, roster.PipInstaller)
	Storage = diskusage.Endpoint(Service)

	// Routes are all of them.
	Routes = route.NewTable(Scan, Import, Apply, Uninstall, ListBackups, RemoveBackup, Rollback, ListStagings, InspectStaging, DiscardStaging,
		Select, Storage).
		Fail("folder_unusable", "invalid_text", "no_space", "store_unavailable")
)

// PackRequest names a pack.
type PackRequest struct {
	PackID string `json:"-" path:"pack_id"`
}

// Refusal says why a pack is not taken.
type Refusal struct {
	PackID string `json:"pack_id"`
	Error  string `json:"error"`
}

// ScanResponse lists the packs under ecosystem/, and the entries there that can't be read or are no packs.
type ScanResponse struct {
	Scanned  int       `json:"scanned"`
	Packs    []string  `json:"packs"`  // ids
	Errors   []Refusal `json:"errors"` // packs that can't be read
	Warnings []string  `json:"warnings"`
}

// ImportRequest has a folder or an archive on this machine imported.
type ImportRequest struct {
	Path  string `json:"path" api:"required"` // relative to the Rumi home, or absolute under one of RUMI_IMPORT_ROOTS
	Notes string `json:"notes"`
}

// ImportForm has an archive imported that comes with the request.
type ImportForm struct {
	File  route.File `json:"file" api:"required"` // a .zip or .rumipack, at most 500 MiB
	Notes string     `json:"notes"`
}

// ImportResponse is a staging: imported, not yet applied.
type ImportResponse struct {
	Success         bool       `json:"success"`
	StagingID       string     `json:"staging_id"`
	StagingDir      string     `json:"staging_dir"` // relative to the Rumi home
	InputType       string     `json:"input_type"`
	SourcePath      string     `json:"source_path"`
	DetectedPackIDs []string   `json:"detected_pack_ids"`
	IsMultiPack     bool       `json:"is_multi_pack"`
	Meta            ImportMeta `json:"meta"`
}

// ImportMeta is the record of an import.
type ImportMeta struct {
	CreatedAt time.Time      `json:"created_at"`
	ExpiresAt time.Time      `json:"expires_at"`
	Actor     string         `json:"actor"`
	Notes     string         `json:"notes"`
	Packs     []ImportedPack `json:"packs"`
	Warnings  []string       `json:"warnings,omitzero"` // what will keep packs from being approved or doing what is meant, and what was left out
}

// ImportedPack is a pack in a staging.
type ImportedPack struct {
	PackID       string `json:"pack_id"` // as its descriptor declares it
	PackIdentity string `json:"pack_identity"`
	Version      string `json:"version"`
}

// ApplyRequest has the packs of a staging installed: all of them or none.
type ApplyRequest struct {
	StagingID string `json:"staging_id" api:"required,pattern=^[0-9a-f]{16}$"`
	Mode      string `json:"mode" api:"enum=|replace"` // "replace", or "" for the same
}

// ApplyResponse is the data of a success, and of the failure "pack_refused", too.
type ApplyResponse struct {
	Success        bool              `json:"success"`
	AppliedPackIDs []string          `json:"applied_pack_ids"`
	BackupPaths    map[string]string `json:"backup_paths"` // of the packs that were replaced, by id; relative to the Rumi home
	Errors         []Refusal         `json:"errors"`
	Warnings       []string          `json:"warnings,omitzero"`
}

// UninstallResponse is the data of a success, and of a failure that left the uninstall incomplete, too.
type UninstallResponse struct {
	Success  bool           `json:"success"`
	PackID   string         `json:"pack_id"`
	Steps    UninstallSteps `json:"steps"`
	Errors   []string       `json:"errors"`
	Backup   string         `json:"backup_path,omitzero"` // relative to the Rumi home
	DataPath string         `json:"data_path,omitzero"`   // of what the pack kept in /data, relative to the Rumi home
	Warnings []string       `json:"warnings,omitzero"`
}

// UninstallSteps says which parts are done, now or before.
type UninstallSteps struct {
	ContainerStop   bool `json:"container_stop"`
	ContainerRemove bool `json:"container_remove"`
	ApprovalRemove  bool `json:"approval_remove"`
	PrivilegeRevoke bool `json:"privilege_revoke"` // network and capability grants, trust, handlers, environments, sockets
	FilesRemove     bool `json:"files_remove"`
}

// BackupsResponse lists the backups of a pack.
type BackupsResponse struct {
	PackID  string   `json:"pack_id"`
	Backups []Backup `json:"backups"` // the newest first
}

// Backup is a pack as it was before it was replaced or uninstalled.
type Backup struct {
	Backup       string    `json:"backup"` // its name, for a rollback
	CreatedAt    time.Time `json:"created_at"`
	Version      string    `json:"version"`
	PackIdentity string    `json:"pack_identity"`
	Reason       string    `json:"reason"` // apply, uninstall or rollback
	Path         string    `json:"path"`   // relative to the Rumi home
	Bytes        int64     `json:"bytes"`
	Error        string    `json:"error,omitzero"` // why version and identity are not known
}

// BackupRequest names a backup.
type BackupRequest struct {
	PackID string `json:"-" path:"pack_id"`
	Backup string `json:"-" path:"backup"`
}

// BackupResponse names the backup that was removed.
type BackupResponse struct {
	Success bool   `json:"success"`
	PackID  string `json:"pack_id"`
	Backup  string `json:"backup"`
}

// RollbackRequest has a backup installed.
type RollbackRequest struct {
	PackID string `json:"-" path:"pack_id"`
	Backup string `json:"backup" api:"required"` // its name
	Data   bool   `json:"data"`                  // also put back what the pack kept in /data when it was last uninstalled
}

// RollbackResponse says what is installed now.
type RollbackResponse struct {
	Success    bool     `json:"success"`
	PackID     string   `json:"pack_id"`
	Backup     string   `json:"backup"`             // what is installed now
	Version    string   `json:"version"`            // of it
	BackupPath *string  `json:"backup_path"`        // of what was installed before, relative to the Rumi home; null where nothing was
	DataPath   string   `json:"data_path,omitzero"` // where the data lay that was put back, relative to the Rumi home; only where it was asked for
	Warnings   []string `json:"warnings,omitzero"`
}

// StagingRequest names a staging.
type StagingRequest struct {
	StagingID string `json:"-" path:"staging_id"`
}

// StagingSummary is a staging in a list.
type StagingSummary struct {
	StagingID       string    `json:"staging_id"`
	StagingDir      string    `json:"staging_dir"` // relative to the Rumi home
	CreatedAt       time.Time `json:"created_at"`
	ExpiresAt       time.Time `json:"expires_at"`
	InputType       string    `json:"input_type"`
	SourcePath      string    `json:"source_path"`
	DetectedPackIDs []string  `json:"detected_pack_ids"`
	IsMultiPack     bool      `json:"is_multi_pack"`
	Notes           string    `json:"notes"`
	Actor           string    `json:"actor"`
	Files           int       `json:"files"`
	Bytes           int64     `json:"bytes"`             // of the files
	Warnings        []string  `json:"warnings,omitzero"` // what the import left out
	Error           string    `json:"error,omitzero"`    // why its packs are not known; discard it and import them again
}

// StagingResponse is a staging with its packs.
type StagingResponse struct {
	StagingSummary
	Packs []StagedPack `json:"packs"`
}

// StagedPack is a pack in a staging.
type StagedPack struct {
	PackID     string          `json:"pack_id"` // as detected_pack_ids has it
	Descriptor pack.Descriptor `json:"descriptor"`
	Files      []StagedFile    `json:"files"`
	Apply      Outcome         `json:"apply"`
	Warnings   []string        `json:"warnings,omitzero"` // what will keep it from being approved or doing what is meant
}

// StagedFile is a file of a staged pack.
type StagedFile struct {
	Path string `json:"path"` // relative to the pack's folder
	Size int64  `json:"size"` // in bytes
	Mode string `json:"mode"` // octal, "0644"
}

// Outcome says what an apply of the staging would do now.
type Outcome struct {
	Action   string `json:"action" api:"enum=new|replace|refuse"` // "new", "replace" or "refuse"
	Version  string `json:"version,omitzero"`                     // of the pack that would be replaced
	Identity string `json:"identity,omitzero"`                    // of the pack that would be replaced
	Error    string `json:"error,omitzero"`                       // why it would be refused
}

// DiscardResponse names the staging that was discarded.
type DiscardResponse struct {
	Success   bool   `json:"success"`
	StagingID string `json:"staging_id"`
}

// Bounds of Select, in bytes.
const (
	MaxFile  = 1 << 20  // of a file; a larger one has an error instead of a content
	MaxTotal = 32 << 20 // of all contents; what would go beyond has an error instead
)

// SelectRequest asks for files of every installed pack.
type SelectRequest struct {
	Patterns []string `json:"patterns"` // of path.Match, relative to the pack's folder: "backend/requirements.lock"
}

// SelectResponse lists every installed pack by id, also those without a file that matches.
type SelectResponse struct {
	Packs []Pack `json:"packs"`
}

// Pack is an installed pack as it is on the disk now, approved or not.
type Pack struct {
	PackID string `json:"pack_id"`
	Base   string `json:"base"`           // the folder of ecosystem.json in the pack: "" or "backend"
	Files  []File `json:"files"`          // sorted by path
	Error  string `json:"error,omitzero"` // why the pack could not be read; then Files may lack some
}

// File is a regular file that matched.
type File struct {
	Path    string `json:"path"`   // relative to the pack's folder
	Size    int64  `json:"size"`   // in bytes
	SHA256  string `json:"sha256"` // in hexadecimal, of Content
	Content []byte `json:"content"`
	Error   string `json:"error,omitzero"` // why there is no content: a link, too large, unreadable
}
