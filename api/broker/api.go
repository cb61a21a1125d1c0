// Package broker is what other services may ask of the capability broker.
package broker

import (
	"context"

	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// Service is the broker's name.
const Service = roster.CapabilityBroker

// Removal says what the broker had of a pack that is being uninstalled. A second removal of the same pack finds
// nothing and says false everywhere.
type Removal struct {
	ContainerStopped bool `json:"container_stopped"` // a container was running
	ContainerRemoved bool `json:"container_removed"` // a container, running or not, is gone
	GrantsRemoved    bool `json:"grants_removed"`    // a grant, a trust or an installed handler is gone

	// DataPath is where what the pack kept in /data was put aside, relative to the Rumi home: "user_data/packs/.uninstalled/x/…"; ""
	// where it kept nothing.
	DataPath string `json:"data_path,omitzero"`
}

// RestoredData says from where the data of a pack was put back.
type RestoredData struct {
	Path string `json:"path"` // relative to the Rumi home; nothing is there any more
}

// Client calls the capability broker.
type Client struct{ peer *client.Peer }

// NewClient makes a client of the broker that peer stands for.
func NewClient(peer *client.Peer) *Client { return &Client{peer: peer} }

// Remove takes everything the broker has of a pack: container, socket, grants, trust, installed handlers and
// candidates. The pack's data is kept aside under user_data/packs/.uninstalled. It is idempotent.
func (c *Client) Remove(ctx context.Context, packID string) (Removal, error) {
	return client.Call[Removal](ctx, c.peer, "DELETE", "/internal/packs/"+packID, nil)
}

// RestoreData gives a pack the data again that its last uninstall put aside. Errors are faults: 404 where none is kept, 409 where the
// pack has data already.
func (c *Client) RestoreData(ctx context.Context, packID string) (RestoredData, error) {
	return client.Call[RestoredData](ctx, c.peer, "POST", "/internal/packs/"+packID+"/data", nil)
}

// Counts tells how many handler candidates are in each state.
func (c *Client) Counts(ctx context.Context) (candidate.Counts, error) {
	return client.Call[candidate.Counts](ctx, c.peer, "GET", "/internal/candidates/counts", nil)
}
