package journeys

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/tracing/tracingtest"
)

// collector is the collector of traces in a journey. The services find it under the name that compose's default has.
type collector struct {
	t  *testing.T
	on *installation
	id string // of its container
}

// startCollector runs a collector until the test ends. When it returns, the services have noticed it: before that, a trace that begins isn't
// recorded.
func (s *installation) startCollector(t *testing.T) *collector {
	t.Helper()
	program := filepath.Join(s.top, "collector", "collector")
	if _, err := s.command(t.Context(), buildWait, "env", "CGO_ENABLED=0", "go", "build", "-o", program, "./e2e/journeys/collector"); err != nil {
		t.Fatal(err)
	}
	out, err := s.command(t.Context(), commandWait, "docker", "run", "--detach", "--network", s.project+"_suite", "--network-alias", "otel-collector.rumi.internal",
		"--cap-drop", "ALL", "--user", fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()), "--label", "com.docker.compose.project="+s.project, // so that it is removed with the suite
		"--volume", filepath.Dir(program)+":/collector:ro", "--entrypoint", "/collector/collector", packImage)
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{t, s, strings.TrimSpace(out)}
	t.Cleanup(func() {
		if _, err := s.command(context.WithoutCancel(t.Context()), commandWait, "docker", "rm", "--force", "--volumes", c.id); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "every service to send spans", func() bool {
		for _, service := range services {
			_, _ = s.askService(t.Context(), service.name)
		}
		senders := map[string]bool{}
		for _, span := range c.spans() {
			senders[span.Resource["service.name"]] = true
		}
		return len(senders) > len(services) // with the gateway
	})
	return c
}

// spans are all that it has got so far.
func (c *collector) spans() (all []tracingtest.Span) {
	c.t.Helper()
	for line := range strings.Lines(c.on.containerLogs(c.t, c.id)) {
		var span tracingtest.Span
		if err := json.Unmarshal([]byte(line), &span); err == nil { // what isn't one is in its log, too
			all = append(all, span)
		}
	}
	return all
}

// named are those of a name.
func (c *collector) named(name string) (found []tracingtest.Span) {
	c.t.Helper()
	for _, s := range c.spans() {
		if s.Name == name {
			found = append(found, s)
		}
	}
	return found
}
