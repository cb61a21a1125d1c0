package layout_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/services/capability-broker/internal/layout"
)

// A handler may be granted folders by their path. Everything of the broker's lies in a folder that no grant gives, but for what packs share.
func TestEverythingButSharedIsPrivate(t *testing.T) {
	const u = layout.UserData("/home/rumi/user_data")
	private := u.Private()
	for _, path := range []string{
		u.Capabilities(), u.Trees(), u.Environments(), u.Handlers(), u.Logs(), u.Runs(), u.Locks(), u.Replicas(), u.Authorities(), u.Packs(), u.State(),
	} {
		if !slices.ContainsFunc(private, func(folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }) {
			t.Errorf("%s lies in none of the private folders %v", path, private)
		}
	}
	if slices.Contains(private, u.Shared()) || filepath.Dir(u.Shared()) != string(u) {
		t.Errorf("the shared folder is %s, want one in %s that isn't private", u.Shared(), u)
	}
}
