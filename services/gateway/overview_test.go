package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/policy/policycheck"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

const sum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// answers are what owners answer, in the shapes that they have, by service and route.
var answers = map[string]map[string]string{
	"approval": {"GET /internal/packs/overview": `[
		{"pack_id":"chat","status":"running","undecided":false,"may_run":true,"version":"1.0","created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-02T00:00:00Z","approved_at":"2026-01-02T00:00:00Z","digest":"sha256:aa","error":null,
		 "permissions_requested":{"secrets":["API_KEY","OTHER"],"allowed_domains":["api.llm.test","x.cdn.test"],"allowed_ports":[443]}},
		{"pack_id":"notes","status":"modified","undecided":true,"may_run":false,"version":"0.2.0","created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-09T00:00:00Z","approved_at":"2026-01-02T00:00:00Z","digest":"sha256:bb","error":"main.py changed",
		 "permissions_requested":{"secrets":[],"allowed_domains":[],"allowed_ports":[]}},
		{"pack_id":"bad","status":"blocked","undecided":false,"may_run":false,"version":"","created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z","approved_at":null,"digest":null,"error":null,
		 "permissions_requested":{"secrets":["NEVER"],"allowed_domains":[],"allowed_ports":[]}}]`},
	"capability-broker": {
		"GET /api/capability/requests": `{"items":[
			{"candidate_key":"notes:add:notes_add:` + sum + `","status":"pending","last_event_ts":"2026-01-08T00:00:00Z","candidate":{"pack_id":"notes","slug":"add","handler_id":"notes_add","permission_id":"notes.add","risk":"low"},"installed_to":null,"last_error":null,"effects":["notes.add is then served by two"]}]}`,
		"GET /api/capability/grants": `{"grants":{"chat":{"permissions":{"secrets.get":{"enabled":true,"config":{"allowed_keys":["API_KEY","EXTRA"]}}}}},"count":1}`,
		"GET /api/containers":        `[{"pack_id":"other","status":"exited"},{"pack_id":"chat","container_id":"c1","status":"running"}]`,
	},
	"pip-installer": {"GET /api/pip/requests": `{"items":[
		{"candidate_key":"chat:requirements.lock:` + sum + `","pack_id":"chat","requirements_relpath":"requirements.lock","requirements":[{},{}],"status":"pending","created_at":"2026-01-03T00:00:00Z","updated_at":"2026-01-03T00:00:00Z"}]}`},
	"secrets": {"GET /api/secrets": `{"keys":[{"key":"API_KEY","exists":true},{"key":"OTHER","exists":false,"deleted":true}],"count":2}`},
	"egress-proxy": {
		"GET /api/network/denials": `{"denials":[
			{"pack_id":"chat","host":"api.llm.test","port":443,"reason":"grant_denied","count":9,"first_seen":"2026-01-05T00:00:00Z","last_seen":"` + time.Now().UTC().Format(time.RFC3339) + `"},
			{"pack_id":"chat","host":"api.llm.test","port":443,"reason":"grant_denied","count":5,"first_seen":"2026-01-04T00:00:00Z","last_seen":"2026-01-05T00:00:00Z"},
			{"pack_id":"chat","host":"granted.test","port":443,"reason":"grant_denied","count":3,"first_seen":"2026-01-05T00:00:00Z","last_seen":"2026-01-05T00:00:00Z"},
			{"pack_id":"chat","host":"169.254.169.254","port":80,"reason":"internal_ip_blocked","count":7,"first_seen":"2026-01-05T00:00:00Z","last_seen":"2026-01-05T00:00:00Z"}],"count":4}`,
		"GET /api/network/list":     `{"grants":{"chat":{"pack_id":"chat","enabled":true,"allowed_domains":["granted.test","*.cdn.test"],"allowed_ports":[443],"rules":[],"allow_tunnel":false,"expires_at":"2099-01-01T00:00:00Z"}},"grant_count":1}`,
		"GET /api/network/proposal": `{"pack_id":"chat","allowed_domains":["granted.test","*.cdn.test","api.llm.test"],"allowed_ports":[443]}`,
	},
	"pack-registry": {},
}

