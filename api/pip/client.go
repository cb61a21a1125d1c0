package pip

import (
	"context"
	"io"

	"github.com/rumi-ai/rumi/libs/candidate/wire"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// Client calls pip-installer.
type Client struct{ peer *client.Peer }

// NewClient makes a client of the peer named Service.
func NewClient(peer *client.Peer) *Client { return &Client{peer} }

// Remove forgets a pack's candidates (but for blocked ones) and removes its environment. For pack-registry.
func (c *Client) Remove(ctx context.Context, packID string) (removed bool, err error) {
	response, err := route.Call(ctx, c.peer, Remove, PackRequest{packID})
	return response.Removed, err
}

// Counts counts the candidates by state. For approval.
func (c *Client) Counts(ctx context.Context) (wire.Counts, error) {
	return route.Call(ctx, c.peer, Candidates.Counts, struct{}{})
}

// Environment is the environment of a pack. A pack that has none is a not-found fault. For capability-broker.
func (c *Client) Environment(ctx context.Context, packID string) (Environment, error) {
	return route.Call(ctx, c.peer, GetEnvironment, PackRequest{packID})
}

// Tree is the folder of a pack's environment as tree.Send writes it; the caller verifies it with tree.Receive against
// the digest it knows, and closes it. It is a not-found fault when the pack has no environment of that digest any more.
// For capability-broker.
func (c *Client) Tree(ctx context.Context, packID, digest string) (io.ReadCloser, error) {
	response, err := route.Open(ctx, c.peer, GetTree, TreeRequest{packID, digest})
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}
