module github.com/rumi-ai/rumi/services/approval

go 1.26.0

require (
	github.com/rumi-ai/rumi/libs v0.0.0
	github.com/rumi-ai/rumi/services/capability-broker v0.0.0
	github.com/rumi-ai/rumi/services/pip-installer v0.0.0
)

require github.com/aymanbagabas/go-udiff v0.4.1 // indirect

replace (
	github.com/rumi-ai/rumi/libs => ../../libs
	github.com/rumi-ai/rumi/services/approval => ../approval
	github.com/rumi-ai/rumi/services/capability-broker => ../capability-broker
	github.com/rumi-ai/rumi/services/pip-installer => ../pip-installer
)
