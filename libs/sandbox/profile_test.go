package sandbox

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// What the engine reports of each kind. Every field of the report that is not named here must be empty.
const reportedCommon = `{
	"Config": {
		"User": "65534:65534", "Entrypoint": ["/probe", "sleep"], "WorkingDir": "/data", "Image": "IMAGE",
		"AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "OpenStdin": true,
		"Healthcheck": {"Test": ["NONE"]}, "StopSignal": "SIGTERM", "StopTimeout": 10,
		"Env": ["KEY=value", "FROM_PROBE=1"], "Volumes": {"/volume": {}}
	},
	"HostConfig": {
		"ReadonlyRootfs": true, "CapDrop": ["ALL"],
		"IpcMode": "private", "CgroupnsMode": "private", "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
		"GroupAdd": ["1099"], "ShmSize": 16777216, "OomScoreAdj": 500,
		"Tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,mode=1777,size=67108864,nr_inodes=16384"},
		"Memory": 536870912, "MemorySwap": 536870912, "NanoCpus": 1000000000, "PidsLimit": 128,
		"Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 1024}, {"Name": "core", "Soft": 0, "Hard": 0}],
		"Mounts": [
			{"Type": "bind", "Source": "TREE", "Target": "/pack", "ReadOnly": true, "BindOptions": {"Propagation": "rprivate", "NonRecursive": true}},
			{"Type": "bind", "Source": "DATA", "Target": "/data", "BindOptions": {"Propagation": "rprivate", "NonRecursive": true}}
		],
		"Runtime": "runc"
	}
}`

var reportedByKind = map[Kind]string{
	Pack: `{"Config": {"Hostname": "pack"}, "HostConfig": {"NetworkMode": "none",
		"LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}}}`,
	Handler: `{"Config": {"Hostname": "handler", "StdinOnce": true}, "HostConfig": {"NetworkMode": "none",
		"LogConfig": {"Type": "none", "Config": {}}}}`,
	Builder: `{"Config": {"Hostname": "builder", "StdinOnce": true}, "HostConfig": {"NetworkMode": "bridge",
		"LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}}}`,
}

