module github.com/rumi-ai/rumi/e2e

go 1.26.0

require (
	github.com/alecthomas/kong v1.17.0
	github.com/go-json-experiment/json v1.27.2
	github.com/rumi-ai/rumi/libs v0.0.0
	golang.org/x/sys v0.49.0
)

replace github.com/rumi-ai/rumi/libs => ../libs
