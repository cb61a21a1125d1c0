module github.com/rumi-ai/rumi/cli

go 1.26.0

require github.com/rumi-ai/rumi/libs v0.0.0

replace github.com/rumi-ai/rumi/libs => ../libs
