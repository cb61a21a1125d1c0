package sandbox

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
)

func symlink(t *testing.T, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(err)
	}
}

const recordedID = "5567919b5ecbeb43d118a0f4b04b47dd9180668df3e3ddb981ad6bd5e1f3c38a"

func TestOwnContainerInRecordedMountinfo(t *testing.T) {
	files, err := filepath.Glob("testdata/mountinfo/*")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d recorded texts, %v; want 8 at least", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want := recordedID
			if strings.HasPrefix(filepath.Base(file), "host") {
				want = ""
			}
			text, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer text.Close()
			got, err := containerID(text)
			if err != nil || got != want {
				t.Errorf("container = %q, %v; want %q", got, err, want)
			}
		})
	}
}

func TestHostPath(t *testing.T) {
	me := &self{inContainer: true, mounts: []ownMount{
		{target: "/rumi/user_data", source: "/home/op/rumi/user_data", writable: true},
		{target: "/rumi/user_data/audit", source: "/var/audit"},
		{target: "/run/rumi", source: "/var/lib/docker/volumes/rumi_run/_data", writable: true},
	}}
	for name, want := range map[string]string{
		"/rumi/user_data":           "/home/op/rumi/user_data",
		"/rumi/user_data/packs/a":   "/home/op/rumi/user_data/packs/a",
		"/rumi/user_data/audit/x":   "/var/audit/x",
		"/rumi/user_data/auditor":   "/home/op/rumi/user_data/auditor",
		"/run/rumi/egress/packs/ab": "/var/lib/docker/volumes/rumi_run/_data/egress/packs/ab",
		"/rumi/user_datax":          "",
		"/rumi":                     "",
		"/":                         "",
		"/etc/passwd":               "",
	} {
		got, _, err := me.hostPath(name)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("hostPath(%s) = %q, %v; want %q", name, got, err, want)
		}
	}
	outside := &self{}
	if got, _, err := outside.hostPath("/any/where"); got != "/any/where" || err != nil {
		t.Errorf("outside a container: got %q, %v; want the path unchanged", got, err)
	}
}

// runProbe starts a container, waits for its end, and decodes what it printed.
func runProbe(t *testing.T, ctx context.Context, engine *Engine, id string) (found map[string]string) {
	t.Helper()
	if err := engine.api.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	ended, failure := engine.api.ContainerWait(ctx, id, container.WaitConditionNotRunning)
	select {
	case <-ended:
	case err := <-failure:
		t.Fatal(err)
	}
	raw, err := engine.api.ContainerLogs(ctx, id, container.LogsOptions{ShowStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	var head [8]byte
	if _, err := raw.Read(head[:]); err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(raw).Decode(&found); err != nil {
		t.Fatal(err)
	}
	return found
}

// sourceOf is where the host has what a container has mounted at target.
func sourceOf(t *testing.T, engine *Engine, id, target string) string {
	t.Helper()
	report, err := engine.api.ContainerInspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range report.Mounts {
		if m.Destination == target {
			return m.Source
		}
	}
	return ""
}

// The sandbox in a container of its own, over the Docker socket, as the services use it.
func TestSelfInAContainer(t *testing.T) {
	engine := testEngine(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tree := t.TempDir()
	if err := os.Mkdir(filepath.Join(tree, "pack"), 0o755); err != nil {
		t.Fatal(err)
	}
	symlink(t, "/etc", filepath.Join(tree, "link"))
	project := testInstance + "-self"
	socket := strings.TrimPrefix(engine.api.DaemonHost(), "unix://")
	// Made without the sandbox, which can't: it has the Docker socket. Its image's volume makes a mount of that type, too.
	made, err := engine.api.ContainerCreate(ctx, &container.Config{
		Image: probeImage, User: "0:0", Env: []string{"PROBE_IMAGE=" + probeImage},
		Entrypoint: []string{"/probe", "self", "/tree", "/tree/a/b", "/volume/x", "/memory/x", "/etc"},
		Labels:     map[string]string{"com.docker.compose.project": project},
	}, &container.HostConfig{
		NetworkMode: "none",
		Mounts: []mount.Mount{
			{Type: mount.TypeBind, Source: socket, Target: "/docker.sock"},
			{Type: mount.TypeBind, Source: tree, Target: "/tree", ReadOnly: true},
		},
		Tmpfs: map[string]string{"/memory": ""},
	}, nil, nil, project)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := Connect(ctx, Config{Instance: project})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := engine.api.ContainerRemove(ctx, made.ID, container.RemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
			t.Error(err)
		}
		if _, err := inner.Sweep(ctx, "", nil); err != nil {
			t.Error(err)
		}
	}()
	found := runProbe(t, ctx, engine, made.ID)
	volume := sourceOf(t, engine, made.ID, "/volume")
	for key, want := range map[string]string{
		"instance": project, "error": "", "/tree": tree, "/tree/a/b": tree + "/a/b", "/volume/x": volume + "/x", "create": "",
	} {
		if found[key] != want {
			t.Errorf("%s = %q, want %q", key, found[key], want)
		}
	}
	for key, want := range map[string]string{
		"/memory/x": "in no mount", "/etc": "in no mount", "unknown": "in no mount",
		"link": "neither a folder", "socket": "neither a folder", "readonly": "may not write there itself",
	} {
		if !strings.Contains(found[key], want) {
			t.Errorf("%s = %q, which says nothing of %q", key, found[key], want)
		}
	}
	// What it made has the host's path in it.
	inside, err := inner.Find(ctx, Pack, "inner-create")
	if err != nil || len(inside) != 1 {
		t.Fatalf("the engine inside made %+v, %v; want one", inside, err)
	}
	seen, err := engine.api.ContainerInspect(ctx, inside[0].ID)
	if err != nil || seen.HostConfig.Mounts[0].Source != tree+"/pack" {
		t.Errorf("the mounts are %+v, %v; want the host's path %s", seen.HostConfig.Mounts, err, tree+"/pack")
	}
}
