package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/e2e/bench/internal/table"
	"github.com/rumi-ai/rumi/libs/testenv"
)

// TestMain runs the hidden commands relay and keep if it is called with them: bench starts itself for these, and here "itself" is the test's
// program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "relay" || os.Args[1] == "keep") {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestEveryPartMeasures runs every part with real processes, sockets and containers, for a moment each. The numbers mean nothing. With the
// race detector on, the services are built with it, too.
func TestEveryPartMeasures(t *testing.T) {
	testenv.NeedsImage(t, "rumi-pack:local", "make images")
	cfg := config{root: "../..", build: buildFlags, image: "rumi-pack:local", scale: quick, progress: t.Output()}
	var out bytes.Buffer
	cfg.out = &out
	err := run(t.Context(), cfg, nil)
	if os.Geteuid() != 0 {
		if err == nil || !strings.Contains(err.Error(), "needs root") {
			t.Fatalf("without root: got %v, want an error that says that it needs root", err)
		}
		return
	}
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{"memory, ", "egress request, ", "egress denial, ", "tunnel, ", "gateway, ", "secrets.get, ", "capability call", "first call ",
		"revoke ", "gateway, GET /api/network/list, scraped, all traces", "egress request, framed, scraped, 1 % of traces", "changed file ", "scan ", "approve ", "import "} {
		if !strings.Contains(out.String(), "\n"+row) {
			t.Errorf("the table has no row that begins with %q", row)
		}
	}
	if !strings.Contains(out.String(), " 0 "+table.NotMeasured) {
		t.Errorf("the table says that parts were not measured, want 0; containers need `make images`:\n%s", out.String())
	}
}

func TestPartsAreCheckedBeforeAnythingStarts(t *testing.T) {
	err := run(t.Context(), config{scale: quick}, []string{"egress", "warp"})
	if err == nil || !strings.Contains(err.Error(), `no part "warp"`) {
		t.Fatalf("run of an unknown part: %v, want an error that names it", err)
	}
}