// viewsWorld is a gateway before all owners but those that are down.
func viewsWorld(t *testing.T, down ...string) *world {
	t.Helper()
	up := []string{"gateway"}
	for name := range answers {
		if !slices.Contains(down, name) {
			up = append(up, name)
		}
	}
	suite := servicetest.New(t, up...)
	w := &world{Suite: suite, t: t, servers: map[string]*servicetest.Server{}}
	w.setToken(apiToken)
	env := map[string]string{"RUMI_LOG_LEVEL": "error"}
	for name, routes := range answers {
		if slices.Contains(down, name) {
			continue
		}
		w.servers[name] = servicetest.Start(suite, name, func(_ context.Context, rt *service.Runtime, _ struct{}) error {
			for pattern, data := range routes {
				rt.Mux().Route(pattern, rpc.Raw(answer(data)), "gateway")
			}
			storage, check := diskusage.Endpoint(name), policycheck.Endpoint(name)
			h := route.NewHandlers(route.NewTable(storage, check))
			reader, err := rt.OpenPolicy()
			if err != nil {
				return err
			}
			policycheck.Handle(h, check, reader, func(context.Context, *policy.Policy) ([]policy.Finding, error) { return nil, nil })
			diskusage.Handle(h, storage, func(context.Context) ([]diskusage.Item, error) {
				return []diskusage.Item{{Path: "user_data/" + name, Kind: "kept", Bytes: int64(100 * len(name)), Files: 1, Removable: name == "pack-registry"}}, nil
			})
			return h.Mount(rt.Mux())
		}, env)
	}
	w.servers["gateway"] = servicetest.Start(suite, "gateway", build, map[string]string{"RUMI_API_RATE_LIMIT": "0", "RUMI_LOG_LEVEL": "error"})
	w.address = w.servers["gateway"].Address
	return w
}

// answer answers data, of the pack that the query names where it names one.
func answer(data string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		id := r.URL.Query().Get("pack_id")
		if r.URL.Path != "/internal/packs/overview" || id == "" {
			return rpc.WriteData(w, jsontext.Value(data))
		}
		var all []map[string]any
		if err := json.Unmarshal([]byte(data), &all); err != nil {
			return err
		}
		for _, p := range all {
			if p["pack_id"] == id {
				return rpc.WriteData(w, []any{p})
			}
		}
		return fault.PackNotFound()
	}
}

func into[T any](t *testing.T, got *reply) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(got.Data, &v); err != nil || got.status != 200 {
		t.Fatalf("the answer is %d %s: %v; want 200", got.status, got.raw, err)
	}
	return v
}

type pendingAnswer struct {
	Items []struct {
		Kind   string    `json:"kind"`
		PackID string    `json:"pack_id"`
		What   string    `json:"what"`
		Since  time.Time `json:"since"`
		Count  int64     `json:"count"`
		Risk   string    `json:"risk"`
		Review any       `json:"review"`
		Decide callOf    `json:"decide"`

		Confirmation map[string]any `json:"confirmation"`
	} `json:"items"`
	Count  int               `json:"count"`
	Errors map[string]string `json:"errors"`
}

type callOf struct {
	Method string         `json:"method"`
	Path   string         `json:"path"`
	Body   jsontext.Value `json:"body"`
}

func (p pendingAnswer) lines() []string {
	var lines []string
	for _, i := range p.Items {
		lines = append(lines, strings.Join([]string{i.Kind, i.PackID, i.What, i.Risk, i.Decide.Method, i.Decide.Path, string(i.Decide.Body)}, "|"))
	}
	return lines
}

