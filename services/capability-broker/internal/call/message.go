// Package call answers the capability sockets: it decides about what a pack asks for and has it done by a built-in or by a
// trusted handler. Who asks is told by the socket alone.
package call

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
)

// Bounds of the capability protocol (contract.md, "Sockets").
const (
	MaxRequest  = 4 << 20 // bytes of a request frame
	MaxResponse = 1 << 20 // bytes of a response frame
	MaxConns    = 64      // connections of one socket; with MaxRequest, what one pack can make the broker hold

	MaxTimeout     = 120 * time.Second
	defaultTimeout = 30 * time.Second
)

// errorType says in a word why a call did not succeed.
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

// texts are what a pack reads: nothing about why.
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

	output  jsontext.Value // a call that succeeded, with an output that says no
	changed bool           // it was decided by what is no longer so, and has not started
}

func (r *refusal) message() string {
	if r.text != "" {
		return r.text
	}
	return texts[r.kind]
}

// denied says whether the refusal is a decision against the caller, which the audit log has twice.
func (r *refusal) denied() bool {
	switch r.kind {
	case grantDenied, trustDenied, handlerNotFound, rateLimited, accessDenied:
		return true
	}
	return false
}

// wireRequest has every field raw, so that a wrong type is answered by name. Other fields are ignored.
type wireRequest struct {
	PermissionID jsontext.Value `json:"permission_id"`
	Args         jsontext.Value `json:"args"`
	Timeout      jsontext.Value `json:"timeout_seconds"`
	RequestID    jsontext.Value `json:"request_id"`

	// What a payload says about its sender is ignored; one that names somebody else is noted.
	PrincipalID jsontext.Value `json:"principal_id"`
	PackID      jsontext.Value `json:"pack_id"`
	OwnerPack   jsontext.Value `json:"owner_pack"`
}

// response is the answer. The fields are there in every answer.
type response struct {
	Success   bool           `json:"success"`
	Output    jsontext.Value `json:"output"`
	Error     *string        `json:"error"`
	ErrorType *errorType     `json:"error_type"`
	LatencyMS float64        `json:"latency_ms"`
	RequestID string         `json:"request_id"`
}

// request is a call that can be decided about.
type request struct {
	permission string
	args       jsontext.Value // an object
	timeout    time.Duration
	id         string
	claims     string // whom the payload names in place of its sender, "" for nobody
}

// parse reads a frame. The request it returns with a refusal has what could be read, its id at least.
func parse(frame []byte, principal string) (request, *refusal) {
	req := request{id: origin.NewRequestID(), timeout: defaultTimeout}
	var wire wireRequest
	if err := json.Unmarshal(frame, &wire); err != nil {
		return req, &refusal{kind: protocolError, text: "Invalid JSON in request", reason: err.Error()}
	}
	if id, ok := stringOf(wire.RequestID); ok && origin.ValidRequestID(id) {
		req.id = id
	}
	for _, claim := range []jsontext.Value{wire.PrincipalID, wire.PackID, wire.OwnerPack} {
		if len(claim) == 0 || claim.Kind() == 'n' {
			continue
		}
		if name, ok := stringOf(claim); !ok || name != principal {
			req.claims = text.Prefix(name, 64) // a pack puts it into the audit log
			if req.claims == "" {
				req.claims = "(not a name)"
			}
			break
		}
	}
	permission, ok := stringOf(wire.PermissionID)
	if !ok || !grant.ValidPermission(permission) {
		return req, &refusal{kind: invalidRequest, text: "Missing or invalid permission_id"}
	}
	req.permission = permission
	switch {
	case len(wire.Args) == 0 || wire.Args.Kind() == 'n':
		req.args = jsontext.Value("{}")
	case wire.Args.Kind() == '{':
		req.args = wire.Args
	default:
		return req, &refusal{kind: validationError, text: "'args' must be an object"}
	}
	if len(wire.Timeout) > 0 && wire.Timeout.Kind() != 'n' {
		d, err := parseTimeout(wire.Timeout)
		if err != nil {
			return req, &refusal{kind: validationError, text: err.Error()}
		}
		req.timeout = d
	}
	return req, nil
}

// parseTimeout reads seconds; more than may be asked for is what may be asked for.
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

// encode appends the answer to dst. An answer over MaxResponse is replaced by the refusal that says so.
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
