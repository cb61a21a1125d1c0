package journeys

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/e2e/internal/auditlog"
	"github.com/rumi-ai/rumi/libs/tracing/tracingtest"
)

const (
	tracedPack  = "traced"
	tracingPack = "tracing"
)

// tracedProgram knows nothing of traces. It prints what the server and the handler got of its one.
const tracedProgram = `
import time, rumi_capability, rumi_syscall
print("server", rumi_syscall.get("http://tools.rumi.test:8081/trace")["body"], flush=True)
print("handler", rumi_capability.call("trace.echo", timeout_seconds=60)["output"], flush=True)
time.sleep(3600)
`

// tracingHandler answers with the trace that it was handed, in the call's context and in the environment.
const tracingHandler = `
import os
def execute(context, args):
    return "%s %s %s" % (context["traceparent"], os.environ["TRACEPARENT"], os.environ["TRACESTATE"] == context["tracestate"])
`

// TestTraces follows two requests on their whole way: an approve, and a start of a pack that asks a server and a handler. Each is one tree, from the
// gateway on, and nothing else is in it.
func TestTraces(t *testing.T) {
	suite.reconfigure(t, []string{"e2e/journeys/testdata/upstream.yml"}, suite.upstreamSettings(t))
	proxy, err := suite.container(t.Context(), "egress-proxy")
	if err != nil {
		t.Fatal(err)
	}
	suite.startUpstream(t, packImage, proxy)
	collector, began := suite.startCollector(t), time.Now()
	plainPack(tracingPack).with(files{
		"share/capability_handlers/echo/handler.json": `{"handler_id": "echo", "permission_id": "trace.echo", "entrypoint": "handler.py:execute", "description": "echoes", "risk": "low"}`,
		"share/capability_handlers/echo/handler.py":   tracingHandler,
	}).copyToEcosystem(t, tracingPack)
	plainPack(tracedPack).with(files{"backend/main.py": tracedProgram}).copyToEcosystem(t, tracedPack)
	t.Cleanup(func() { removePack(t, tracedPack); removePack(t, tracingPack) })
	post(t, "/api/packs/scan", nil)
	post(t, "/api/packs/"+tracingPack+"/approve", nil)
	eventually(t, "all services to find the collector", func() bool {
		if len(collector.services()) == len(services)+1 {
			return true
		}
		for _, s := range services { // a span of each
			if _, err := suite.askService(t.Context(), s.name); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		return false
	})

	approve := traced(t, "/api/packs/"+tracedPack+"/approve")
	collector.shows(t, approve, `
gateway: POST /api/packs/{pack_id}/approve (server) http.response.status_code=200
  approval: POST /api/packs/{pack_id}/approve (server) http.response.status_code=200
    approval: pack.copy (internal) rumi.pack_id=traced
    approval: write approval (client)
    capability-broker: gate.apply (consumer) rumi.pack_id=traced
    egress-proxy: gate.apply (consumer) rumi.pack_id=traced
    pip-installer: gate.apply (consumer) rumi.pack_id=traced
`)
	trustHandlers(t, tracingPack)
	post(t, "/api/network/grant", map[string]any{"pack_id": tracedPack, "allowed_domains": []string{upstreamHost}, "allowed_ports": []int{8081}})
	post(t, "/api/capability/grants/grant", map[string]any{"principal_id": tracedPack, "permission_id": "trace.echo"})

	start := traced(t, "/api/containers/"+tracedPack+"/start")
	collector.shows(t, start, `
gateway: POST /api/containers/{pack_id}/start (server) http.response.status_code=200
  capability-broker: POST /api/containers/{pack_id}/start (server) http.response.status_code=200
    capability-broker: container.start (internal) rumi.pack_id=traced
      capability-broker: approval GET (client) http.response.status_code=200
        approval: GET /internal/trees/{digest} (server) http.response.status_code=200
      capability-broker: capability.call (server) rumi.pack_id=traced
        capability-broker: capability.handler (client)
      capability-broker: docker create (client)
      capability-broker: docker start (client)
      capability-broker: pip-installer GET (client) http.response.status_code=404 ERROR
        pip-installer: GET /internal/environments/{pack_id} (server) http.response.status_code=404
      capability-broker: write capability-broker (client)
      egress-proxy: egress.request (client) rumi.pack_id=traced http.response.status_code=200
`)
	spans := collector.of(start)
	if len(spans) == 0 {
		t.FailNow()
	}
	request, handler := spanNamed(t, spans, "egress.request"), spanNamed(t, spans, "capability.handler")
	if !slices.Contains(request.Events, "connected") || request.Attributes["server.address"] != upstreamHost || request.Attributes["server.port"] != "8081" {
		t.Errorf("the request is %+v, want its server and that a connection was made", request)
	}
	for _, s := range spans {
		if s.Resource["service.namespace"] != "rumi" || s.Resource["service.version"] == "" || s.Resource["service.instance.id"] == "" {
			t.Errorf("%s has the resource %v, want namespace, version and instance", s.Name, s.Resource)
		}
	}
	lines := strings.Join(containerLog(t, tracedPack), "\n")
	for _, want := range []string{
		fmt.Sprintf("server 00-%s-%s-01", start, request.ID),
		fmt.Sprintf("handler 00-%s-%s-01 00-%s-%s-01 True", start, handler.ID, start, handler.ID),
	} {
		if !strings.Contains(lines, want) {
			t.Errorf("the pack printed %q, want %q in it", lines, want)
		}
	}
	entries, err := auditlog.Read(filepath.Join(suite.home, "user_data/audit"), began)
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"container_started", "network_request", "permission_execute"} {
		if !slices.ContainsFunc(entries, func(e auditlog.Entry) bool { return e.Action == action && e.TraceID == start && e.RequestID != "" }) {
			t.Errorf("no audit entry of %s has the trace %s and a request id", action, start)
		}
	}
}

