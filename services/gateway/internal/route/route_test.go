package route_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
)

func table(t testing.TB) *route.Table {
	t.Helper()
	table, err := route.NewTable(route.Routes)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func request(t testing.TB, method, target string) *http.Request {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Request{Method: method, URL: u}
}

// TestGuide: every call that the operators' guide and the contract name has its owner.
func TestGuide(t *testing.T) {
	key := "my_pack%3Afs_read_v1%3Afs_read_handler%3Aabc123"
	lock := "my_pack%3Abackend%2Frequirements.lock%3Aabc123"
	for _, c := range []struct{ method, target, service string }{
		{"GET", "/api/health", "gateway"},
		{"GET", "/api/packs", "approval"},
		{"GET", "/api/packs/pending", "approval"},
		{"GET", "/api/packs/my_pack/status", "approval"},
		{"POST", "/api/packs/my_pack/approve", "approval"},
		{"POST", "/api/packs/parent__child/reject", "approval"},
		{"POST", "/api/packs/scan", "pack-registry"},
		{"POST", "/api/packs/import", "pack-registry"},
		{"POST", "/api/packs/apply", "pack-registry"},
		{"DELETE", "/api/packs/my_pack", "pack-registry"},
		{"DELETE", "/api/packs/scan", "pack-registry"}, // a pack may have that name
		{"GET", "/api/packs/scan/status", "approval"},
		{"GET", "/api/packs/my_pack/review", "approval"},
		{"GET", "/api/packs/my_pack/backups", "pack-registry"},
		{"POST", "/api/packs/my_pack/rollback", "pack-registry"},
		{"GET", "/api/packs/staging", "pack-registry"},
		{"GET", "/api/packs/staging/0123456789abcdef", "pack-registry"},
		{"DELETE", "/api/packs/staging/0123456789abcdef", "pack-registry"},
		{"GET", "/api/packs/staging/status", "approval"}, // of a pack with that name
		{"GET", "/api/packs/staging/review", "approval"},
		{"GET", "/api/network/list", "egress-proxy"},
		{"GET", "/api/network/denials?pack_id=x", "egress-proxy"},
		{"GET", "/api/network/proposal?pack_id=x&since=2026-01-02T03:04:05Z", "egress-proxy"},
		{"POST", "/api/network/grant", "egress-proxy"},
		{"POST", "/api/network/revoke", "egress-proxy"},
		{"POST", "/api/network/check", "egress-proxy"},
		{"POST", "/api/capability/candidates/scan", "capability-broker"},
		{"GET", "/api/capability/requests?status=pending", "capability-broker"},
		{"POST", "/api/capability/requests/" + key + "/approve", "capability-broker"},
		{"POST", "/api/capability/requests/" + key + "/reject", "capability-broker"},
		{"GET", "/api/capability/blocked", "capability-broker"},
		{"POST", "/api/capability/blocked/" + key + "/unblock", "capability-broker"},
		{"GET", "/api/capability/grants?principal_id=x", "capability-broker"},
		{"POST", "/api/capability/grants/grant", "capability-broker"},
		{"POST", "/api/capability/grants/revoke", "capability-broker"},
		{"GET", "/api/docker/status", "capability-broker"},
		{"GET", "/api/containers", "capability-broker"},
		{"HEAD", "/api/containers", "capability-broker"},
		{"POST", "/api/containers/my_pack/start", "capability-broker"},
		{"POST", "/api/containers/my_pack/stop", "capability-broker"},
		{"DELETE", "/api/containers/my_pack", "capability-broker"},
		{"GET", "/api/containers/my_pack/logs?tail=5&follow=true", "capability-broker"},
		{"POST", "/api/pip/candidates/scan", "pip-installer"},
		{"GET", "/api/pip/requests?status=pending", "pip-installer"},
		{"POST", "/api/pip/requests/" + lock + "/approve", "pip-installer"},
		{"POST", "/api/pip/requests/" + lock + "/reject", "pip-installer"},
		{"GET", "/api/pip/blocked", "pip-installer"},
		{"POST", "/api/pip/blocked/" + lock + "/unblock", "pip-installer"},
		{"GET", "/api/secrets", "secrets"},
		{"POST", "/api/secrets/set", "secrets"},
		{"POST", "/api/secrets/delete", "secrets"},
	} {
		found, _, err := table(t).Find(request(t, c.method, c.target))
		if err != nil || found.Owner != c.service {
			t.Errorf("%s %s goes to %+v, %v; want %s", c.method, c.target, found, err, c.service)
		}
	}
}

func TestUnknown(t *testing.T) {
	for _, c := range []struct {
		method, target string
		want           fault.Kind
		allow          []string
	}{
		{"GET", "/api", fault.KindNotFound, nil},
		{"GET", "/api/", fault.KindNotFound, nil},
		{"GET", "/api/nothing", fault.KindNotFound, nil},
		{"GET", "/api/packs/", fault.KindInvalid, nil}, // an id that is empty
		{"GET", "//api/packs", fault.KindNotFound, nil},
		{"GET", "/api//packs", fault.KindNotFound, nil},
		{"GET", "/api/packs/a/b/status", fault.KindNotFound, nil},
		{"GET", "/api/packs/../../x", fault.KindNotFound, nil},
		{"GET", "/api/%70acks", fault.KindNotFound, nil}, // literal segments are not guessed at
		{"GET", "/internal/secrets/value", fault.KindNotFound, nil},
		{"GET", "*", fault.KindNotFound, nil},
		{"POST", "/api/packs", fault.KindMethod, []string{"GET"}},
		{"DELETE", "/api/secrets", fault.KindMethod, []string{"GET"}},
		{"GET", "/api/packs/scan", fault.KindMethod, []string{"POST", "DELETE"}},
		{"OPTIONS", "/api/packs", fault.KindMethod, []string{"GET"}},
		{"get", "/api/packs", fault.KindMethod, []string{"GET"}},
	} {
		if c.target == "*" {
			r := &http.Request{Method: c.method, URL: &url.URL{Path: "*"}}
			if _, _, err := table(t).Find(r); !fault.Is(err, c.want) {
				t.Errorf("%s *: got %v, want %v", c.method, err, c.want)
			}
			continue
		}
		_, allow, err := table(t).Find(request(t, c.method, c.target))
		if !fault.Is(err, c.want) || !slices.Equal(allow, c.allow) {
			t.Errorf("%s %s: %v, allow %v; want %v, %v", c.method, c.target, err, allow, c.want, c.allow)
		}
	}
}

// What is answered to candidate keys, as their owners do.
const (
	lockKey    = "Invalid candidate_key (want PACK:PATH:SHA256, URL-encoded, as GET …/requests lists it)"
	handlerKey = "Invalid candidate_key (want PACK:SLUG:HANDLER_ID:SHA256, URL-encoded, as GET …/requests lists it)"
)

// TestIdsAsPaths is conformance.md's class of that name, as far as a router can tell.
func TestIdsAsPaths(t *testing.T) {
	for _, id := range []string{
		"", ".", "..", "%2e", "%2e%2e", "%2E%2E", ".%2e", "%252e%252e", "%25", "a%00", "%00", "a%0a", "%0d", "a%7f", "..%2f..%2fx",
		"a%2f..", "%2e%2e%2fx", "a%5c..", "a%2f.%2fb", strings.Repeat("a", 513),
	} {
		for pattern, want := range map[string]string{
			"/api/packs/ID/status":                   "Invalid pack_id",
			"/api/containers/ID/logs":                "Invalid pack_id",
			"/api/pip/requests/ID/approve":           lockKey,
			"/api/capability/blocked/ID/unblock":     handlerKey,
			"/api/capability/requests/ID/reject":     handlerKey,
			"/api/capability/requests/ID/approve?x=": handlerKey,
		} {
			method := "POST"
			if strings.Contains(pattern, "status") || strings.Contains(pattern, "logs") {
				method = "GET"
			}
			_, _, err := table(t).Find(request(t, method, strings.Replace(pattern, "ID", id, 1)))
			if !fault.Is(err, fault.KindInvalid) || fault.Of(err).Message != want {
				t.Errorf("%s with %.60q: %v, want %s", pattern, id, err, want)
			}
		}
	}
}

func TestTablesThatCannotBe(t *testing.T) {
	for name, routes := range map[string][]route.Route{
		"twice":        {{Method: "GET", Pattern: "/a"}, {Method: "GET", Pattern: "/a"}},
		"names differ": {{Method: "GET", Pattern: "/a/{x}"}, {Method: "GET", Pattern: "/a/{y}"}},
		"no slash":     {{Method: "GET", Pattern: "a"}},
	} {
		if _, err := route.NewTable(routes); err == nil {
			t.Errorf("%s: made a table, want an error", name)
		}
	}
}

func BenchmarkFindLast(b *testing.B) {
	table, r := table(b), request(b, "POST", "/api/secrets/delete")
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := table.Find(r); err != nil {
			b.Fatal(err)
		}
	}
}
