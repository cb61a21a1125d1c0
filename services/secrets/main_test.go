package main

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	api "github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/keyset"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

// start runs the service in a home with a key.
func start(t *testing.T) (*servicetest.Suite, *servicetest.Server) {
	t.Helper()
	suite := servicetest.New(t, "secrets")
	makeKey(t, suite)
	return suite, servicetest.Start(suite, "secrets", build, nil)
}

// makeKey makes the key with its two names, as init does, and returns the operator's.
func makeKey(t testing.TB, suite *servicetest.Suite) string {
	t.Helper()
	path := filepath.Join(suite.UserData(), "settings", "secrets_key")
	folder := filepath.Join(suite.UserData(), "settings", "secrets")
	if err := errors.Join(os.MkdirAll(folder, 0o700), keyset.Create(path), os.Link(path, filepath.Join(folder, "secrets_key"))); err != nil {
		t.Fatal(err)
	}
	return path
}

type answer struct {
	Success bool           `json:"success"`
	Data    jsontext.Value `json:"data"`
	Error   string         `json:"error"`
	Code    string         `json:"error_code"`
}

// call sends a request to the service with the certificate of another and reads the envelope.
func call(t *testing.T, suite *servicetest.Suite, as, method, path, body string) (int, answer) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "https://secrets"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := suite.Client(as, "secrets").Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		t.Fatalf("%s %s answered %q: %v", method, path, data, err)
	}
	return response.StatusCode, a
}

