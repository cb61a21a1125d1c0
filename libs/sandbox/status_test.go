package sandbox

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/system"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/testenv"
)

func TestStatusOf(t *testing.T) {
	modern := system.Info{
		Driver: "overlay2", CgroupVersion: "2", CgroupDriver: "systemd", LiveRestoreEnabled: true, DefaultRuntime: "runc",
		MemoryLimit: true, SwapLimit: true, PidsLimit: true, CPUCfsQuota: true,
		Runtimes:        map[string]system.RuntimeWithStatus{"runc": {}, "runsc": {}},
		SecurityOptions: []string{"name=apparmor", "name=seccomp,profile=builtin", "name=userns", "name=cgroupns"},
	}
	version := types.Version{Version: "28.5.2", Os: "linux", Arch: "arm64", KernelVersion: "6.8",
		Components: []types.ComponentVersion{{Name: "Engine", Version: "28.5.2"}, {Name: "containerd", Version: "v1.7.29"}, {Name: "runc", Version: "1.3.3"}}}
	s := statusOf(version, modern, "runsc")
	want := Status{
		Available: true, Version: "28.5.2", OS: "linux", Arch: "arm64", Kernel: "6.8",
		Components: map[string]string{"Engine": "28.5.2", "containerd": "v1.7.29", "runc": "1.3.3"},
		Runtimes:   []string{"runc", "runsc"}, DefaultRuntime: "runc", Runtime: "runsc", StorageDriver: "overlay2", CgroupVersion: "2", CgroupDriver: "systemd",
		Seccomp: true, AppArmor: true, UserNamespaces: true, LiveRestore: true,
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got %+v, want %+v", s, want)
	}
	codes := func(s Status) string {
		var list []string
		for _, w := range s.Warnings {
			list = append(list, w.Code)
		}
		return strings.Join(list, " ")
	}
	if got := codes(statusOf(version, modern, "kata")); got != "runtime_unknown" {
		t.Errorf("with a runtime that it doesn't know: %s; want runtime_unknown", got)
	}
	if got := codes(statusOf(version, modern, "io.containerd.kata.v2")); got != "" {
		t.Errorf("with a runtime that is named by its type: %s; want nothing", got)
	}
	old := types.Version{Version: "20.10.24+dfsg1"} // components are told since API 1.35
	if got := codes(statusOf(old, system.Info{SecurityOptions: []string{"name=selinux", "name=rootless"}}, "")); got !=
		"known_vulnerability no_seccomp no_memory_limit no_pids_limit no_cpu_limit" {
		t.Errorf("with an engine that can do nothing: %s; want each limit named", got)
	}
	modern.SwapLimit = false
	if got := codes(statusOf(version, modern, "")); got != "no_swap_limit" {
		t.Errorf("without a limit of swap: %s; want no_swap_limit", got)
	}
}

func TestStatusOfTheEngine(t *testing.T) {
	s := testEngine(t).Status(t.Context())
	if !s.Available || s.Components["Engine"] != s.Version || s.Components["runc"] == "" || s.DefaultRuntime == "" || s.Runtime != s.DefaultRuntime ||
		!slices.Contains(s.Runtimes, s.Runtime) || s.StorageDriver == "" || s.CgroupVersion == "" || s.CgroupDriver == "" || !s.Seccomp {
		t.Errorf("got %+v, want an available engine with seccomp and all fields", s)
	}
}

// A socket that everybody may write to is root for everybody.
func TestSocketForEverybodyIsWarnedOf(t *testing.T) {
	testenv.NeedsEngine(t)
	path := filepath.Join(t.TempDir(), "docker.sock")
	between, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer between.Close()
	go relay(between)
	engine, err := Connect(t.Context(), Config{Host: "unix://" + path, Instance: testInstance})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	for mode, want := range map[os.FileMode]bool{0o660: false, 0o666: true} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		s := engine.Status(t.Context())
		if got := slices.ContainsFunc(s.Warnings, func(w Warning) bool { return w.Code == "socket_world_writable" }); got != want || !s.Available {
			t.Errorf("mode %o: the status is %+v, want available, with a warning: %v", mode, s, want)
		}
	}
}

// relay has each connection go on to the engine.
func relay(l net.Listener) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("unix", "/var/run/docker.sock")
		if err != nil {
			from.Close()
			continue
		}
		go func() { defer from.Close(); defer to.Close(); _, _ = io.Copy(from, to) }()
		go func() { _, _ = io.Copy(to, from) }()
	}
}

func TestRuntime(t *testing.T) {
	testenv.NeedsEngine(t)
	engine, err := Connect(t.Context(), Config{Instance: testInstance, Runtime: "no-such-runtime"})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	_, err = engine.Create(t.Context(), probe(t, Pack, "sleep"))
	if f := fault.Of(err); f.Kind != fault.KindUnavailable || f.Message != `Docker knows no container runtime "no-such-runtime" (RUMI_CONTAINER_RUNTIME)` {
		t.Errorf("with a runtime that isn't there: %v; want unavailable, with the runtime's name", err)
	}
	// The shim's own name is another name of what runs here anyway.
	engine, err = Connect(t.Context(), Config{Instance: testInstance, Runtime: "io.containerd.runc.v2"})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	if exit, out := finish(t, engine, probe(t, Pack, "exit", "3")); exit.Code != 3 {
		t.Errorf("it ended with %+v: %s; want 3", exit, out)
	}
	c := create(t, engine, probe(t, Pack, "sleep"))
	raw, err := engine.api.ContainerInspect(t.Context(), c.ID)
	if err != nil || raw.HostConfig.Runtime != "io.containerd.runc.v2" {
		t.Errorf("it runs in %q, %v; want io.containerd.runc.v2", raw.HostConfig.Runtime, err)
	}
}

