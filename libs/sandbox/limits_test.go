package sandbox

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// What the profile promises, by its effect on a program that tries.

func TestRights(t *testing.T) {
	spec := probe(t, Pack, "rights")
	spec.Groups, spec.Env, spec.Dir = []int{1099}, map[string]string{"GIVEN": "yes"}, "/tmp"
	found := tried[map[string]string](t, testEngine(t), spec)
	for key, want := range map[string]string{
		"Uid":            "65534 65534 65534 65534",
		"Gid":            "65534 65534 65534 65534",
		"Groups":         "1099 65534",
		"CapInh":         "0000000000000000",
		"CapPrm":         "0000000000000000",
		"CapEff":         "0000000000000000",
		"CapBnd":         "0000000000000000",
		"CapAmb":         "0000000000000000",
		"NoNewPrivs":     "1",
		"Seccomp":        "2",
		"Pid":            "1",
		"Max open files": "1024 1024 files",
		// The limit of core files would otherwise be the host's.
		"Max core file size": "0 0 bytes",
		"hostname":           "pack",
		"dir":                "/tmp",
	} {
		if found[key] != want {
			t.Errorf("%s = %q, want %q", key, found[key], want)
		}
	}
	if !strings.Contains(found["env"], "GIVEN=yes") || !strings.Contains(found["env"], "FROM_PROBE=1") {
		t.Errorf("the environment is %s, want GIVEN and FROM_PROBE", found["env"])
	}
}

func TestOnlyWritableMountsAreWritable(t *testing.T) {
	tree, data := t.TempDir(), t.TempDir()
	for _, dir := range []string{tree, data} {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	spec := probe(t, Pack, "write", "/", "/etc", "/proc/sys/kernel", "/sys", "/dev", "/pack", "/data", "/tmp", "/dev/shm")
	spec.Mounts = []Mount{{Source: tree, Target: "/pack"}, {Source: data, Target: "/data", Writable: true}}
	found := tried[map[string]string](t, testEngine(t), spec)
	for dir, err := range found {
		writable := dir == "/data" || dir == "/tmp" || dir == "/dev/shm"
		if writable != (err == "") {
			t.Errorf("writing to %s: got %q, want it possible: %v", dir, err, writable)
		}
	}
	if found["/"] == "" || !strings.Contains(found["/pack"], "read-only file system") {
		t.Errorf("writing to / and /pack: %q, %q; want both refused, the second as read-only", found["/"], found["/pack"])
	}
}

// A bind of a folder must not bring along what is mounted below it, as /dev/shm is below /dev on any Linux: it would be
// writable, since read-only is a property of each mount.
func TestMountsBelowAMountStayOut(t *testing.T) {
	spec := probe(t, Pack, "write", "/pack/shm")
	spec.Mounts = []Mount{{Source: "/dev", Target: "/pack"}}
	found := tried[map[string]string](t, testEngine(t), spec)
	if !strings.Contains(found["/pack/shm"], "read-only file system") {
		t.Errorf("writing to a file system mounted below a read-only mount: %q; want it read-only", found["/pack/shm"])
	}
}

// What the seccomp profile lets through: families AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK, none of the calls that lead out.
func TestSystemCalls(t *testing.T) {
	found := tried[map[string]string](t, testEngine(t), probe(t, Pack, "calls"))
	for _, family := range []string{"socket 1", "socket 2", "socket 10", "socket 16"} {
		if _, ok := found[family]; !ok {
			t.Errorf("the family %s is refused, want it allowed", family)
		}
		delete(found, family)
	}
	if len(found) > 0 {
		t.Errorf("not refused with EPERM: %v; want none", found)
	}
}

func TestMemoryBomb(t *testing.T) {
	exit, out := finish(t, testEngine(t), probe(t, Pack, "memory"))
	if exit.Code != 137 || !exit.OOMKilled || out != "" {
		t.Errorf("a program that takes 1 GiB ended with %+v and %q", exit, out)
	}
}

func TestForkBomb(t *testing.T) {
	found := tried[struct {
		Children int
		Error    string
		Again    bool
	}](t, testEngine(t), probe(t, Pack, "fork"))
	if found.Children >= int(DefaultLimits.PIDs) || !found.Again {
		t.Errorf("a program that forks on had %d children, then: %s; want less than %d, and that it may fork again", found.Children, found.Error, DefaultLimits.PIDs)
	}
}

func TestFullTmp(t *testing.T) {
	found := tried[struct {
		Copied, Run string
		Bytes       int
		Full        bool
		Files       int
		FilesFull   bool `json:"files_full"`
	}](t, testEngine(t), probe(t, Pack, "tmp"))
	if found.Copied != "" || !strings.Contains(found.Run, "permission denied") {
		t.Errorf("running a program from /tmp: %q, %q; want it copied and refused", found.Copied, found.Run)
	}
	if found.Bytes > tmpSize || !found.Full {
		t.Errorf("%d bytes fit in /tmp, full %v", found.Bytes, found.Full)
	}
	if found.Files > tmpInodes || !found.FilesFull {
		t.Errorf("%d files fit in /tmp, full %v", found.Files, found.FilesFull)
	}
}

func TestNetwork(t *testing.T) {
	engine := testEngine(t)
	type network struct {
		Interfaces  []string
		Routes      int
		Unreachable bool
	}
	found := tried[network](t, engine, probe(t, Pack, "network"))
	if fmt.Sprint(found) != "{[lo] 0 true}" {
		t.Errorf("a pack's network is %+v, want lo alone and no route", found)
	}
	if found = tried[network](t, engine, probe(t, Builder, "network")); len(found.Interfaces) != 2 || found.Routes == 0 {
		t.Errorf("a builder's network is %+v, want two interfaces and a route", found)
	}
}

func TestOneCPU(t *testing.T) {
	if spent := tried[int](t, testEngine(t), probe(t, Pack, "cpu")); spent > 1300 {
		t.Errorf("four threads took %d ms of processor time in a second", spent)
	}
}