// The engine fills these in by itself: what it hides of /proc and /sys.
var enginesOwn = map[string][]string{
	"MaskedPaths":   {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"},
	"ReadonlyPaths": {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
}

func TestContainerIsAsHardenedAsTheProfile(t *testing.T) {
	engine := testEngine(t)
	for kind, own := range reportedByKind {
		t.Run(string(kind), func(t *testing.T) {
			tree, data := t.TempDir(), t.TempDir()
			spec := probe(t, kind, "sleep")
			spec.PackID, spec.Principal, spec.Digest = "weather", "weather__child", "sha256:00"
			spec.Dir, spec.Env, spec.Groups, spec.Stdin = "/data", map[string]string{"KEY": "value"}, []int{1099}, true
			spec.Mounts = []Mount{{Source: tree, Target: "/pack"}, {Source: data, Target: "/data", Writable: true}}
			c := create(t, engine, spec)
			if err := engine.Start(t.Context(), c.ID); err != nil {
				t.Fatal(err)
			}
			_, raw, err := engine.api.ContainerInspectWithRaw(t.Context(), c.ID, false)
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]map[string]any
			decodeSome(t, raw, &got, "Config", "HostConfig")

			labels := got["Config"]["Labels"]
			delete(got["Config"], "Labels")
			wantLabels := map[string]any{"io.rumi.kind": string(kind), "io.rumi.name": spec.Name, "io.rumi.instance": testInstance,
				"io.rumi.pack_id": "weather", "io.rumi.principal": "weather__child", "io.rumi.digest": "sha256:00"}
			if !reflect.DeepEqual(labels, wantLabels) {
				t.Errorf("labels = %v, want %v", labels, wantLabels)
			}
			calls, err := systemCalls()
			if err != nil {
				t.Fatal(err)
			}
			security := []any{"no-new-privileges:true", "seccomp=" + calls}
			if !reflect.DeepEqual(got["HostConfig"]["SecurityOpt"], security) {
				t.Errorf("SecurityOpt = %v, want %v", got["HostConfig"]["SecurityOpt"], security)
			}
			delete(got["HostConfig"], "SecurityOpt")
			for field, atLeast := range enginesOwn {
				hidden, _ := json.Marshal(got["HostConfig"][field])
				for _, path := range atLeast {
					if !strings.Contains(string(hidden), `"`+path+`"`) {
						t.Errorf("HostConfig.%s = %s, which lacks %s", field, hidden, path)
					}
				}
				delete(got["HostConfig"], field)
			}
			want := map[string]map[string]any{}
			text := strings.NewReplacer("IMAGE", probeImage, "TREE", tree, "DATA", data).Replace(reportedCommon)
			decodeSome(t, []byte(text), &want, "Config", "HostConfig")
			decodeSome(t, []byte(own), &want, "Config", "HostConfig")
			for part, fields := range got {
				for field, value := range fields {
					expected, named := want[part][field]
					delete(want[part], field)
					if named && !reflect.DeepEqual(value, expected) || !named && !empty(value) {
						t.Errorf("%s.%s = %v, want %v", part, field, value, expected)
					}
				}
				for field, expected := range want[part] {
					t.Errorf("%s.%s is missing, want %v", part, field, expected)
				}
			}
		})
	}
}

// decodeSome adds the named members of a JSON object to what into has.
func decodeSome(t *testing.T, raw []byte, into *map[string]map[string]any, names ...string) {
	t.Helper()
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	if *into == nil {
		*into = map[string]map[string]any{}
	}
	for _, name := range names {
		part := (*into)[name]
		if err := json.Unmarshal(all[name], &part); err != nil {
			t.Fatal(err)
		}
		(*into)[name] = part
	}
}

// empty says whether a decoded JSON value is nothing: null, "", 0, false, or made of nothing.
func empty(value any) bool {
	switch v := value.(type) {
	case []any:
		for _, inner := range v {
			if !empty(inner) {
				return false
			}
		}
		return true
	case map[string]any:
		for _, inner := range v {
			if !empty(inner) {
				return false
			}
		}
		return true
	default:
		return v == nil || v == "" || v == 0.0 || v == false
	}
}

func TestCreateRefuses(t *testing.T) {
	engine := testEngine(t)
	dir := t.TempDir()
	good := func() Spec {
		spec := probe(t, Pack, "exit", "0")
		spec.Mounts = []Mount{{Source: dir, Target: "/pack"}}
		return spec
	}
	mount := func(source, target string) func(*Spec) {
		return func(s *Spec) { s.Mounts = append(s.Mounts, Mount{Source: source, Target: target}) }
	}
	link := filepath.Join(t.TempDir(), "link")
	symlink(t, dir, link)
	cases := map[string]struct {
		spoil func(*Spec)
		want  string
	}{
		"no kind":           {func(s *Spec) { s.Kind = "" }, "kind"},
		"another kind":      {func(s *Spec) { s.Kind = "privileged" }, "kind"},
		"no name":           {func(s *Spec) { s.Name = "" }, "name"},
		"name with slash":   {func(s *Spec) { s.Name = "../x" }, "name"},
		"name with newline": {func(s *Spec) { s.Name = "x\n" }, "name"},
		"long name":         {func(s *Spec) { s.Name = strings.Repeat("x", 129) }, "name"},
		"no image":          {func(s *Spec) { s.Image = "" }, "no image"},
		"missing image":     {func(s *Spec) { s.Image = "rumi-no-such-image:1" }, "Image rumi-no-such-image:1 is missing"},
		"no command":        {func(s *Spec) { s.Command = nil }, "no command"},
		"relative folder":   {func(s *Spec) { s.Dir = "x" }, "not absolute"},
		"bad variable":      {func(s *Spec) { s.Env = map[string]string{"A=B": "c"} }, "environment"},
		"NUL in variable":   {func(s *Spec) { s.Env = map[string]string{"A": "\x00"} }, "environment"},
		"group root":        {func(s *Spec) { s.Groups = []int{0} }, "group 0"},
		"docker socket":     {mount("/var/run/docker.sock", "/x"), "neither a folder nor a regular file"},
		"the host's root":   {mount("/", "/x"), "neither a folder nor a regular file"},
		"a device":          {mount("/dev/null", "/x"), "neither a folder nor a regular file"},
		"a link":            {mount(link, "/x"), "neither a folder nor a regular file"},
		"missing source":    {mount("/no/such/folder", "/x"), "no such file"},
		"relative source":   {mount("x", "/x"), "clean absolute path"},
		"source upwards":    {mount(dir+"/../x", "/x"), "clean absolute path"},
		"relative target":   {mount(dir, "x"), "clean absolute path"},
		"target root":       {mount(dir, "/"), "the image's own"},
		"target proc":       {mount(dir, "/proc/sys"), "the image's own"},
		"target usr":        {mount(dir, "/usr/local/bin"), "the image's own"},
		"target tmp":        {mount(dir, "/tmp/x"), "the image's own"},
		"target upwards":    {mount(dir, "/x/../proc"), "clean absolute path"},
		"target twice":      {mount(dir, "/pack"), "mounted twice"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			spec := good()
			c.spoil(&spec)
			made, err := engine.Create(t.Context(), spec)
			if err == nil {
				_ = engine.Remove(t.Context(), made.ID)
				t.Fatal("made a container")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q says nothing of %q", err, c.want)
			}
		})
	}
}

func TestConnectRefuses(t *testing.T) {
	for _, cfg := range []Config{
		{Instance: "UPPER"}, {Instance: "a/b"}, {Instance: "a\n"}, {Instance: "-a"},
		{BuilderNetwork: "host"}, {BuilderNetwork: "container:gateway"}, {BuilderNetwork: "a b"},
		{Host: "nonsense"},
	} {
		if _, err := Connect(t.Context(), cfg); err == nil {
			t.Errorf("Connect(%+v) succeeded", cfg)
		}
	}
}
