package access_test

import (
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/access"
)

func TestRolesIncludeTheOnesBefore(t *testing.T) {
	roles := access.Roles()
	for i, r := range roles {
		for k, other := range roles {
			if got, want := r.Covers(other), i >= k; got != want {
				t.Errorf("%s covers %s: got %v, want %v", r, other, got, want)
			}
		}
	}
	for _, stranger := range []access.Role{"", "root", "Admin"} {
		if stranger.Known() || stranger.May(access.ReadHealth) || access.Admin.Covers(stranger) {
			t.Errorf("the role %q is known, may read or is covered; want a role that may do nothing", stranger)
		}
	}
	if access.Admin.May("packs.sell") {
		t.Error("an admin has a verb that is in no table, want nobody")
	}
}

// A viewer changes nothing: its verbs are those that read.
func TestViewerOnlyReads(t *testing.T) {
	for _, v := range access.Verbs() {
		if got, want := access.Viewer.May(v), strings.HasSuffix(string(v), ".read"); got != want {
			t.Errorf("a viewer may %s: got %v, want %v", v, got, want)
		}
	}
}
