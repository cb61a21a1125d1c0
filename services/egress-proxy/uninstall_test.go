package main

import (
	"strings"
	"testing"

	api "github.com/rumi-ai/rumi/api/egress"
	"github.com/rumi-ai/rumi/libs/gate"
)

// While a pack is being uninstalled nothing is granted to it, or what an uninstall has taken would be there again when the same pack
// is installed anew.
func TestNoGrantDuringAnUninstall(t *testing.T) {
	r := newRig(t, nil)
	r.pack("p", "approved")
	r.pack("other", "approved")
	r.grant("p", `"a.test"`, "443")
	revision++
	r.gates.Set(t.Context(), gate.State{PackID: "p", Status: "error", Revision: revision, Retired: true})
	if _, err := api.NewClient(r.suite.Peer("pack-registry", "egress-proxy")).Remove(t.Context(), "p"); err != nil { // it waits for the news
		t.Fatal(err)
	}
	const grant = `{"pack_id":"p","allowed_domains":["b.test"],"allowed_ports":[443]}`
	const refused = "Cannot grant anything to pack 'p': its uninstall is incomplete: repeat `DELETE /api/packs/p`, unless another call is still at it"
	if status, answer := r.call("POST", "/api/network/grant", grant); status != 409 || !strings.Contains(answer, refused) || !strings.Contains(answer, `"uninstall_incomplete"`) {
		t.Errorf("grant after the revocation: %d %s; want 409 uninstall_incomplete", status, answer)
	}
	r.grant("other", `"a.test"`, "443")
	if got := r.mustCall("GET", "/api/network/list", ""); strings.Contains(got, `"p"`) {
		t.Errorf("the list is %s, want nothing of p", got)
	}
	r.gates.Remove(t.Context(), "p")
	r.pack("p", "approved") // installed anew
	r.eventually("it can be granted again", func() bool { status, _ := r.call("POST", "/api/network/grant", grant); return status == 200 })
}