// traced posts to a path of the API in a trace of the test's own, and returns the trace's id.
func traced(t *testing.T, path string) (id string) {
	t.Helper()
	random := make([]byte, 16)
	_, _ = rand.Read(random)
	id = hex.EncodeToString(random)
	suite.api.Trace = "00-" + id + "-00f067aa0ba902b7-01"
	defer func() { suite.api.Trace = "" }()
	post(t, path, nil)
	return id
}

// trustHandlers approves all handlers of a pack.
func trustHandlers(t *testing.T, pack string) {
	t.Helper()
	post(t, "/api/capability/candidates/scan", nil)
	var pending struct {
		Items []struct {
			Key string `json:"candidate_key"`
		} `json:"items"`
	}
	if err := get(t, "/api/capability/requests?status=pending").Into(&pending); err != nil {
		t.Fatal(err)
	}
	for _, item := range pending.Items {
		if strings.HasPrefix(item.Key, pack+":") {
			post(t, "/api/capability/requests/"+url.PathEscape(item.Key)+"/approve", nil)
		}
	}
}

// services are those that have sent spans.
func (c *collector) services() map[string]bool {
	all := map[string]bool{}
	for _, s := range c.spans() {
		all[s.Resource["service.name"]] = true
	}
	return all
}

// of are the spans of a trace.
func (c *collector) of(trace string) []tracingtest.Span {
	return slices.DeleteFunc(c.spans(), func(s tracingtest.Span) bool { return s.TraceID != trace })
}

// without are the spans but those of a name and all below them.
func without(spans []tracingtest.Span, name string) []tracingtest.Span {
	gone := map[string]bool{}
	for left := true; left; {
		left = false
		for _, s := range spans {
			if !gone[s.ID] && (s.Name == name || gone[s.ParentID]) {
				gone[s.ID], left = true, true
			}
		}
	}
	return slices.DeleteFunc(spans, func(s tracingtest.Span) bool { return gone[s.ID] })
}

// shows waits until a trace is the tree that is wanted. Whether a call had to wait depends on whether its worker was there yet, so that wait is left out.
func (c *collector) shows(t *testing.T, trace, want string) {
	t.Helper()
	want = strings.Trim(want, "\n")
	var got string
	for began := time.Now(); time.Since(began) < traceWait; time.Sleep(time.Second) {
		if got = tracingtest.Tree(without(c.of(trace), "capability.queue"), "rumi.pack_id", "http.response.status_code"); got == want {
			return
		}
	}
	t.Errorf("the trace %s is\n%s\nwant\n%s", trace, got, want)
}

// traceWait is how long the spans of a trace may be under way: each service sends its own every five seconds.
const traceWait = 90 * time.Second

func spanNamed(t *testing.T, spans []tracingtest.Span, name string) tracingtest.Span {
	t.Helper()
	for _, s := range spans {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no span %s", name)
	return tracingtest.Span{}
}
