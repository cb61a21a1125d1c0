//go:build e2e

// These builds ask the real index, which no other test does: `go test -tags e2e`.

package build_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/build"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/environment"
)

func TestBuildInAContainer(t *testing.T) {
	b, engine := builder(t, nil)
	for _, c := range []struct {
		name, lock, packages, refusal string
		sdist                         bool
	}{
		{"a wheel", "idna==3.10 # pure Python\n", "idna 3.10", "", false},
		{"extras, and a name that is spelt otherwise", "Charset.Normalizer==3.4.0\nrequests[socks]==2.32.3\nidna==3.10\nurllib3==2.2.3\ncertifi==2024.8.30\nPySocks==1.7.1",
			"certifi 2024.8.30, charset-normalizer 3.4.0, idna 3.10, PySocks 1.7.1, requests 2.32.3, urllib3 2.2.3", "", false},
		{"a dependency that the lock lacks", "requests==2.32.3\nidna==3.10\nurllib3==2.2.3\ncertifi==2024.8.30", "", "charset", false},
		{"a version that isn't", "idna==99999.0", "", "No matching distribution", false},
		{"a source distribution that wasn't asked for", "docopt==0.6.2", "", "No matching distribution", false},
		{"a source distribution", "docopt==0.6.2", "docopt 0.6.2", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			locked := parse(t, c.lock)
			built, err := b.Build(t.Context(), build.Request{PackID: "pack", Requirements: locked, AllowSdist: c.sdist})
			if failure, failed := errors.AsType[*build.Failure](err); c.refusal != "" {
				if !failed || failure.Unreachable || !strings.Contains(failure.Reason, c.refusal) {
					t.Fatalf("error is %v; want a failure that says %q", err, c.refusal)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			kept := t.TempDir()
			defer writable(t, kept)
			env, err := environment.NewStore(kept).Add(t.Context(), built.Dir, locked)
			if err != nil {
				t.Fatal(err)
			}
			var packages []string
			for _, p := range env.Packages {
				packages = append(packages, p.Name+" "+p.Version)
			}
			if got := strings.Join(packages, ", "); got != c.packages {
				t.Errorf("installed %s; want %v", got, c.packages)
			}
			if err := built.Remove(); err != nil {
				t.Error(err)
			}
		})
	}
	left, err := engine.List(t.Context(), sandbox.Builder)
	if err != nil || len(left) != 0 {
		t.Errorf("left %v, %v; want none", left, err)
	}
}

// writable undoes the modes of what is kept, which nobody but root can remove as it is.
func writable(t *testing.T, dir string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o700)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
