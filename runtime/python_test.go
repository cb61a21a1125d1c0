package main

import (
	"os/exec"
	"testing"

	"github.com/rumi-ai/rumi/libs/testenv"
)

// The two client modules, against a server of their own. They are for any Python from 3.9 on; this is the machine's.
func TestPythonClients(t *testing.T) {
	testenv.NeedsProgram(t, "python3")
	out, err := exec.CommandContext(t.Context(), "python3", "-B", "-W", "error::ResourceWarning", "-m", "unittest", "discover", "-s", "python/tests").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
