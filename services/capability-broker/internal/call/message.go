// Package call answers the capability sockets. For each call it decides whether the pack may make it, has a built-in permission or a trusted
// handler carry it out, and writes both to the audit log.
//
// Everything in a call's frame was written by a pack, which is assumed to be hostile. Who calls is decided by the socket alone: each pack's
// container has one socket mounted, its own. A frame that names another sender is answered all the same, as its socket's, and the claim is
// in the audit log. The pack reads that it is refused, and no reason; the reason is for the operator.
//
// Read service.go from Answer on: it is the way of a call. message.go is the protocol, rate.go the rates, prewritten.go an audit entry that
// is written while the call is still under way, sockets.go which packs have a socket.
package call

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
)

// Bounds of the capability protocol (contract.md, "Sockets").
const (
	MaxRequest  = 4 << 20 // bytes of a request frame
	MaxResponse = 1 << 20 // bytes of a response frame
	MaxConns    = 64      // connections of one socket

	MaxTimeout     = 120 * time.Second
	defaultTimeout = 30 * time.Second
)

// errorType is an answer's error_type: why a call did not succeed, for programs.
type errorType string

// The error types of contract.md.
const (
	invalidRequest   errorType = "invalid_request"
	validationError  errorType = "validation_error"
	protocolError    errorType = "protocol_error"
	grantDenied      errorType = "grant_denied"
	trustDenied      errorType = "trust_denied"
	handlerNotFound  errorType = "handler_not_found"
	rateLimited      errorType = "rate_limited"
	executionError   errorType = "execution_error"
	timedOut         errorType = "timeout"
	responseTooLarge errorType = "response_too_large"
	accessDenied     errorType = "access_denied" // inside the output of secrets.get only
)

// texts are the messages that a pack reads. Those of refusals give no reason: a pack must not learn what it would need to be granted.
var texts = map[errorType]string{
	grantDenied:      "Permission denied",
	trustDenied:      "Permission denied",
	handlerNotFound:  "Permission denied",
	rateLimited:      "Rate limited",
	executionError:   "Handler execution failed",
	timedOut:         "Handler execution timed out",
	responseTooLarge: "Response too large",
}

// refusal is a call that was not carried out or did not succeed.
type refusal struct {
	kind   errorType
	text   string // what the pack reads, where texts has nothing
	reason string // for the audit log; the pack never sees it
	why    denial // for the metrics; set where denied is true

	output  jsontext.Value // not nil: the pack reads a success with this output, which tells what is refused
	changed bool           // the call has not started, and its grants have changed since the decision: decide again
}

func (r *refusal) message() string {
	if r.text != "" {
		return r.text
	}
	return texts[r.kind]
}

// denied says whether the refusal is a decision against the caller, not a failure. The audit log has such a decision twice: as a security
// event, and among the uses of permissions.
func (r *refusal) denied() bool {
	switch r.kind {
	case grantDenied, trustDenied, handlerNotFound, rateLimited, accessDenied:
		return true
	}
	return false
}

// wireRequest is a request frame. Every field is raw, so that the answer can name the one that has a wrong type. Other fields are ignored.
type wireRequest struct {
	PermissionID jsontext.Value `json:"permission_id"`
	Args         jsontext.Value `json:"args"`
	Timeout      jsontext.Value `json:"timeout_seconds"`
	RequestID    jsontext.Value `json:"request_id"`
	TraceParent  jsontext.Value `json:"traceparent"` // what isn't a string has no effect: a trace decides nothing
	TraceState   jsontext.Value `json:"tracestate"`

	// What a frame says about its sender has no effect. One that names another pack is in the audit log.
	PrincipalID jsontext.Value `json:"principal_id"`
	PackID      jsontext.Value `json:"pack_id"`
	OwnerPack   jsontext.Value `json:"owner_pack"`
}

// response is an answer's frame. It has all fields, whatever the answer.
type response struct {
	Success   bool           `json:"success"`
	Output    jsontext.Value `json:"output"`
	Error     *string        `json:"error"`
	ErrorType *errorType     `json:"error_type"`
	LatencyMS float64        `json:"latency_ms"`
	RequestID string         `json:"request_id"`
}

