// Package approval is how other services ask approval. Gates are followed with libs/gate.
package approval

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// Service is approval's name.
const Service = roster.Approval

// RefreshRequest names packs to read again; none means all.
type RefreshRequest struct {
	PackIDs  []string `json:"pack_ids"`
	Replaced bool     `json:"replaced,omitzero"` // the named packs have just been put in place
}

// RetireRequest begins a pack's uninstall.
type RetireRequest struct {
	Installed bool `json:"installed"` // it has files, so it is to be known
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
	Running bool `json:"running"`
}

// Client calls approval.
type Client struct{ peer *client.Peer }

// NewClient makes a client of the peer named Service.
func NewClient(peer *client.Peer) *Client { return &Client{peer} }

// Refresh has the named packs, or all, read again under ecosystem/: a new one becomes pending, one that differs from
// what was approved becomes modified. It returns when the records say so.
func (c *Client) Refresh(ctx context.Context, packIDs ...string) error {
	_, err := client.Call[struct{}](ctx, c.peer, http.MethodPost, "/internal/packs/refresh", RefreshRequest{PackIDs: packIDs})
	return err
}

// Replaced is Refresh for packs that have just been put in place: one that was approved becomes modified, though it may
// have the same bytes.
func (c *Client) Replaced(ctx context.Context, packIDs ...string) error {
	_, err := client.Call[struct{}](ctx, c.peer, http.MethodPost, "/internal/packs/refresh", RefreshRequest{PackIDs: packIDs, Replaced: true})
	return err
}

// Retire begins a pack's uninstall: its gate is closed when it returns, and nothing lets it run or be granted anything until Remove
// has ended the uninstall. It may be repeated. installed says that the pack has files: then it is made known if it isn't.
func (c *Client) Retire(ctx context.Context, packID string, installed bool) (known bool, err error) {
	response, err := client.Call[RetireResponse](ctx, c.peer, http.MethodPut, "/internal/packs/"+url.PathEscape(packID)+"/retired", RetireRequest{installed})
	return response.Known, err
}

// Retired are the packs that Retire was called for, and Remove not yet.
func (c *Client) Retired(ctx context.Context) ([]string, error) {
	response, err := client.Call[RetiredResponse](ctx, c.peer, http.MethodGet, "/internal/packs/retired", nil)
	return response.PackIDs, err
}

// Approved says whether a pack was ever approved since it became known, whatever its state is now. One that isn't known was not.
func (c *Client) Approved(ctx context.Context, packID string) (bool, error) {
	response, err := client.Call[ApprovedResponse](ctx, c.peer, http.MethodGet, "/internal/packs/"+url.PathEscape(packID)+"/approved", nil)
	return response.Approved, err
}

// Remove forgets a retired pack of which nothing else is left. removed is false for one that is not known; one that is not retired
// is a conflict.
func (c *Client) Remove(ctx context.Context, packID string) (removed bool, err error) {
	response, err := client.Call[RemoveResponse](ctx, c.peer, http.MethodDelete, "/internal/packs/"+url.PathEscape(packID), nil)
	return response.Removed, err
}

// SetRunning says that a pack's container runs, or no longer; it shows as the state "running".
func (c *Client) SetRunning(ctx context.Context, packID string, running bool) error {
	_, err := client.Call[struct{}](ctx, c.peer, http.MethodPut, "/internal/packs/"+url.PathEscape(packID)+"/running", RunningRequest{running})
	return err
}

// Tree is the approved tree of a digest ("sha256:<hex>") as tree.Send writes it; the caller verifies it with
// tree.Receive and closes it. A digest that nothing approved has is a not-found fault.
func (c *Client) Tree(ctx context.Context, digest string) (io.ReadCloser, error) {
	response, err := c.peer.Stream(ctx, http.MethodGet, "/internal/trees/"+url.PathEscape(digest), nil)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// RefreshPending says that the counts of candidates changed, so that user_data/pending/summary.json is written again.
func (c *Client) RefreshPending(ctx context.Context) error {
	_, err := client.Call[struct{}](ctx, c.peer, http.MethodPost, "/internal/pending/refresh", nil)
	return err
}
