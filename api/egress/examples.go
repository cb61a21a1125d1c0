package egress

import "github.com/rumi-ai/rumi/libs/route"

// Examples are for the document of the API.
func Examples() []route.Example {
	return []route.Example{
		route.NewExample(PostGrant, GrantRequest{
			PackID: "my_pack", AllowedDomains: []string{"api.example.com"}, AllowedPorts: []int{443}, Notes: "sends the build's result",
			Rules: []Rule{{Domains: []string{}, Methods: []string{"POST"}, PathPrefixes: []string{"/v1/messages"}}}, LeftOut: []LeftOut{},
		}, GrantResponse{}),
		route.NewExample(Check, CheckRequest{PackID: "my_pack", Domain: "api.example.com", Port: new(443)}, CheckResponse{
			Allowed: true, Reason: "Allowed", PackID: "my_pack", Domain: "api.example.com", Port: 443,
		}),
	}
}
