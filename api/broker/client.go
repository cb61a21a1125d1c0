package broker

import (
	"context"

	"github.com/rumi-ai/rumi/libs/candidate/wire"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// Client calls the capability broker.
type Client struct{ peer *client.Peer }

// NewClient makes a client of the broker that peer stands for.
func NewClient(peer *client.Peer) *Client { return &Client{peer: peer} }

// Remove takes everything the broker has of a pack: container, socket, grants, trust, installed handlers and
// candidates. The pack's data is kept aside under user_data/packs/.uninstalled. It is idempotent.
func (c *Client) Remove(ctx context.Context, packID string) (Removal, error) {
	return route.Call(ctx, c.peer, Remove, PackRequest{packID})
}

// RestoreData gives a pack the data again that its last uninstall put aside. Errors are faults: 404 where none is kept, 409 where the
// pack has data already.
func (c *Client) RestoreData(ctx context.Context, packID string) (RestoredData, error) {
	return route.Call(ctx, c.peer, RestoreData, PackRequest{packID})
}

// Counts returns how many handler candidates are in each state.
func (c *Client) Counts(ctx context.Context) (wire.Counts, error) {
	return route.Call(ctx, c.peer, Candidates.Counts, struct{}{})
}