func TestPendingIsOneListOfWhatWaits(t *testing.T) {
	w := viewsWorld(t)
	got := into[pendingAnswer](t, w.do(t, "GET", "/api/pending", nil, nil))
	want := []string{
		"pack|notes|changed since it was approved|main.py changed|POST|/api/packs/notes/approve|",
		"handler|notes|add serves notes.add|low; notes.add is then served by two|POST|/api/capability/requests/notes:add:notes_add:" + sum + "/approve|",
		`network|chat|api.llm.test:443||POST|/api/network/grant|{"pack_id":"chat","allowed_domains":["granted.test","*.cdn.test","api.llm.test"],"allowed_ports":[443]}`,
		"lock|chat|requirements.lock: 2 packages||POST|/api/pip/requests/chat:requirements.lock:" + sum + `/approve|{"allow_sdist":false}`,
		`secret|chat|OTHER is not set||POST|/api/secrets/set|{"key":"OTHER","value":null}`,
	}
	if !slices.Equal(got.lines(), want) || got.Count != len(want) || len(got.Errors) != 0 {
		t.Errorf("got %d of\n%s\nerrors %v, want\n%s", got.Count, strings.Join(got.lines(), "\n"), got.Errors, strings.Join(want, "\n"))
	}
	if i := got.Items[2]; i.Count != 14 || i.Since.Day() != 4 {
		t.Errorf("refusals of one destination: %+v, want 14 since the fourth", i)
	}
	wantFailure(t, w.do(t, "GET", "/api/pending?kind=pack", nil, nil), 400, "Unknown parameter 'kind' (known: none)")
	wantFailure(t, w.do(t, "POST", "/api/pending", nil, nil), 405, "Method not allowed")
}

// An owner that is down is missing, and said to be: a list that is short must not look complete.
func TestPendingSaysWhatIsMissing(t *testing.T) {
	for down, c := range map[string]struct {
		sections []string
		items    int
	}{
		"approval": {[]string{"packs", "secrets"}, 3}, "capability-broker": {[]string{"handlers"}, 4}, "pip-installer": {[]string{"locks"}, 4},
		"egress-proxy": {[]string{"network"}, 4}, "secrets": {[]string{"secrets"}, 4},
	} {
		t.Run(down, func(t *testing.T) {
			got := into[pendingAnswer](t, viewsWorld(t, down).do(t, "GET", "/api/pending", nil, nil))
			for _, s := range c.sections {
				if !strings.Contains(got.Errors[s], "Service unavailable: "+down) {
					t.Errorf("section %s: the error is %q, want that %s is unavailable", s, got.Errors[s], down)
				}
			}
			if len(got.Errors) != len(c.sections) || len(got.Items) != c.items {
				t.Errorf("%d items and errors %v, want %d and %v", len(got.Items), got.Errors, c.items, c.sections)
			}
		})
	}
}

