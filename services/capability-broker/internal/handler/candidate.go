// Package handler takes packs' capability handlers from found to trusted: scan, approval, the read-only copy that runs, and the check before
// each start that the copy is what was trusted.
//
// A handler is a folder of a pack, share/capability_handlers/<slug>, with a handler.json and a handler.py. It passes three gates, each about
// exact bytes. The pack itself is approved (approval), by the digest of its tree. A candidate, which a scan has found, is approved by an
// operator: that is trust, in the digest of the handler's folder. And each start compares the copy on the disk with that digest.
//
// The bytes are copied from the approved tree, never from ecosystem/, where any process of the operator may write at any time. scan.go finds
// candidates, service.go and effects.go decide, folders.go has the copies, trust.go has what is trusted in memory.
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

// Candidate is a handler as a scan found it, with the facts that its approval added.
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
	Notes        string `json:"notes,omitzero"`         // by the operator who approved it

	warnings []string // about its handler.json, of a scan

	// outdated is a scan's finding: under the same key, and with the same handler.py, the pack was approved with another folder than is
	// trusted. The key has only the script's hash.
	outdated bool
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

// trust is the trust that an approval of the candidate gives.
func (c Candidate) trust() Trust {
	return Trust{
		CandidateKey: c.Key(), PackID: c.PackID, Slug: c.Slug, HandlerID: c.HandlerID, PermissionID: c.PermissionID,
		Entrypoint: c.Entrypoint, ScriptSHA256: c.ScriptSHA256, FolderDigest: c.FolderDigest,
		ConfigSchema: c.ConfigSchema,
	}
}
