package sandbox

// For the tests that need sandboxtest, which imports this package.
var (
	TestEngine   = testEngine
	Probe        = probe
	CreateInTest = create
	ProbeImage   = probeImage
	TestInstance = testInstance
)