func TestPackIsOneObject(t *testing.T) {
	w := viewsWorld(t)
	type pack struct {
		Status    string `json:"status"`
		Digest    string `json:"digest"`
		Container struct {
			ID string `json:"container_id"`
		} `json:"container"`
		Network struct {
			Missing struct {
				Domains []string `json:"allowed_domains"`
				Ports   []int    `json:"allowed_ports"`
			} `json:"missing"`
		} `json:"network"`
		Secrets  jsontext.Value `json:"secrets"`
		Handlers []any          `json:"handlers"`
		Lock     struct {
			State string `json:"state"`
		} `json:"lock"`
		Denials int64 `json:"denials_24h"`
		Next    []struct {
			What string         `json:"what"`
			Path string         `json:"path"`
			Body jsontext.Value `json:"body"`
		} `json:"next"`
		Errors map[string]string `json:"errors"`
	}
	got := w.do(t, "GET", "/api/packs/chat", nil, nil)
	p := into[pack](t, got)
	if p.Status != "running" || p.Digest != "sha256:aa" || p.Container.ID != "c1" || p.Lock.State != "pending" || p.Denials != 9 || len(p.Errors) != 0 || len(p.Handlers) != 0 {
		t.Errorf("the pack is %s, want it running, with each section and no error", got.raw)
	}
	if m := p.Network.Missing; !slices.Equal(m.Domains, []string{"api.llm.test"}) || len(m.Ports) != 0 {
		t.Errorf("the network's missing are %+v, want the domain api.llm.test and no port", m)
	}
	if want := `[{"key":"API_KEY","requested":true,"set":true,"granted":true},{"key":"OTHER","requested":true,"set":false,"granted":false},{"key":"EXTRA","requested":false,"set":false,"granted":true}]`; string(p.Secrets) != want {
		t.Errorf("secrets %s, want %s", p.Secrets, want)
	}
	var next []string
	for _, n := range p.Next {
		next = append(next, n.What+" "+n.Path+" "+string(n.Body))
	}
	want := []string{
		"approve lock requirements.lock /api/pip/requests/chat:requirements.lock:" + sum + `/approve {"allow_sdist":false}`,
		`grant network /api/network/grant {"allowed_domains":["granted.test","*.cdn.test","api.llm.test"],"allowed_ports":[443],"allow_tunnel":false,"expires_at":"2099-01-01T00:00:00Z","pack_id":"chat","rules":[]}`,
		`set secret OTHER /api/secrets/set {"key":"OTHER","value":null}`,
		`grant secrets /api/capability/grants/grant {"config":{"allowed_keys":["API_KEY","OTHER","EXTRA"]},"permission_id":"secrets.get","principal_id":"chat"}`,
	}
	for i := range next {
		if !strings.HasPrefix(next[i], want[min(i, len(want)-1)][:20]) || len(next) != len(want) {
			t.Fatalf("next:\n%s\nwant\n%s", strings.Join(next, "\n"), strings.Join(want, "\n"))
		}
	}
	if got := next[3]; got != want[3] {
		t.Errorf("next %s, want %s", got, want[3])
	}
	var grant map[string]any
	if err := json.Unmarshal(p.Next[1].Body, &grant); err != nil || grant["expires_at"] != "2099-01-01T00:00:00Z" || len(grant["allowed_domains"].([]any)) != 3 {
		t.Errorf("the grant that is left to do forgets what the one of now says: %s", p.Next[1].Body)
	}
	wantFailure(t, w.do(t, "GET", "/api/packs/nobody", nil, nil), 404, "Pack not found")
	wantFailure(t, w.do(t, "GET", "/api/packs/no%20id", nil, nil), 400, "Invalid pack_id")
	wantFailure(t, w.do(t, "GET", "/api/packs/scan", nil, nil), 405, "Method not allowed")
}

func TestPackSaysWhatIsMissing(t *testing.T) {
	w := viewsWorld(t, "capability-broker", "secrets")
	type pack struct {
		Container *any              `json:"container"`
		Network   *any              `json:"network"`
		Next      []any             `json:"next"`
		Errors    map[string]string `json:"errors"`
	}
	p := into[pack](t, w.do(t, "GET", "/api/packs/chat", nil, nil))
	if p.Container != nil || p.Network == nil || len(p.Errors) != 4 || p.Errors["grants"] != "Service unavailable: capability-broker" || p.Errors["secrets"] != "Service unavailable: secrets" {
		t.Errorf("the pack is %+v, want its network, and errors of the four sections whose services are down", p)
	}
	w = viewsWorld(t, "approval")
	wantFailure(t, w.do(t, "GET", "/api/packs/chat", nil, nil), 503, "Service unavailable: approval")
}

