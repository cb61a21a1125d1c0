package renewal

import (
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

// The endpoints of the service secrets, for every service.
var (
	// Sign signs a certificate for the service that asks: for the name and the home of the certificate that it shows, whatever it
	// asks for. A request that names anything else is refused and audited.
	Sign = route.Internal[SignRequest, SignResponse]("POST", "/internal/certificates", roster.Secrets, roster.Names()...)
	// Denied is the list of revoked certificates, as NDJSON: a Message a line, the first and each change with the whole list, and one
	// without a list at least every HeartbeatInterval.
	Denied = route.Internal[struct{}, route.Stream]("GET", "/internal/certificates/denied", roster.Secrets, roster.Names()...)

	// Table has both.
	Table = route.NewTable(Sign, Denied)
)

// SignRequest has a request for a certificate.
type SignRequest struct {
	Request []byte `json:"request"` // PKCS #10, DER; base64 on the wire. At most 4 KiB
}

// SignResponse has the certificate.
type SignResponse struct {
	Certificate []byte `json:"certificate"` // X.509, DER; base64 on the wire
}

// Message is a line of the stream Denied.
type Message struct {
	List   bool              `json:"list,omitzero"` // Denied is the whole list, which may be empty; false for a heartbeat
	Denied []identity.Denied `json:"denied,omitempty"`
}