// request is a frame that was read: a call that can be decided about.
type request struct {
	permission string
	args       jsontext.Value // an object
	timeout    time.Duration
	id         string
	read       time.Time // when the decision could begin
	trace      packtrace.Context
	claims     string // the pack that the frame names as its sender although it isn't, clipped; "" for none
}

// parse reads a frame. A request that is returned with a refusal has what could be read of it, its id at least.
func parse(frame []byte, principal string) (request, *refusal) {
	req := request{id: origin.NewRequestID(), timeout: defaultTimeout}
	var wire wireRequest
	if err := json.Unmarshal(frame, &wire); err != nil {
		return req, &refusal{kind: protocolError, text: "Invalid JSON in request", reason: err.Error()}
	}
	if id, ok := stringOf(wire.RequestID); ok && origin.ValidRequestID(id) {
		req.id = id
	}
	req.trace.TraceParent, _ = stringOf(wire.TraceParent)
	req.trace.TraceState, _ = stringOf(wire.TraceState)
	req.claims = wire.claims(principal)
	permission, ok := stringOf(wire.PermissionID)
	if !ok || !grant.ValidPermission(permission) {
		return req, &refusal{kind: invalidRequest, text: "Missing or invalid permission_id"}
	}
	req.permission = permission
	switch {
	case absent(wire.Args):
		req.args = jsontext.Value("{}")
	case wire.Args.Kind() == '{':
		req.args = wire.Args
	default:
		return req, &refusal{kind: validationError, text: "'args' must be an object"}
	}
	if !absent(wire.Timeout) {
		d, err := parseTimeout(wire.Timeout)
		if err != nil {
			return req, &refusal{kind: validationError, text: err.Error()}
		}
		req.timeout = d
	}
	return req, nil
}

// maxClaim is how many bytes of a claim the audit log gets: it was written by a pack.
const maxClaim = 64

// claims is the first sender that the frame names and that isn't the principal, "" for none.
func (w *wireRequest) claims(principal string) string {
	for _, claim := range []jsontext.Value{w.PrincipalID, w.PackID, w.OwnerPack} {
		if absent(claim) {
			continue
		}
		if name, ok := stringOf(claim); !ok || name == "" {
			return "(not a name)"
		} else if name != principal {
			return text.Prefix(name, maxClaim)
		}
	}
	return ""
}

// absent says whether a field isn't there, or is null, which means the same.
func absent(v jsontext.Value) bool { return len(v) == 0 || v.Kind() == 'n' }

// parseTimeout reads seconds. More than MaxTimeout is MaxTimeout.
func parseTimeout(v jsontext.Value) (time.Duration, error) {
	if v.Kind() != '0' {
		return 0, fmt.Errorf("'timeout_seconds' must be a number")
	}
	seconds, _ := strconv.ParseFloat(string(v), 64) // out of range is ±Inf, which is checked below
	if !(seconds > 0) {
		return 0, fmt.Errorf("'timeout_seconds' must be positive")
	}
	if seconds >= MaxTimeout.Seconds() {
		return MaxTimeout, nil
	}
	return time.Duration(math.Ceil(seconds * float64(time.Second))), nil
}

// stringOf is a value that is a string; false for any other.
func stringOf(v jsontext.Value) (string, bool) {
	if v.Kind() != '"' {
		return "", false
	}
	var s string
	if err := json.Unmarshal(v, &s); err != nil {
		return "", false
	}
	return s, true
}

// encode appends the answer to dst. An answer over MaxResponse, which no client need read, is replaced by a refusal that says so.
func encode(dst []byte, id string, output jsontext.Value, refused *refusal, took time.Duration) []byte {
	if refused != nil && refused.output != nil {
		output, refused = refused.output, nil
	}
	r := response{Success: refused == nil, Output: output, LatencyMS: float64(took.Microseconds()) / 1000, RequestID: id}
	if refused != nil {
		message := refused.message()
		r.Error, r.ErrorType, r.Output = &message, &refused.kind, nil
	}
	if r.Output == nil {
		r.Output = jsontext.Value("null")
	}
	body, err := json.Marshal(r, jsontext.AllowDuplicateNames(true))
	switch {
	case err != nil:
		return encode(dst, id, nil, &refusal{kind: executionError}, took)
	case len(body) > MaxResponse:
		return encode(dst, id, nil, &refusal{kind: responseTooLarge}, took)
	}
	return append(dst, body...)
}
