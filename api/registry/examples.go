package registry

import "github.com/rumi-ai/rumi/libs/route"

// Examples are for the document of the API.
func Examples() []route.Example {
	return []route.Example{
		route.NewExample(Import, ImportRequest{Path: "downloads/my_pack.zip", Notes: "from the author's page"}, ImportResponse{}),
	}
}
