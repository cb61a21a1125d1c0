package renewal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

const (
	// HeartbeatInterval is the time between two messages of a list that doesn't change.
	HeartbeatInterval = time.Second

	silence = 5 * time.Second // without a message, after which a stream is given up
	maxLine = 64 << 20        // of the stream: more than the list of every certificate that can be signed in 90 days
)

// Remote is the authority as all services but secrets reach it: over mutual TLS.
type Remote struct{ peer *client.Peer }

// NewRemote asks the service secrets behind peer. The peer should be one of its own, so that what fails here opens no circuit breaker
// before other calls.
func NewRemote(peer *client.Peer) Remote { return Remote{peer} }

// Sign implements Authority.
func (r Remote) Sign(ctx context.Context, request []byte) ([]byte, error) {
	answer, err := route.Call(ctx, r.peer, Sign, SignRequest{Request: request})
	return answer.Certificate, err
}

// Follow implements Authority. It follows one connection to its end. That the authority ended the stream is no error: it does before a
// certificate ends.
func (r Remote) Follow(ctx context.Context, apply func([]identity.Denied)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(silence, func() { cancel(errors.New("no message came for too long")) })
	defer silent.Stop()
	response, err := route.Open(ctx, r.peer, Denied, struct{}{})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(make([]byte, 4<<10), maxLine)
	for lines.Scan() {
		var m Message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return fmt.Errorf("read message: %w", err)
		}
		silent.Reset(silence)
		if m.List {
			apply(m.Denied)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return lines.Err()
}
