// Package registry is how other services ask pack-registry what lies in packs, in whatever state they are.
package registry

import (
	"context"
	"net/http"

	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// Service is pack-registry's name.
const Service = roster.PackRegistry

// SelectPath is where Select is served.
const SelectPath = "/internal/packs/select"

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

// Pack is an installed pack as it lies on disk now; nobody has to have approved it.
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

// Client calls pack-registry.
type Client struct{ peer *client.Peer }

// NewClient makes a client of the peer named Service.
func NewClient(peer *client.Peer) *Client { return &Client{peer} }

// Select reads the files of every installed pack that match one of the patterns. Links are not followed.
func (c *Client) Select(ctx context.Context, patterns ...string) ([]Pack, error) {
	response, err := client.Call[SelectResponse](ctx, c.peer, http.MethodPost, SelectPath, SelectRequest{patterns})
	return response.Packs, err
}
