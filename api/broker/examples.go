package broker

import (
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/route"
)

// Examples are for the document of the API.
func Examples() []route.Example {
	return []route.Example{
		route.NewExample(PostGrant, GrantRequest{
			PrincipalID: "my_pack", PermissionID: "secrets.get", Config: jsontext.Value(`{"allowed_keys":["API_TOKEN"]}`),
			Terms: Terms{MaxUses: new(int64(100)), RateLimit: new(10)},
		}, GrantResponse{}),
	}
}
