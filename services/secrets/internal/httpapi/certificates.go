package httpapi

import (
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/identity/renewal"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/services/secrets/internal/authority"
)

// writeTimeout is how long one message of the stream may take: a reader that doesn't read holds no more than its connection.
const writeTimeout = 5 * time.Second

type certificates struct{ authority *authority.Authority }

// sign answers renewal.Sign. The caller's name and serial number are those of the certificate that the connection stands on.
func (c certificates) sign(w http.ResponseWriter, r *http.Request, req renewal.SignRequest) error {
	caller := authority.Caller{Service: identity.Caller(r.TLS), Serial: identity.Serial(r.TLS.VerifiedChains[0][0])} // server.Mux admits no others
	signed, err := c.authority.SignFor(r.Context(), caller, req.Request)
	if err != nil {
		return err
	}
	return rpc.WriteData(w, renewal.SignResponse{Certificate: signed})
}

// denied answers renewal.Denied until the request's context ends, or the connection should be replaced.
func (c certificates) denied(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	control := http.NewResponseController(w)
	send := func(m renewal.Message) error {
		line, err := json.Marshal(m)
		if err != nil {
			return err
		}
		if err := control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
		return control.Flush()
	}
	beat := time.NewTicker(renewal.HeartbeatInterval)
	defer beat.Stop()
	list, changed := c.authority.Denied()
	m := renewal.Message{List: list != nil, Denied: list}
	for {
		if err := send(m); err != nil {
			return err
		}
		m = renewal.Message{}
		select {
		case <-r.Context().Done():
			return nil
		case <-changed:
			m.List = true
			m.Denied, changed = c.authority.Denied()
		case <-beat.C:
			if server.Retired(r.Context()) {
				return nil
			}
		}
	}
}
