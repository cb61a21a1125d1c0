module github.com/rumi-ai/rumi/e2e

go 1.26.0

require (
	github.com/alecthomas/kong v1.17.0
	github.com/go-json-experiment/json v1.27.2
	golang.org/x/sys v0.49.0
)
