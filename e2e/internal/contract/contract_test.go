package contract

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	document "github.com/rumi-ai/rumi/api/openapi"
)

// The API's own document is valid OpenAPI 3.1, and what it doesn't allow is named, whatever part of an exchange it is in.
func TestChecker(t *testing.T) {
	const (
		done   = `{"success":true,"data":{"success":true,"key":"A","created":true},"error":null}`
		failed = `{"success":false,"data":null,"error":"x","error_code":%q}`
	)
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		answer             string
		want               string // in a violation; "" for none
	}{
		"as documented":           {"POST", "/api/secrets/set", `{"key":"A","value":"b"}`, 200, done, ""},
		"a failure":               {"POST", "/api/secrets/set", `{"key":"A"}`, 400, fmt.Sprintf(failed, "invalid_value"), ""},
		"a wrong request, taken":  {"POST", "/api/secrets/set", `{"key":"A"}`, 200, done, "value"},
		"a field nobody knows":    {"POST", "/api/secrets/set", `{"key":"A","value":"b","more":1}`, 200, done, "more"},
		"a parameter nobody has":  {"GET", "/api/secrets?all=1", "", 200, `{"success":true,"data":{"keys":[],"count":0},"error":null}`, "all"},
		"an answer's new field":   {"POST", "/api/secrets/set", `{"key":"A","value":"b"}`, 200, strings.Replace(done, `"key"`, `"more":1,"key"`, 1), "more"},
		"an answer's field less":  {"POST", "/api/secrets/set", `{"key":"A","value":"b"}`, 200, strings.Replace(done, `,"created":true`, "", 1), "created"},
		"another type":            {"POST", "/api/secrets/set", `{"key":"A","value":"b"}`, 200, strings.Replace(done, `"created":true`, `"created":"yes"`, 1), "created"},
		"another code":            {"POST", "/api/secrets/set", `{"key":"A"}`, 400, fmt.Sprintf(failed, "pack_not_found"), "error_code"},
		"another status":          {"POST", "/api/secrets/set", `{"key":"A"}`, 418, fmt.Sprintf(failed, "teapot"), "418"},
		"a value of no enum":      {"GET", "/api/containers/a/logs", "", 200, `{"success":true,"data":{"pack_id":"a","lines":[{"ts":"2026-01-02T03:04:05Z","stream":"stdin","text":""}]},"error":null}`, "stream"},
		"paths that fit two":      {"GET", "/api/packs/staging/backups", "", 200, `{"success":true,"data":{"pack_id":"staging","backups":[]},"error":null}`, ""},
		"no such call":            {"GET", "/api/nothing", "", 404, fmt.Sprintf(failed, "not_found"), ""},
		"no such call, answered":  {"GET", "/api/nothing", "", 200, done, "which is no call"},
		"no such call, by a code": {"GET", "/api/nothing", "", 404, fmt.Sprintf(failed, "pack_not_found"), "which is no call"},
	} {
		t.Run(name, func(t *testing.T) {
			checker := newChecker(t)
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if got, _ := io.ReadAll(r.Body); string(got) != c.body {
					t.Errorf("the suite got the body %q, want %q", got, c.body)
				}
				w.Header().Set("Content-Type", "application/json; charset=utf-8")
				w.Header().Set("X-Request-Id", "R1")
				w.WriteHeader(c.status)
				fmt.Fprint(w, c.answer)
			}))
			defer upstream.Close()
			proxy := httptest.NewServer(checker.Handler(parse(t, upstream.URL)))
			defer proxy.Close()
			r, err := http.NewRequestWithContext(t.Context(), c.method, proxy.URL+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if got, _ := io.ReadAll(response.Body); response.StatusCode != c.status || string(got) != c.answer {
				t.Errorf("the client got %d %s, want the suite's answer as it is", response.StatusCode, got)
			}
			checker.Close()
			found := checker.Violations()
			if c.want == "" && len(found) > 0 || c.want != "" && !slices.ContainsFunc(found, func(v string) bool { return strings.Contains(v, c.want) }) {
				t.Errorf("found %q, want %q", found, c.want)
			}
		})
	}
}

// What was seen is not among what never was.
func TestReport(t *testing.T) {
	checker := newChecker(t)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(404)
		fmt.Fprint(w, `{"success":false,"data":null,"error":"x","error_code":"secret_not_found"}`)
	}))
	defer upstream.Close()
	proxy := httptest.NewServer(checker.Handler(parse(t, upstream.URL)))
	defer proxy.Close()
	response, err := http.Post(proxy.URL+"/api/secrets/delete", "application/json", strings.NewReader(`{"key":"A"}`))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	checker.Close()
	report := checker.Report()
	_, line, _ := strings.Cut(report, "POST /api/secrets/delete: ")
	line, _, _ = strings.Cut(line, "\n")
	if !strings.HasPrefix(line, "200, ") || strings.Contains(line, "404") || strings.Contains(line, "secret_not_found") || !strings.Contains(line, "missing_key") {
		t.Errorf("never seen of the call are %q, want all but 404 and secret_not_found", line)
	}
	if !strings.HasPrefix(report, "1 exchanges") {
		t.Errorf("the report begins %.40q, want one exchange", report)
	}
}

// A suite that breaks a connection breaks the client's, too: a test that kills a service must notice.
func TestBrokenConnections(t *testing.T) {
	checker := newChecker(t)
	defer checker.Close()
	proxy := httptest.NewServer(checker.Handler(parse(t, "http://127.0.0.1:1")))
	defer proxy.Close()
	if response, err := http.Get(proxy.URL + "/api/packs"); err == nil {
		response.Body.Close()
		t.Errorf("a suite that is down answered %d, want a broken connection", response.StatusCode)
	}
}

func newChecker(t *testing.T) *Checker {
	t.Helper()
	r, err := committed()
	if err != nil {
		t.Fatal(err)
	}
	return start(r)
}

// committed are the rules of the document of this source.
var committed = sync.OnceValues(func() (*rules, error) { return newRules([]byte(document.Document())) })

func parse(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
