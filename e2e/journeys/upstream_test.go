package journeys

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/e2e/internal/upstream"
)

// The upstream's name and URLs (upstream/main.go). testdata/upstream.yml has the same.
const (
	upstreamHost  = "tools.rumi.test"
	upstreamHTTPS = "https://" + upstreamHost + ":8443"
	upstreamHTTP  = "http://" + upstreamHost + ":8081"
)

// reconfigure restarts the suite with more compose files and other settings ("" unsets one). At the end of the test it restores the settings
// of before.
func (s *installation) reconfigure(t *testing.T, files []string, settings map[string]string) {
	t.Helper()
	before := s.env
	t.Cleanup(func() {
		if t.Failed() {
			s.printLastLogs() // containers are replaced now, and their logs with them
		}
		s.env = before
		if err := s.up(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("put the suite's settings back: %v", err)
		}
	})
	s.env = slices.DeleteFunc(slices.Clone(s.env), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		_, set := settings[name]
		return set
	})
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if settings[name] != "" {
			s.env = append(s.env, name+"="+settings[name])
		}
	}
	if len(files) > 0 {
		s.env = append(s.env, "COMPOSE_FILE="+strings.Join(append([]string{"docker-compose.yml"}, files...), ":"))
	}
	if err := s.up(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// upstreamSettings makes the upstream's certificates, and returns the settings with which packs may reach the upstream and trust it.
func (s *installation) upstreamSettings(t *testing.T) map[string]string {
	t.Helper()
	dir := filepath.Join(s.top, "upstream")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := upstream.MakeCertificates(dir, upstreamHost, time.Now()); err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"RUMI_EGRESS_ALLOW_CIDRS": "127.0.0.2/32",
		"RUMI_EGRESS_CA_FILE":     filepath.Join(dir, upstream.CAFile),
		"RUMI_EGRESS_RATE_LIMIT":  "0",
	}
}

// startUpstream runs the upstream until the test ends, in the network of the egress-proxy container proxy. An image other than packImage must
// have git: then the upstream serves a repository, too. It returns the id of the upstream's container.
func (s *installation) startUpstream(t *testing.T, image, proxy string) (id string) {
	t.Helper()
	program := filepath.Join(s.top, "upstream", "upstream")
	if _, err := os.Stat(program); err != nil {
		if _, err := s.command(t.Context(), buildWait, "env", "CGO_ENABLED=0", "go", "build", "-o", program, "./e2e/journeys/upstream"); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"run", "--detach", "--network", "container:" + proxy, "--cap-drop", "ALL", "--user", fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()),
		"--label", "com.docker.compose.project=" + s.project, // so that it is removed with the suite
		"--volume", filepath.Dir(program) + ":/upstream:ro", "--entrypoint", "/upstream/upstream",
		image, "-dir", "/upstream", "-https", "127.0.0.2:8443,127.0.0.2:9443", "-http", "127.0.0.2:8081"}
	if image != packImage {
		args = append(args, "-git", "/tmp/git")
	}
	out, err := s.command(t.Context(), commandWait, "docker", args...)
	if err != nil {
		t.Fatal(err)
	}
	id = strings.TrimSpace(out)
	t.Cleanup(func() {
		if _, err := s.command(context.WithoutCancel(t.Context()), commandWait, "docker", "rm", "--force", "--volumes", id); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the upstream to serve", func() bool { return strings.Contains(s.containerLogs(t, id), "serving") })
	return id
}

// containerLogs returns the log of a container.
func (s *installation) containerLogs(t *testing.T, id string) string {
	t.Helper()
	out, err := s.command(t.Context(), commandWait, "docker", "logs", id)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// eventually waits until a condition holds, readyWait at most. A slow machine takes far less.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for began := time.Now(); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > readyWait {
			t.Fatalf("waited %v for %s", readyWait, what)
		}
	}
}

// containerLog returns the lines that a pack has printed on standard output. It ends the test if the pack doesn't run.
func containerLog(t *testing.T, pack string) []string {
	t.Helper()
	var log struct {
		Lines []struct {
			Stream string `json:"stream"`
			Text   string `json:"text"`
		} `json:"lines"`
	}
	if err := get(t, "/api/containers/"+pack+"/logs?tail=10000").Into(&log); err != nil {
		t.Fatal(err)
	}
	var lines []string
	var rest strings.Builder
	for _, line := range log.Lines {
		if line.Stream == "stdout" {
			lines = append(lines, line.Text)
		} else {
			rest.WriteString(line.Text + "\n")
		}
	}
	var running []struct {
		PackID string `json:"pack_id"`
		Status string `json:"status"`
	}
	if err := get(t, "/api/containers").Into(&running); err != nil {
		t.Fatal(err)
	}
	for _, c := range running {
		if c.PackID == pack && c.Status == "running" {
			return lines
		}
	}
	t.Fatalf("the containers are %+v, want %s running; it printed %q, and on standard error\n%s", running, pack, lines, rest.String())
	return nil
}
