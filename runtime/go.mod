module github.com/rumi-ai/rumi/runtime

go 1.26.0