func TestEndpoints(t *testing.T) {
	suite, _ := start(t)
	big := strings.Repeat("x", 1<<20)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		want                     string // data as JSON, or the error
	}{
		{"nothing yet", "GET", "/api/secrets", ``, 200, `{"count":0,"keys":[]}`},
		{"set", "POST", "/api/secrets/set", `{"key":"OPENAI_API_KEY","value":"sk-hunter2"}`, 200, `{"created":true,"key":"OPENAI_API_KEY","success":true}`},
		{"set again", "POST", "/api/secrets/set", `{"key":"OPENAI_API_KEY","value":"sk-hunter3"}`, 200, `{"created":false,"key":"OPENAI_API_KEY","success":true}`},
		{"set to nothing", "POST", "/api/secrets/set", `{"key":"EMPTY","value":""}`, 200, `{"created":true,"key":"EMPTY","success":true}`},
		{"the largest value", "POST", "/api/secrets/set", `{"key":"BIG","value":"` + big[:1<<20-1<<10-2] + `"}`, 200, `{"created":true,"key":"BIG","success":true}`},
		{"delete", "POST", "/api/secrets/delete", `{"key":"BIG"}`, 200, `{"key":"BIG","success":true}`},
		{"delete twice", "POST", "/api/secrets/delete", `{"key":"BIG"}`, 200, `{"key":"BIG","success":true}`},
		{"list", "GET", "/api/secrets", ``, 200, `{"count":3,"keys":[` +
			`{"created_at":T,"deleted":true,"deleted_at":T,"exists":false,"key":"BIG","masked":"********","updated_at":T},` +
			`{"created_at":T,"deleted":false,"exists":true,"key":"EMPTY","masked":"********","updated_at":T},` +
			`{"created_at":T,"deleted":false,"exists":true,"key":"OPENAI_API_KEY","masked":"********","updated_at":T}]}`},

		{"too large", "POST", "/api/secrets/set", `{"key":"A","value":"` + big + `x"}`, 400, "Value too large (max 1 MB)"},
		{"too large to be read", "POST", "/api/secrets/set", `{"key":"A","value":"` + big + `"}`, 400,
			"Value too large (max 1 MB): the JSON string that secrets.get answers with must not be over 1047552 bytes"},
		{"no body", "POST", "/api/secrets/set", ``, 400, "Missing 'key'"},
		{"empty key", "POST", "/api/secrets/set", `{"key":"","value":"x"}`, 400, "Missing 'key'"},
		{"null key", "POST", "/api/secrets/set", `{"key":null,"value":"x"}`, 400, "Missing 'key'"},
		{"number as key", "POST", "/api/secrets/set", `{"key":5,"value":"x"}`, 400, "Invalid value for field 'key': want a string"},
		{"small letters", "POST", "/api/secrets/set", `{"key":"token","value":"x"}`, 400, "Invalid key: must match ^[A-Z0-9_]{1,64}$"},
		{"trailing newline", "POST", "/api/secrets/set", `{"key":"A\n","value":"x"}`, 400, "Invalid key: must match ^[A-Z0-9_]{1,64}$"},
		{"path as key", "POST", "/api/secrets/set", `{"key":"../../X","value":"x"}`, 400, "Invalid key: must match ^[A-Z0-9_]{1,64}$"},
		{"NUL in key", "POST", "/api/secrets/set", `{"key":"A\u0000","value":"x"}`, 400, "Invalid key: must match ^[A-Z0-9_]{1,64}$"},
		{"65 characters", "POST", "/api/secrets/set", `{"key":"` + strings.Repeat("A", 65) + `","value":"x"}`, 400, "Invalid key: must match ^[A-Z0-9_]{1,64}$"},
		{"no value", "POST", "/api/secrets/set", `{"key":"A"}`, 400, "'value' must be a string"},
		{"null value", "POST", "/api/secrets/set", `{"key":"A","value":null}`, 400, "'value' must be a string"},
		{"number as value", "POST", "/api/secrets/set", `{"key":"A","value":5}`, 400, "'value' must be a string"},
		{"object as value", "POST", "/api/secrets/set", `{"key":"A","value":{"a":["b"]}}`, 400, "'value' must be a string"},
		{"unknown field", "POST", "/api/secrets/set", `{"key":"A","value":"x","ttl":1}`, 400, "Unknown field 'ttl' (known: key, value)"},
		{"duplicate field", "POST", "/api/secrets/set", `{"key":"A","value":"x","value":"y"}`, 400, "Invalid JSON in request body: line 1, column 24: a name stands twice in one object"},
		{"lone surrogate", "POST", "/api/secrets/set", `{"key":"A","value":"\ud800"}`, 400, "Invalid JSON in request body: line 1, column 21: an escape that JSON doesn't have; a backslash is written \\\\"},
		{"not UTF-8", "POST", "/api/secrets/set", "{\"key\":\"A\",\"value\":\"\xff\"}", 400, "Invalid JSON in request body: line 1, column 21: not UTF-8"},
		{"array", "POST", "/api/secrets/set", `[]`, 400, "Invalid JSON in request body" + `: want an object, such as {"name": "value"}`},
		{"null", "POST", "/api/secrets/set", `null`, 400, "Invalid JSON in request body" + `: want an object, such as {"name": "value"}`},
		{"half", "POST", "/api/secrets/set", `{"key":"A","value":"x`, 400, "Invalid JSON in request body: line 1, column 22: it ends too early"},
		{"delete what never was", "POST", "/api/secrets/delete", `{"key":"NEVER"}`, 404, "Secret not found: NEVER"},
		{"delete no key", "POST", "/api/secrets/delete", `{}`, 400, "Missing 'key'"},
		{"delete a bad key", "POST", "/api/secrets/delete", `{"key":"a"}`, 400, "Invalid key: must match ^[A-Z0-9_]{1,64}$"},
		{"method", "POST", "/api/secrets", `{}`, 405, "Method not allowed"},
		{"path", "GET", "/api/secrets/get", ``, 404, "Not found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, got := call(t, suite, "gateway", c.method, c.path, c.body)
			if status != c.status || got.Success != (c.status == 200) {
				t.Fatalf("answered %d %+v, want %d", status, got, c.status)
			}
			if c.status != 200 {
				if got.Error != c.want {
					t.Fatalf("error %q, want %q", got.Error, c.want)
				}
				return
			}
			if !got.Data.IsValid() || sorted(t, got.Data) != c.want {
				t.Fatalf("data %s\nwant %s", sorted(t, got.Data), c.want)
			}
		})
	}
}

var times = regexp.MustCompile(`"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"`)

