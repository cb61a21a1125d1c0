// Package generate makes what is generated of the endpoints: the OpenAPI document, and the client.
//
//	go generate ./api/...
package generate

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"

	"github.com/rumi-ai/rumi/api"
	"github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/openapi"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/roster"
)

// module is the common beginning of this repository's import paths.
const module = "github.com/rumi-ai/rumi/"

// Where the generated files are, from the root of the repository.
const (
	DocumentFile = "api/openapi/openapi.json"
	ClientFile   = "api/client/endpoints.go"
)

// version is that of the API. It changes where a declared change breaks clients (docs/api-changes.md).
const version = "1"

const description = "Rumi runs packs: plug-ins that nobody trusts. Nothing of a pack runs until a person has approved exactly those bytes.\n\n" +
	"Every answer under /api/ is an envelope: `{\"success\": true, \"data\": …, \"error\": null}` or `{\"success\": false, \"data\": null, \"error\": \"…\", \"error_code\": \"…\"}`. " +
	"Scripts compare `error_code`. Every answer has an `X-Request-Id`, which the logs and audit entries of the request have, too.\n\n" +
	"HEAD is answered as GET is, without the body. A path that nobody knows is `not_found` (404), a method that the path doesn't have is `method_not_allowed` (405) with the header `Allow`. " +
	"Requests that are no HTTP/1.1 are refused with the codes of `x-rumi-connection-codes`."

// overrides are the schemas of types that read or write their JSON themselves.
var overrides = map[reflect.Type]openapi.Schema{
	reflect.TypeFor[approval.FileHashes](): {Type: "object", AdditionalProperties: &openapi.Schema{Type: "string"}},
	reflect.TypeFor[secrets.Input]():       {Type: "string"},
	reflect.TypeFor[pack.Entrypoint]():     {AnyOf: []*openapi.Schema{{Type: "string"}, {Type: "array", Items: &openapi.Schema{Type: "string"}}, {Type: "null"}}},
}

// services are the tags of the document: what each service does, for a reader who looks for a call.
var services = []openapi.Tag{
	{Name: roster.Gateway, Description: "What several services know: health, what waits for a person, the disk, one pack"},
	{Name: roster.PackRegistry, Description: "Import, apply, roll back and uninstall packs"},
	{Name: roster.Approval, Description: "Review, approve and reject packs"},
	{Name: roster.EgressProxy, Description: "What packs may reach over the network, and what they were refused"},
	{Name: roster.CapabilityBroker, Description: "Handlers, capability grants and containers"},
	{Name: roster.PipInstaller, Description: "Python dependencies of packs"},
	{Name: roster.Secrets, Description: "Secrets, which packs may use and nobody may read"},
}

// Document makes the OpenAPI document. root is the folder of the repository, whose source and docs/api.md it reads.
func Document(root string) (*openapi.Document, error) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "api.md"))
	if err != nil {
		return nil, err
	}
	codes, err := openapi.ReadCodes(string(page))
	if err != nil {
		return nil, err
	}
	declared, err := names(root)
	if err != nil {
		return nil, err
	}
	ids := map[string]string{}
	for name, of := range declared {
		ids[name] = of.id()
	}
	d, err := openapi.Build(openapi.Input{
		Info: openapi.Info{Title: "Rumi", Version: version, Description: description},
		Tags: services, Routes: api.Routes().Public(), IDs: ids, Codes: codes, Examples: api.Examples(), Values: value,
		Source: openapi.NewSource(module, root), Overrides: overrides, Open: open,
	})
	if err != nil {
		return nil, fmt.Errorf("make the document: %w", err)
	}
	return d, nil
}

// open are the paths that need no token.
var open = []openapi.Open{
	{ID: "gatewayWelcome", Path: "/", Summary: "Say where the API is", Tag: roster.Gateway, MediaType: "application/json", Data: reflect.TypeFor[gateway.Welcome]()},
	{ID: "gatewayAlive", Path: "/healthz", Summary: "Say that the gateway runs", Tag: roster.Gateway, MediaType: "application/json", Data: reflect.TypeFor[gateway.Alive]()},
	{ID: "gatewayDocument", Path: "/openapi.json", Summary: "Show this document", Tag: roster.Gateway, MediaType: "application/json"},
	{ID: "gatewayDocs", Path: "/docs", Summary: "Show this document as a page", Tag: roster.Gateway, MediaType: "text/html"},
}

// InternalCodes are the error codes of calls between services, which no client sees.
func InternalCodes() []string {
	return []string{
		"authority_unavailable", "caller_not_allowed", "certificate_refused", "environment_not_found", "invalid_certificate_request", "too_many_certificates",
	}
}
