package main

import (
	"path/filepath"
	"testing"

	"github.com/rumi-ai/rumi/libs/gate"
)

// While a pack is being uninstalled nothing is granted to it, or what an uninstall has taken would be there again when the same pack
// is installed anew.
func TestNoGrantDuringAnUninstall(t *testing.T) {
	w := newWorld(t)
	w.env["RUMI_DOCKER_SOCKET"] = filepath.Join(w.run, "none.sock")
	w.start()
	w.gate("p", "approved", "")
	request := map[string]any{"principal_id": "p", "permission_id": "test.echo"}
	w.must("POST", "/api/capability/grants/grant", request)
	w.mu.Lock()
	w.revision++
	retired := gate.State{PackID: "p", Status: "error", Revision: w.revision, Retired: true}
	w.mu.Unlock()
	w.gates.Set(t.Context(), retired)
	w.as("pack-registry", "DELETE", "/internal/packs/p", nil) // it waits for the news; without Docker not all of it succeeds
	if a := w.api("POST", "/api/capability/grants/grant", request); a.code != 409 {
		t.Errorf("grant after the revocation: %v; want 409", a)
	}
	if list := w.must("GET", "/api/capability/grants?principal_id=p", nil); list["count"] != 0.0 {
		t.Errorf("p's grants after the uninstall are %v, want none", list)
	}
	w.gates.Remove(t.Context(), "p")
	w.gate("p", "approved", "") // installed anew
	w.eventually("it can be granted again", func() bool { return w.api("POST", "/api/capability/grants/grant", request).code == 200 })
}
