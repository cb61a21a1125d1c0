package journeys

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rumi-ai/rumi/libs/tracing/tracingtest"
)

const spansPack = "spans"

// A pack that traces itself with OpenTelemetry's own SDK is seen in the traces: as itself, whatever it says, and its request below its span.
func TestSpansOfAPack(t *testing.T) {
	settings := suite.upstreamSettings(t)
	settings["RUMI_PIP_INDEX_URLS"], settings["RUMI_PIP_ALLOW_CIDRS"] = "", ""
	suite.reconfigure(t, []string{"e2e/journeys/testdata/upstream.yml"}, settings)
	proxy, err := suite.container(t.Context(), "egress-proxy")
	if err != nil {
		t.Fatal(err)
	}
	suite.startUpstream(t, packImage, proxy)
	collector := suite.startCollector(t)
	readPack(t, filepath.Join("testdata", "spans")).copyToEcosystem(t, spansPack)
	t.Cleanup(func() { removePack(t, spansPack) })
	post(t, "/api/packs/scan", nil)
	post(t, "/api/packs/"+spansPack+"/approve", nil)
	installLock(t, spansPack, 16)
	post(t, "/api/network/grant", map[string]any{"pack_id": spansPack, "allowed_domains": []string{upstreamHost}, "allowed_ports": []int{8081}})
	post(t, "/api/containers/"+spansPack+"/start", nil)

	const name = "fetch the forecast"
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the collector got %+v", append(collector.named(name), collector.named("egress.request")...))
		}
	})
	var own tracingtest.Span
	eventually(t, "a span of the pack whose request was recorded", func() bool {
		containerLog(t, spansPack) // ends the test if the pack has ended
		for _, s := range collector.named(name) {
			if len(children(collector, s)) > 0 {
				own = s
				return true
			}
		}
		return false
	})
	for key, want := range map[string]string{
		"service.name": "pack:spans", "service.namespace": "rumi-packs", "rumi.untrusted": "true", "rumi.pack_id": "spans",
		"pack.resource.service.name": "gateway", "pack.resource.rumi.untrusted": "false", "pack.resource.telemetry.sdk.language": "python",
	} {
		if own.Resource[key] != want {
			t.Errorf("the span's resource has %s=%q, want %q", key, own.Resource[key], want)
		}
	}
	if own.Kind != "client" || own.Attributes["http.response.status_code"] != "200" || own.Attributes["pack.rumi.pack_id"] != "other" || own.Attributes["rumi.pack_id"] != "" {
		t.Errorf("got the span %+v, want what the pack said, in its place", own)
	}
	above := slices.IndexFunc(collector.spans(), func(s tracingtest.Span) bool { return s.ID == own.ParentID && s.TraceID == own.TraceID })
	if above < 0 || collector.spans()[above].Resource["service.name"] != "capability-broker" {
		t.Errorf("the span is below %s in trace %s, want the start of the pack's container", own.ParentID, own.TraceID)
	}
	request := children(collector, own)[0]
	if request.Resource["service.name"] != "egress-proxy" || request.Attributes["rumi.pack_id"] != spansPack || request.Attributes["server.address"] != upstreamHost {
		t.Errorf("below the span is %+v, want the request to %s", request, upstreamHost)
	}
	if lines := containerLog(t, spansPack); lines[0] != "flushed 200" {
		t.Errorf("the pack printed %q, want that its spans were taken", lines)
	}
}

// children are the spans below one.
func children(c *collector, parent tracingtest.Span) (found []tracingtest.Span) {
	for _, s := range c.spans() {
		if s.ParentID == parent.ID && s.TraceID == parent.TraceID {
			found = append(found, s)
		}
	}
	return found
}

// readPack reads the files of a pack from a folder.
func readPack(t *testing.T, dir string) files {
	t.Helper()
	pack := files{}
	source := os.DirFS(dir)
	err := fs.WalkDir(source, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(source, name)
		pack[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return pack
}
