// Package openapi has the parts of the OpenAPI document of the API: the document's objects, and the table of error codes of docs/api.md.
package openapi