func TestImageThatMoves(t *testing.T) {
	testenv.NeedsEngine(t)
	var moves []string
	engine, err := Connect(t.Context(), Config{Instance: testInstance, ImageMoved: func(_ context.Context, name, from, to string) {
		moves = append(moves, name+" "+from+" "+to)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	id, err := engine.Image(t.Context(), probeImage)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if c := create(t, engine, probe(t, Pack, "sleep")); c.ImageID != id || c.Image != probeImage {
			t.Errorf("made of %s, %s; want %s, %s", c.Image, c.ImageID, probeImage, id)
		}
	}
	if len(moves) != 0 {
		t.Errorf("the moves told are %q, want none", moves)
	}
	engine.images[probeImage] = "sha256:before" // as if the tag had been another's
	create(t, engine, probe(t, Pack, "sleep"))
	if want := []string{probeImage + " sha256:before " + id}; !slices.Equal(moves, want) {
		t.Errorf("moves told: %q, want %q", moves, want)
	}
	spec := probe(t, Pack, "sleep")
	spec.Image = id
	if c := create(t, engine, spec); c.ImageID != id {
		t.Errorf("made by its id: %+v; want %s", c, id)
	}
}

func TestLimitsWithin(t *testing.T) {
	for _, c := range []struct {
		asked, ceiling, want Limits
		cut                  string
	}{
		{Limits{}, Limits{}, DefaultLimits, ""},
		{Limits{}, Limits{256 << 20, 0.5, 64}, Limits{256 << 20, 0.5, 64}, ""},
		{Limits{}, Limits{4 << 30, 4, 1000}, DefaultLimits, ""},
		{Limits{1 << 30, 2, 500}, Limits{4 << 30, 4, 1000}, Limits{1 << 30, 2, 500}, ""},
		{Limits{1 << 30, 2, 500}, Limits{}, DefaultLimits,
			"memory cut from 1024 to 512 MiB, CPUs cut from 2 to 1, processes cut from 500 to 128"},
		{Limits{Memory: 64 << 20}, Limits{CPUs: 0.25}, Limits{64 << 20, 0.25, 128}, ""},
	} {
		got, cut := c.asked.Within(c.ceiling)
		if got != c.want || strings.Join(cut, ", ") != c.cut {
			t.Errorf("%+v within %+v: got %+v, %q; want %+v, %q", c.asked, c.ceiling, got, cut, c.want, c.cut)
		}
	}
}

func TestStats(t *testing.T) {
	engine := testEngine(t)
	spec := probe(t, Pack, "sleep")
	spec.Limits = Limits{Memory: 64 << 20, PIDs: 20, CPUs: 64} // more processors than there are is no error
	c := create(t, engine, spec)
	if err := engine.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	for range engine.Logs(t.Context(), c.ID, LogOptions{Follow: true}) {
		break
	}
	s, err := engine.Stats(t.Context(), c.ID)
	if err != nil || s.MemoryLimit != 64<<20 || s.PIDLimit != 20 || s.Memory <= 0 || s.Memory > 64<<20 || s.PIDs < 1 || s.CPUTime <= 0 ||
		time.Since(s.Time) > time.Minute {
		t.Errorf("got %+v, %v; want limits of 64 MiB and 20 processes, and some use of both", s, err)
	}
}

// What engines tell of cgroup v1 and v2, cut to what matters.
func TestStatsOfBothCgroups(t *testing.T) {
	for name, c := range map[string]struct {
		raw  string
		want Stats
	}{
		"v1": {`{"read": "2027-01-02T03:04:05Z", "pids_stats": {"current": 3, "limit": 128},
			"blkio_stats": {"io_service_bytes_recursive": [{"major": 8, "op": "Read", "value": 4096}, {"major": 8, "op": "Write", "value": 10},
				{"major": 8, "op": "Sync", "value": 1}, {"major": 8, "op": "Total", "value": 4106}, {"major": 9, "op": "Read", "value": 1}]},
			"cpu_stats": {"cpu_usage": {"total_usage": 1500000000, "percpu_usage": [1, 2]}, "throttling_data": {"periods": 9, "throttled_time": 7}},
			"memory_stats": {"usage": 1000, "max_usage": 2000, "limit": 5000, "stats": {"total_inactive_file": 300, "inactive_file": 1}}}`,
			Stats{CPUTime: 1500 * time.Millisecond, ThrottledTime: 7, Memory: 700, MemoryPeak: 2000, MemoryLimit: 5000, PIDs: 3, PIDLimit: 128,
				BlockRead: 4097, BlockWritten: 10}},
		"v2": {`{"read": "2027-01-02T03:04:05Z", "pids_stats": {"current": 3, "limit": 18446744073709551615},
			"blkio_stats": {"io_service_bytes_recursive": [{"major": 8, "op": "read", "value": 4096}, {"major": 8, "op": "write", "value": 10}],
				"io_serviced_recursive": null},
			"cpu_stats": {"cpu_usage": {"total_usage": 1500000000}, "throttling_data": {"throttled_time": 7}},
			"memory_stats": {"usage": 1000, "limit": 5000, "stats": {"inactive_file": 300, "anon": 600}}}`,
			Stats{CPUTime: 1500 * time.Millisecond, ThrottledTime: 7, Memory: 700, MemoryLimit: 5000, PIDs: 3, BlockRead: 4096, BlockWritten: 10}},
		"more cache than usage": {`{"read": "2027-01-02T03:04:05Z", "memory_stats": {"usage": 10, "stats": {"inactive_file": 300}}}`, Stats{}},
	} {
		var raw container.StatsResponse
		if err := json.Unmarshal([]byte(c.raw), &raw); err != nil {
			t.Fatal(err)
		}
		c.want.Time = raw.Read
		if got := statsOf(raw); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
