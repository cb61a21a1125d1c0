package egress

import (
	"context"

	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// Client calls the egress proxy.
type Client struct{ peer *client.Peer }

// NewClient makes a client of the peer named Service.
func NewClient(peer *client.Peer) *Client { return &Client{peer} }

// Remove removes a pack's network grant, its record and its socket; requests under way are cut. revoked says
// whether a grant was in force. For a pack without a grant it does nothing and is no error.
func (c *Client) Remove(ctx context.Context, packID string) (revoked bool, err error) {
	response, err := route.Call(ctx, c.peer, Remove, PackRequest{packID})
	return response.Revoked, err
}

// FetchKeys fetches the keys that the issuer of sign-ins publishes now. The error is of kind unavailable where the issuer isn't set or doesn't answer.
func (c *Client) FetchKeys(ctx context.Context) (IssuerKeys, error) {
	return route.Call(ctx, c.peer, FetchKeys, struct{}{})
}
