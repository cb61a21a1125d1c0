// Package openapi has the OpenAPI document of the public API, which the gateway serves at /openapi.json. It is made of the endpoints in api/, of their
// types and the comments of these, and of the table of error codes in docs/api.md.
package openapi

import _ "embed"

//go:generate go run ../internal/generate/run ../..

//go:embed openapi.json
var document string

// Document is the document's JSON.
func Document() string { return document }