func TestStorageIsWhatTakesRoom(t *testing.T) {
	w := viewsWorld(t, "pip-installer")
	old := filepath.Join(w.UserData(), "audit", "network_2020-01-02.jsonl")
	if err := os.WriteFile(old, make([]byte, 5000), 0o640); err != nil {
		t.Fatal(err)
	}
	type storage struct {
		Items []struct {
			Service   string `json:"service"`
			Path      string `json:"path"`
			Bytes     int64  `json:"bytes"`
			Removable bool   `json:"removable"`
			Remove    string `json:"remove"`
		} `json:"items"`
		Bytes     int64             `json:"bytes"`
		Removable int64             `json:"removable_bytes"`
		Errors    map[string]string `json:"errors"`
	}
	got := w.do(t, "GET", "/api/storage", nil, nil)
	s := into[storage](t, got)
	if len(s.Items) < 4 || s.Items[0].Service != "gateway" || s.Items[0].Path != "user_data/audit/network_2020-01-02.jsonl" || !s.Items[0].Removable || s.Items[0].Remove == "" {
		t.Fatalf("the storage is %s, want the audit file of 2020 first, removable", got.raw)
	}
	if s.Errors["pip-installer"] != "Service unavailable: pip-installer" || len(s.Errors) != 1 || s.Removable != 5000+1300 || s.Bytes < 5000+800+1300+1700 {
		t.Errorf("the storage is %s, want its sums, and an error of pip-installer alone", got.raw)
	}
	for _, i := range s.Items[1:] {
		if i.Removable && i.Service == "gateway" {
			t.Errorf("today's audit log may go: %+v", i)
		}
	}
}

// What one person asked for is shown with who asked, whatever the state of the thing, and its call confirms exactly that.
func TestPendingShowsWhatWaitsForASecondPerson(t *testing.T) {
	const asked = `,"confirmation":{"required":2,"asked_by":"alice","asked_at":"2026-01-10T00:00:00Z","expires_at":"2026-01-17T00:00:00Z","digest":"sha256:cc","options":%s,"waits_for":"another person than 'alice' to approve the same"}}`
	before := answers
	t.Cleanup(func() { answers = before })
	answers = map[string]map[string]string{}
	for owner, list := range before {
		answers[owner] = maps.Clone(list)
	}
	addTo := func(owner, endpoint, options string) { // to the last item
		t.Helper()
		text := answers[owner][endpoint]
		end := strings.LastIndex(text, "}]")
		answers[owner][endpoint] = text[:end] + fmt.Sprintf(asked, options) + text[end+1:]
	}
	addTo("approval", "GET /internal/packs/overview", "null")
	addTo("pip-installer", "GET /api/pip/requests", `{"allow_sdist":"true","index_url":"https://one.test"}`)
	w := viewsWorld(t)
	got := into[pendingAnswer](t, w.do(t, "GET", "/api/pending", nil, nil))
	for _, want := range []string{
		`pack|bad|new:||POST|/api/packs/bad/approve|{"digest":"sha256:cc"}`,
		"lock|chat|requirements.lock: 2 packages||POST|/api/pip/requests/chat:requirements.lock:" + sum + `/approve|{"allow_sdist":true,"index_url":"https://one.test"}`,
	} {
		if !slices.Contains(got.lines(), want) {
			t.Errorf("got\n%s\nwant among them\n%s", strings.Join(got.lines(), "\n"), want)
		}
	}
	for _, item := range got.Items {
		if waits := item.Confirmation["asked_by"] == "alice"; waits != (item.PackID == "bad" || item.Kind == "lock") {
			t.Errorf("%s of %s waits for another person: %v, want it of the pack bad and the lock only", item.Kind, item.PackID, item.Confirmation)
		}
	}
	for id, want := range map[string]string{"bad": "approve, which 'alice' asked for", "chat": "approve lock requirements.lock, which 'alice' asked for"} {
		if raw := w.do(t, "GET", "/api/packs/"+id, nil, nil).raw; !strings.Contains(string(raw), want) {
			t.Errorf("%s: got %s, want the step %q", id, raw, want)
		}
	}
}
