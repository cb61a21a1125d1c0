package sandbox_test

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/sandbox/sandboxtest"
)

func TestContainerIsAsHardenedAsTheProfile(t *testing.T) {
	for name, c := range map[string]struct {
		kind   sandbox.Kind
		limits sandbox.Limits
		own    string
	}{
		"pack":    {kind: sandbox.Pack},
		"handler": {kind: sandbox.Handler},
		"builder": {kind: sandbox.Builder, own: `{"Config": {"AttachStdin": true, "OpenStdin": true, "StdinOnce": true}}`},
		"a pack that was given more": {sandbox.Pack, sandbox.Limits{Memory: 1 << 30, CPUs: 1.5, PIDs: 200},
			`{"HostConfig": {"Memory": 1073741824, "MemorySwap": 1073741824, "NanoCpus": 1500000000, "PidsLimit": 200}}`},
		"a handler that was given less": {sandbox.Handler, sandbox.Limits{Memory: 16 << 20, CPUs: 0.01, PIDs: 8},
			`{"HostConfig": {"Memory": 16777216, "MemorySwap": 16777216, "NanoCpus": 10000000, "PidsLimit": 8}}`},
	} {
		t.Run(name, func(t *testing.T) {
			engine := sandbox.TestEngine(t)
			tree, data := t.TempDir(), t.TempDir()
			spec := sandbox.Probe(t, c.kind, "sleep")
			spec.PackID, spec.Principal, spec.Digest, spec.Packages = "weather", "weather__child", "sha256:00", "sha256:11"
			spec.Dir, spec.Env, spec.Groups, spec.Stdin, spec.Limits = "/data", map[string]string{"KEY": "value"}, []int{1099}, true, c.limits
			spec.Mounts = []sandbox.Mount{{Source: tree, Target: "/pack"}, {Source: data, Target: "/data", Writable: true}}
			made := sandbox.CreateInTest(t, engine, spec)
			if err := engine.Start(t.Context(), made.ID); err != nil {
				t.Fatal(err)
			}
			const ofSpec = `{
				"Config": {"Entrypoint": ["/probe", "sleep"], "WorkingDir": "/data", "Volumes": {"/volume": {}}},
				"HostConfig": {"GroupAdd": ["1099"], "Mounts": [
					{"Type": "bind", "Source": "TREE", "Target": "/pack", "ReadOnly": true, "BindOptions": {"Propagation": "rprivate", "NonRecursive": true}},
					{"Type": "bind", "Source": "DATA", "Target": "/data", "BindOptions": {"Propagation": "rprivate", "NonRecursive": true}}
				]}
			}`
			found := sandboxtest.Hardened(t, made.ID, c.kind, strings.NewReplacer("TREE", tree, "DATA", data).Replace(ofSpec), cmp.Or(c.own, "{}"))
			wantLabels := map[string]string{"io.rumi.kind": string(c.kind), "io.rumi.name": spec.Name, "io.rumi.instance": sandbox.TestInstance,
				"io.rumi.pack_id": "weather", "io.rumi.principal": "weather__child", "io.rumi.digest": "sha256:00",
				"io.rumi.packages": "sha256:11", "io.rumi.image": sandbox.ProbeImage}
			if !maps.Equal(found.Labels, wantLabels) {
				t.Errorf("labels = %v, want %v", found.Labels, wantLabels)
			}
			if id, err := engine.Image(t.Context(), sandbox.ProbeImage); err != nil || found.Image != id {
				t.Errorf("image = %s, want %s, %v", found.Image, id, err)
			}
			if want := []string{"KEY=value", "FROM_PROBE=1"}; !slices.Equal(found.Env, want) {
				t.Errorf("environment = %q, want %q", found.Env, want)
			}
		})
	}
}
