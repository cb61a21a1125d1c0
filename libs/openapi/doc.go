// Package openapi makes the OpenAPI 3.1 document of routes: of their declarations (libs/route), of their types' fields, and of the comments of
// these in the source. It runs when the document is generated and in tests, and never in a service: services only serve the document that was
// made.
//
//	document.go  the document's objects as Go types, for who makes a document and for who reads one
//	schema.go    Go types as JSON Schema, by the rules of go-json-experiment
//	source.go    comments and constants of types, out of the source
//	build.go     routes as paths, operations and responses
//	example.go   examples of types that nobody wrote an example for
//	compare.go   which changes between two documents can break a client
package openapi
