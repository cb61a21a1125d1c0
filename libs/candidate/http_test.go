package candidate_test

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/candidate/wire"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
	"github.com/rumi-ai/rumi/libs/store"
)

func TestRoutes(t *testing.T) {
	const key = "pack:backend/requirements.lock:0123"
	suite := servicetest.New(t, "pip-installer")
	var o *owner
	servicetest.Start(suite, "pip-installer", func(ctx context.Context, rt *service.Runtime, _ struct{}) error {
		db, err := store.Open(ctx, rt.Store(), candidate.Migrations(nil))
		if err != nil {
			return err
		}
		rt.OnStop("store", func(context.Context) error { return db.Close() })
		o = newOwner(db)
		endpoints := wire.NewEndpoints[map[string]any]("/api/pip", "pip-installer", "lock files",
			wire.Verbs{Read: access.ReadPip, Scan: access.ScanPip, Reject: access.RejectPip, Unblock: access.UnblockPip})
		h := route.NewHandlers(endpoints.Table())
		route.Handle(h, endpoints.Scan, func(context.Context, struct{}) (candidate.ScanResult, error) { return candidate.ScanResult{}, nil })
		candidate.Handle(h, endpoints, o.candidates, candidate.Shown[payload, map[string]any]{
			ValidKey: func(key string) bool { return strings.HasPrefix(key, "pack:") },
			View:     func(i item) map[string]any { return map[string]any{"candidate_key": i.Key} },
		})
		return h.Mount(rt.Mux())
	}, nil)
	o.scan(t, key, "pack:b:1")

	path := "/api/pip/requests/" + url.QueryEscape(key)
	blocked := "/api/pip/blocked/" + url.QueryEscape(key)
	for _, c := range []struct{ method, path, body, as, want string }{
		{"GET", "/api/pip/requests", "", "gateway", `{"items":[{"candidate_key":"pack:b:1"},{"candidate_key":"` + key + `"}],"count":2,"status_filter":"all"}`},
		{"GET", "/api/pip/requests?status=rejected", "", "gateway", `{"items":[],"count":0,"status_filter":"rejected"}`},
		{"GET", "/api/pip/requests?status=x", "", "gateway", `Invalid status: \"x\"`},
		{"GET", "/api/pip/requests", "", "secrets", `Caller not allowed`},
		{"POST", path + "/reject", `{"reason":"no"}`, "gateway", `{"success":true,"status":"rejected","reject_count":1,"cooldown_until":"2025-01-02T04:04:05Z"}`},
		{"POST", path + "/reject", `{"reason":1}`, "gateway", `Invalid value for field 'reason'`},
		{"POST", path + "/reject", `{"raeson":"no"}`, "gateway", `Unknown field 'raeson'`},
		{"POST", path + "/reject", ``, "gateway", `"reject_count":2`},
		{"GET", "/api/pip/blocked", "", "gateway", `{"blocked":{},"count":0}`},
		{"POST", path + "/reject", `{"reason":"never"}`, "gateway", `{"success":true,"status":"blocked","reject_count":3,"cooldown_until":null}`},
		{"POST", path + "/reject", `{}`, "gateway", `Candidate is already blocked`},
		{"GET", "/api/pip/blocked", "", "gateway", `{"blocked":{"` + key + `":{"candidate_key":"` + key + `","blocked_at":"2025-01-02T03:04:05Z","reason":"never","reject_count":3}},"count":1}`},
		{"GET", "/internal/candidates/counts", "", "approval", `{"pending_count":1,"rejected_count":0,"blocked_count":1,"failed_count":0,"installed_count":0}`},
		{"POST", blocked + "/unblock", `{"reason":"r"}`, "gateway", `{"success":true,"status_after":"pending"}`},
		{"POST", blocked + "/unblock", `{"reason":"r"}`, "gateway", `Candidate not found in blocked list`},
		{"POST", "/api/pip/blocked/pack:none/unblock", `{}`, "gateway", `Candidate not found`},
		{"POST", "/api/pip/requests/pack:none/reject", `{}`, "gateway", `Candidate not found`},
		{"POST", "/api/pip/requests/a%2Fb/reject", `{}`, "gateway", `Invalid candidate_key`},
		{"POST", "/api/pip/blocked/%252e%252e/unblock", `{}`, "gateway", `Invalid candidate_key`},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, "https://pip-installer"+c.path, strings.NewReader(c.body))
		must(t, err)
		response, err := suite.Client(c.as, "pip-installer").Do(r)
		must(t, err)
		body, err := io.ReadAll(response.Body)
		must(t, err)
		must(t, response.Body.Close())
		if !strings.Contains(string(body), c.want) {
			t.Errorf("%s %s %s: %d %s, want %s", c.method, c.path, c.body, response.StatusCode, body, c.want)
		}
	}
}
