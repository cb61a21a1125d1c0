// Package sandboxtest compares containers, as the engine reports them, with the profile that package sandbox promises.
package sandboxtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

// Socket is where the engine listens that tests use.
const Socket = "/var/run/docker.sock"

// reportedCommon is what the engine reports of a container of any kind. Every field that is named neither here nor below
// must be empty, so a field that a later engine adds is noticed.
const reportedCommon = `{
	"Config": {
		"User": "65534:65534", "AttachStdout": true, "AttachStderr": true,
		"Healthcheck": {"Test": ["NONE"]}, "StopSignal": "SIGTERM", "StopTimeout": 10
	},
	"HostConfig": {
		"ReadonlyRootfs": true, "CapDrop": ["ALL"],
		"IpcMode": "private", "CgroupnsMode": "private", "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
		"ShmSize": 16777216, "OomScoreAdj": 500,
		"Tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,mode=1777,size=67108864,nr_inodes=16384"},
		"Memory": 536870912, "MemorySwap": 536870912, "NanoCpus": 1000000000, "PidsLimit": 128,
		"Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 1024}, {"Name": "core", "Soft": 0, "Hard": 0}],
		"Runtime": "runc"
	}
}`

var reportedByKind = map[sandbox.Kind]string{
	sandbox.Pack: `{"Config": {"Hostname": "pack", "AttachStdin": true, "OpenStdin": true}, "HostConfig": {"NetworkMode": "none",
		"LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}}}`,
	sandbox.Handler: `{"Config": {"Hostname": "handler", "AttachStdin": true, "OpenStdin": true, "StdinOnce": true}, "HostConfig": {
		"NetworkMode": "none", "LogConfig": {"Type": "none", "Config": {}}}}`,
	sandbox.Builder: `{"Config": {"Hostname": "builder"}, "HostConfig": {"NetworkMode": "bridge",
		"LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}}}`,
}

// enginesOwn is what the engine fills in by itself: what it hides of /proc and /sys, at the least.
var enginesOwn = map[string][]string{
	"MaskedPaths":   {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"},
	"ReadonlyPaths": {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
}

// Report is the engine's description of a container, as far as a caller may judge it.
type Report struct {
	Image  string
	Labels map[string]string
	Env    []string
}

// Hardened fails the test for each field in which the container differs from the profile of its kind and what is its own:
// JSON objects with "Config" and "HostConfig" as the engine has them, each of which adds fields or replaces them.
// Labels, image and environment are returned, for the caller to judge.
func Hardened(t testing.TB, id string, kind sandbox.Kind, own ...string) Report {
	t.Helper()
	var got, want map[string]map[string]any
	raw := inspect(t, id)
	decodeSome(t, raw, &got, "Config", "HostConfig")
	for _, text := range append([]string{reportedCommon, reportedByKind[kind]}, own...) {
		decodeSome(t, []byte(text), &want, "Config", "HostConfig")
	}
	report := Report{Labels: map[string]string{}}
	if err := json.Unmarshal(raw, &struct{ Config *Report }{&report}); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"Labels", "Image", "Env"} {
		delete(got["Config"], field)
	}
	if digits := report.Labels["io.rumi.spec"]; !regexp.MustCompile(`\A[0-9a-f]{64}\z`).MatchString(digits) {
		t.Errorf("label io.rumi.spec is %q", digits)
	}
	delete(report.Labels, "io.rumi.spec")

	calls, err := sandbox.SystemCalls()
	if err != nil {
		t.Fatal(err)
	}
	want["HostConfig"]["SecurityOpt"] = []any{"no-new-privileges:true", "seccomp=" + calls}
	takeEnginesOwn(t, got["HostConfig"])
	for part := range got {
		compare(t, part, got[part], want[part])
	}
	return report
}

// takeEnginesOwn checks the fields that the engine fills in by itself, and takes them out of what is compared.
func takeEnginesOwn(t testing.TB, host map[string]any) {
	t.Helper()
	for field, atLeast := range enginesOwn {
		hidden, _ := json.Marshal(host[field])
		for _, path := range atLeast {
			if !strings.Contains(string(hidden), `"`+path+`"`) {
				t.Errorf("HostConfig.%s = %s, which lacks %s", field, hidden, path)
			}
		}
		delete(host, field)
	}
}

// compare fails the test for each field of a part that differs from what is wanted; a field that isn't named must be empty.
func compare(t testing.TB, part string, got, want map[string]any) {
	t.Helper()
	for field, value := range got {
		expected, named := want[field]
		delete(want, field)
		if named && !reflect.DeepEqual(value, expected) || !named && !empty(value) {
			t.Errorf("%s.%s = %v, want %v", part, field, value, expected)
		}
	}
	for field, expected := range want {
		if !empty(expected) {
			t.Errorf("%s.%s is missing, want %v", part, field, expected)
		}
	}
}

// inspect asks the engine itself, past every library.
func inspect(t testing.TB, id string) []byte {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", Socket)
		},
	}}
	response, err := client.Get("http://engine/containers/" + id + "/json")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, raw)
	}
	if err != nil {
		t.Fatalf("inspect container: %v", err)
	}
	return raw
}

// decodeSome adds the named members of a JSON object to what into has.
func decodeSome(t testing.TB, raw []byte, into *map[string]map[string]any, names ...string) {
	t.Helper()
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	if *into == nil {
		*into = map[string]map[string]any{}
	}
	for _, name := range names {
		if all[name] == nil {
			continue
		}
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
