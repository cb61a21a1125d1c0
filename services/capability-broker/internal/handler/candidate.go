// Package handler takes packs' capability handlers from found to trusted: scan, approval, the read-only copy that runs,
// and the proof before each start that the copy is what was trusted.
package handler

import (
	"path"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/pack"
)

// foldersDir is where a pack has its handlers, one folder a slug, relative to the folder of its ecosystem.json.
const foldersDir = "share/capability_handlers"

// Candidate is what a scan saw of a handler, and what approval added.
type Candidate struct {
	PackID       string `json:"pack_id"`
	Slug         string `json:"slug"`
	HandlerID    string `json:"handler_id"`
	PermissionID string `json:"permission_id"`
	Entrypoint   string `json:"entrypoint"`
	SourceDir    string `json:"source_dir"` // relative to the pack's folder
	ScriptSHA256 string `json:"handler_py_sha256"`
	Description  string `json:"description"`
	Risk         string `json:"risk"`

	ConfigSchema jsontext.Value `json:"config_schema,omitzero"`

	FolderDigest string `json:"folder_digest,omitzero"` // set by approval
	Notes        string `json:"notes,omitzero"`         // of whoever approved

	warnings []string // about its handler.json, seen by a scan

	outdated bool // seen by a scan: something else is trusted under its key than what its pack was approved with since
}

// Key is the candidate's key.
func (c Candidate) Key() string {
	return strings.Join([]string{c.PackID, c.Slug, c.HandlerID, c.ScriptSHA256}, ":")
}

var hexSHA256 = regexp.MustCompile(`\A[0-9a-f]{64}\z`)

// ValidKey says whether s may be the key of a candidate.
func ValidKey(s string) bool {
	part := strings.Split(s, ":")
	if len(part) != 4 {
		return false
	}
	_, err := pack.ParseID(part[0])
	return err == nil && slugPattern.MatchString(part[1]) && handlerIDPattern.MatchString(part[2]) && hexSHA256.MatchString(part[3])
}

// sourceDir is a handler's folder relative to its pack's, where base is that of the ecosystem.json.
func sourceDir(base, slug string) string { return path.Join(base, foldersDir, slug) }

// trust is what an approved candidate is trusted for.
func (c Candidate) trust() Trust {
	return Trust{
		CandidateKey: c.Key(), PackID: c.PackID, Slug: c.Slug, HandlerID: c.HandlerID, PermissionID: c.PermissionID,
		Entrypoint: c.Entrypoint, ScriptSHA256: c.ScriptSHA256, FolderDigest: c.FolderDigest,
		ConfigSchema: c.ConfigSchema,
	}
}
