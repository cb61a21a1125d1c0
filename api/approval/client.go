package approval

import (
	"context"
	"io"

	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// Client calls approval.
type Client struct{ peer *client.Peer }

// NewClient makes a client of the peer named Service.
func NewClient(peer *client.Peer) *Client { return &Client{peer} }

// Refresh has the named packs, or all, read again under ecosystem/: a new one becomes pending, one that differs from
// what was approved becomes modified. It returns when the records say so.
func (c *Client) Refresh(ctx context.Context, packIDs ...string) error {
	_, err := route.Call(ctx, c.peer, Refresh, RefreshRequest{PackIDs: packIDs})
	return err
}

// Replaced is Refresh for packs whose folders an import has just replaced. One that was approved becomes modified, even if its bytes are
// the same.
func (c *Client) Replaced(ctx context.Context, packIDs ...string) error {
	_, err := route.Call(ctx, c.peer, Refresh, RefreshRequest{PackIDs: packIDs, Replaced: true})
	return err
}

// Retire begins a pack's uninstall: its gate is closed when it returns, and nothing lets it run or be granted anything until Remove
// has ended the uninstall. It may be repeated. installed says that the pack has files: then it is made known if it isn't.
func (c *Client) Retire(ctx context.Context, packID string, installed bool) (known bool, err error) {
	response, err := route.Call(ctx, c.peer, Retire, RetireRequest{packID, installed})
	return response.Known, err
}

// Retired are the packs that Retire was called for, and Remove not yet.
func (c *Client) Retired(ctx context.Context) ([]string, error) {
	response, err := route.Call(ctx, c.peer, ListRetired, struct{}{})
	return response.PackIDs, err
}

// Approved says whether a pack was ever approved since it became known, whatever its state is now. One that isn't known was not.
func (c *Client) Approved(ctx context.Context, packID string) (bool, error) {
	response, err := route.Call(ctx, c.peer, WasApproved, PackRequest{packID})
	return response.Approved, err
}

// Remove forgets a retired pack of which nothing else is left. removed is false for one that is not known; one that is not retired
// is a conflict.
func (c *Client) Remove(ctx context.Context, packID string) (removed bool, err error) {
	response, err := route.Call(ctx, c.peer, Remove, PackRequest{packID})
	return response.Removed, err
}

// SetRunning says that a pack's container runs, or no longer; it shows as the state "running".
func (c *Client) SetRunning(ctx context.Context, packID string, running bool) error {
	_, err := route.Call(ctx, c.peer, SetRunning, RunningRequest{packID, running})
	return err
}

// Tree is the approved tree of a digest ("sha256:<hex>") as tree.Send writes it; the caller verifies it with
// tree.Receive and closes it. A digest that nothing approved has is a not-found fault.
func (c *Client) Tree(ctx context.Context, digest string) (io.ReadCloser, error) {
	response, err := route.Open(ctx, c.peer, GetTree, TreeRequest{digest})
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// RefreshPending says that the counts of candidates changed, so that user_data/pending/summary.json is written again.
func (c *Client) RefreshPending(ctx context.Context) error {
	_, err := route.Call(ctx, c.peer, RefreshPending, struct{}{})
	return err
}
