package secrets

import (
	"context"

	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// Client calls the service secrets.
type Client struct{ peer *client.Peer }

// NewClient makes a client of the peer named Service.
func NewClient(peer *client.Peer) *Client { return &Client{peer} }

// Value gets the value of a secret. A key that is malformed is a fault of kind invalid, one that was never set or has
// been deleted is one of kind not found; a file that can't be trusted is an internal fault.
func (c *Client) Value(ctx context.Context, key string) (Value, error) {
	answer, err := route.Call(ctx, c.peer, GetValue, ValueRequest{Key: key})
	return answer.Value.Value, err
}
