package sandbox

import (
	"path/filepath"
	"strings"
	"testing"
)

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
		"too little memory": {func(s *Spec) { s.Limits.Memory = 1 << 20 }, "limits"},
		"negative CPUs":     {func(s *Spec) { s.Limits.CPUs = -1 }, "limits"},
		"no room for PID 1": {func(s *Spec) { s.Limits.PIDs = 1 }, "limits"},
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
		{Host: "nonsense"}, {Runtime: "a b"}, {Replica: "a/b"},
	} {
		if _, err := Connect(t.Context(), cfg); err == nil {
			t.Errorf("Connect(%+v) succeeds, want an error", cfg)
		}
	}
}
