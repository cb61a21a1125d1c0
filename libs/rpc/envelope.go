package rpc

import (
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// envelope is the body of every answer as a server writes it. Data is null where there is none.
type envelope struct {
	Success   bool    `json:"success"`
	Data      any     `json:"data"`
	Error     *string `json:"error"`
	ErrorCode string  `json:"error_code,omitzero"`
}

// Answer is the envelope as a client reads it.
type Answer struct {
	Success   bool           `json:"success"`
	Data      jsontext.Value `json:"data"`
	Error     *string        `json:"error"` // the message of a failure; nil in a success
	ErrorCode string         `json:"error_code"`
}

// MarshalFailure is the body of an answer of a failure. WriteError is what handlers use; this is for answers that no
// handler gives.
func MarshalFailure(message, code string) ([]byte, error) {
	return json.Marshal(envelope{Error: &message, ErrorCode: code}, json.Deterministic(true))
}