// sorted is data in canonical form with every RFC 3339 time in UTC as T.
func sorted(t *testing.T, data jsontext.Value) string {
	t.Helper()
	if err := data.Canonicalize(); err != nil {
		t.Fatal(err)
	}
	return times.ReplaceAllString(string(data), "T")
}

func TestOnlyTheBrokerGetsValues(t *testing.T) {
	suite, server := start(t)
	if status, a := call(t, suite, "gateway", "POST", "/api/secrets/set", `{"key":"TOKEN","value":"sk-hunter2"}`); status != 200 {
		t.Fatalf("the set got %d %+v, want 200", status, a)
	}
	client := api.NewClient(suite.Peer("capability-broker", "secrets"))
	if value, err := client.Value(t.Context(), "TOKEN"); err != nil || value.Reveal() != "sk-hunter2" {
		t.Fatalf("the broker's value is %q, %v; want sk-hunter2", value.Reveal(), err)
	}
	for key, kind := range map[string]fault.Kind{"NEVER": fault.KindNotFound, "": fault.KindInvalid, "../X": fault.KindInvalid} {
		if _, err := client.Value(t.Context(), key); !fault.Is(err, kind) {
			t.Errorf("value of %q: %v, want %v", key, err, kind)
		}
	}
	for _, as := range []string{"gateway", "approval", "egress-proxy", "pip-installer", "pack-registry", "secrets"} {
		if status, a := call(t, suite, as, "POST", api.GetValue.Route().Pattern, `{"key":"TOKEN"}`); status != 403 || strings.Contains(string(a.Data), "hunter2") {
			t.Errorf("%s got %d %+v, want 403 without the value", as, status, a)
		}
	}
	for _, path := range []string{"/api/secrets/set", "/api/secrets/delete"} {
		if status, _ := call(t, suite, "capability-broker", "POST", path, `{"key":"TOKEN","value":"x"}`); status != 403 {
			t.Errorf("the broker may call %s: %d, want 403", path, status)
		}
	}

	if status, a := call(t, suite, "gateway", "POST", "/api/secrets/delete", `{"key":"TOKEN"}`); status != 200 {
		t.Fatalf("the delete got %d %+v, want 200", status, a)
	}
	if _, err := client.Value(t.Context(), "TOKEN"); !fault.Is(err, fault.KindNotFound) {
		t.Fatalf("the value after the delete: got %v, want not found", err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	servicetest.Start(suite, "secrets", build, nil)
	if _, err := client.Value(t.Context(), "TOKEN"); !fault.Is(err, fault.KindNotFound) {
		t.Fatalf("value after delete and restart: %v; want not found", err)
	}

	system := read(t, suite, "audit/system_*.jsonl")
	for _, want := range []string{`"action":"secret_set"`, `"action":"secret_deleted"`, `"service":"secrets"`} {
		if !strings.Contains(system, want) {
			t.Errorf("no %s in %s", want, system)
		}
	}
	for _, pattern := range []string{"audit/*", "secrets/*"} {
		if strings.Contains(read(t, suite, pattern), "hunter2") {
			t.Errorf("%s shows a value, want none", pattern)
		}
	}
}

func TestDamageKeepsOthersWorking(t *testing.T) {
	suite, _ := start(t)
	for _, key := range []string{"A", "B"} {
		if status, a := call(t, suite, "gateway", "POST", "/api/secrets/set", `{"key":"`+key+`","value":"value of `+key+`"}`); status != 200 {
			t.Fatalf("the set got %d %+v, want 200", status, a)
		}
	}
	dir := filepath.Join(suite.UserData(), "secrets")
	data, err := os.ReadFile(filepath.Join(dir, "B.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "A.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	client := api.NewClient(suite.Peer("capability-broker", "secrets"))
	if _, err := client.Value(t.Context(), "A"); !fault.Is(err, fault.KindInternal) {
		t.Fatalf("a swapped file gave %v, want internal", err)
	}
	if value, err := client.Value(t.Context(), "B"); err != nil || value.Reveal() != "value of B" {
		t.Fatalf("the value of B is %q, %v; want it", value.Reveal(), err)
	}
	_, a := call(t, suite, "gateway", "GET", "/api/secrets", "")
	if want := `{"count":2,"keys":[{"created_at":null,"damaged":true,"deleted":false,"exists":false,"key":"A","masked":"********","updated_at":null},` +
		`{"created_at":T,"deleted":false,"exists":true,"key":"B","masked":"********","updated_at":T}]}`; sorted(t, a.Data) != want {
		t.Fatalf("list %s\nwant %s", sorted(t, a.Data), want)
	}
	if got := read(t, suite, "audit/security_*.jsonl"); !strings.Contains(got, `"hash_mismatch"`) {
		t.Errorf("the security entries are %s, want hash_mismatch", got)
	}
}

// BenchmarkValue measures what is left of the 300 µs that the broker has for secrets.get.
func BenchmarkValue(b *testing.B) {
	suite := servicetest.New(b, "secrets")
	makeKey(b, suite)
	servicetest.Start(suite, "secrets", build, map[string]string{"RUMI_LOG_LEVEL": "warn"})
	r, err := http.NewRequestWithContext(b.Context(), "POST", "https://secrets/api/secrets/set", strings.NewReader(`{"key":"TOKEN","value":"sk-hunter2"}`))
	if err != nil {
		b.Fatal(err)
	}
	response, err := suite.Client("gateway", "secrets").Do(r)
	if err != nil || response.StatusCode != 200 {
		b.Fatalf("got %v, %v; want 200", response, err)
	}
	response.Body.Close()
	client := api.NewClient(suite.Peer("capability-broker", "secrets"))
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if _, err := client.Value(b.Context(), "TOKEN"); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	b.ReportMetric(float64(median(took).Nanoseconds()), "p50-ns")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// read joins the files of a pattern below user_data.
func read(t *testing.T, suite *servicetest.Suite, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(suite.UserData(), pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s (%v), want some", pattern, err)
	}
	var all strings.Builder
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	return all.String()
}

// A key that is gone hinders reading and setting, says so, and spoils nothing: no secret counts as damaged for it.
func TestSecretsWaitForTheirKey(t *testing.T) {
	suite, server := start(t)
	key := filepath.Join(suite.UserData(), "settings", "secrets_key")
	if code, a := call(t, suite, "gateway", "POST", "/api/secrets/set", `{"key":"TOKEN","value":"v"}`); code != 200 {
		t.Fatalf("the set got %d %q, want 200", code, a.Error)
	}
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(suite.UserData(), "settings", "secrets", "secrets_key")); err != nil {
		t.Fatal(err)
	}
	for path, body := range map[string]string{"/api/secrets/set": `{"key":"TOKEN","value":"w"}`, "/api/secrets/delete": `{"key":"TOKEN"}`} {
		if code, a := call(t, suite, "gateway", "POST", path, body); code != 503 || a.Code != "secrets_key_unavailable" {
			t.Errorf("%s without a key: %d %s %s, want 503 secrets_key_unavailable", path, code, a.Code, a.Error)
		}
	}
	ready := server.Runtime.Readiness(t.Context())
	if i := slices.IndexFunc(ready.Checks, func(c service.Check) bool { return c.Name == "secrets key" }); ready.Ready || i < 0 || ready.Checks[i].OK ||
		!strings.Contains(ready.Checks[i].Detail, "secrets_key is missing") || !strings.Contains(ready.Checks[i].Fix, "docker compose up") {
		t.Errorf("the readiness without a key is %+v, want it not ready, with a fix", ready)
	}
	if err := errors.Join(os.Rename(key+".away", key), os.Link(key, filepath.Join(suite.UserData(), "settings", "secrets", "secrets_key"))); err != nil {
		t.Fatal(err)
	}
	if code, a := call(t, suite, "gateway", "GET", "/api/secrets", ""); code != 200 || strings.Contains(string(a.Data), "damaged") {
		t.Errorf("with the key again: %d %s %s; want 200 and nothing damaged", code, a.Data, a.Error)
	}
	if got := server.Runtime.Readiness(t.Context()); !got.Ready {
		t.Errorf("readiness with the key again: %+v; want it ready", got)
	}
}
