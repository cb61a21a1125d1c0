package secrets

import "github.com/rumi-ai/rumi/libs/route"

// Examples are for the document of the API.
func Examples() []route.Example {
	return []route.Example{
		route.NewExample(Set, SetRequest{Key: "API_TOKEN", Value: NewInput("the value, which no call shows again")}, SetResponse{Success: true, Key: "API_TOKEN", Created: true}),
	}
}
