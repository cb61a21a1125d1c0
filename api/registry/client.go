package registry

import (
	"context"

	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// Client calls pack-registry.
type Client struct{ peer *client.Peer }

// NewClient makes a client of the peer named Service.
func NewClient(peer *client.Peer) *Client { return &Client{peer} }

// Select reads the files of every installed pack that match one of the patterns. Links are not followed.
func (c *Client) Select(ctx context.Context, patterns ...string) ([]Pack, error) {
	response, err := route.Call(ctx, c.peer, Select, SelectRequest{patterns})
	return response.Packs, err
}
