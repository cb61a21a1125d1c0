// Package pip is how other services ask pip-installer.
package pip

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// Service is pip-installer's name.
const Service = roster.PipInstaller

// Package is a Python distribution that is installed.
type Package struct {
	Name    string `json:"name"`    // as its own metadata spells it
	Version string `json:"version"` // likewise
}

// Environment is what is installed for a pack: a folder for its sys.path.
type Environment struct {
	Digest   string    `json:"digest"` // of the folder's tree, "sha256:<hex>"
	Packages []Package `json:"packages"`
	// CandidateKey is the lock that it was installed of: pack_id:relpath:sha256.
	CandidateKey string `json:"candidate_key,omitzero"`
}

// RemoveResponse says whether there was anything of the pack.
type RemoveResponse struct {
	Removed bool `json:"removed"`
}

// Client calls pip-installer.
type Client struct{ peer *client.Peer }

// NewClient makes a client of the peer named Service.
func NewClient(peer *client.Peer) *Client { return &Client{peer} }

// Remove forgets a pack's candidates (but for blocked ones) and removes its environment. For pack-registry.
func (c *Client) Remove(ctx context.Context, packID string) (removed bool, err error) {
	response, err := client.Call[RemoveResponse](ctx, c.peer, http.MethodDelete, "/internal/packs/"+url.PathEscape(packID), nil)
	return response.Removed, err
}

// Counts counts the candidates by state. For approval.
func (c *Client) Counts(ctx context.Context) (candidate.Counts, error) {
	return client.Call[candidate.Counts](ctx, c.peer, http.MethodGet, "/internal/candidates/counts", nil)
}

// Environment is the environment of a pack. A pack that has none is a not-found fault. For capability-broker.
func (c *Client) Environment(ctx context.Context, packID string) (Environment, error) {
	return client.Call[Environment](ctx, c.peer, http.MethodGet, "/internal/environments/"+url.PathEscape(packID), nil)
}

// Tree is the folder of a pack's environment as tree.Send writes it; the caller verifies it with tree.Receive against
// the digest it knows, and closes it. It is a not-found fault when the pack has no environment of that digest any more.
// For capability-broker.
func (c *Client) Tree(ctx context.Context, packID, digest string) (io.ReadCloser, error) {
	path := "/internal/environments/" + url.PathEscape(packID) + "/tree?digest=" + url.QueryEscape(digest)
	response, err := c.peer.Stream(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}
