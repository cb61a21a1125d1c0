// Package egress is how other services ask the egress proxy. The operator's endpoints are in contract.md, "Network grants".
package egress

import (
	"context"
	"net/http"
	"net/url"

	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// Service is the egress proxy's name.
const Service = roster.EgressProxy

// RemoveResponse says what Remove found.
type RemoveResponse struct {
	Revoked bool `json:"revoked"` // there was a grant in force
}

// Client calls the egress proxy.
type Client struct{ peer *client.Peer }

// NewClient makes a client of the peer named Service.
func NewClient(peer *client.Peer) *Client { return &Client{peer} }

// Remove takes a pack's network grant and its record away, and its socket; requests under way are cut. revoked says
// whether a grant was in force. For a pack without a grant it does nothing and is no error.
func (c *Client) Remove(ctx context.Context, packID string) (revoked bool, err error) {
	response, err := client.Call[RemoveResponse](ctx, c.peer, http.MethodDelete, "/internal/packs/"+url.PathEscape(packID), nil)
	return response.Revoked, err
}
