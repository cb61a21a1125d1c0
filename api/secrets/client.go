// Package secrets is how other services ask for the value of a secret.
package secrets

import (
	"context"
	"net/http"

	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// ValuePath answers POST requests of the capability broker and of nobody else.
const ValuePath = "/internal/secrets/value"

// ValueRequest names a secret.
type ValueRequest struct {
	Key string `json:"key"` // ^[A-Z0-9_]{1,64}$
}

// ValueResponse carries its value.
type ValueResponse struct {
	Value Exposed `json:"value"`
}

// Client calls the service secrets.
type Client struct{ peer *client.Peer }

// NewClient makes a client of the peer "secrets".
func NewClient(peer *client.Peer) *Client { return &Client{peer} }

// Value gets the value of a secret. A key that is malformed is a fault of kind invalid, one that was never set or has
// been deleted is one of kind not found; a file that can't be trusted is an internal fault.
func (c *Client) Value(ctx context.Context, key string) (Value, error) {
	answer, err := client.Call[ValueResponse](ctx, c.peer, http.MethodPost, ValuePath, ValueRequest{Key: key})
	return answer.Value.Value, err
}
