package policy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/cli/internal/api"
)

// suite answers /api/policy/check, and keeps what it was asked.
func suite(t *testing.T, status int, answer string) (client *api.Client, asked *string) {
	t.Helper()
	asked = new(string)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		*asked = r.Method + " " + r.URL.Path + " " + r.Header.Get("Authorization") + " " + string(body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(server.Close)
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, "user_data/settings"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "user_data/settings/api_token"), []byte("secret\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	client, err := api.Flags{Home: home, URL: server.URL}.Open()
	if err != nil {
		t.Fatal(err)
	}
	return client, asked
}

const violated = `{"success":true,"data":{"violations":[
	{"service":"egress-proxy","kind":"network_grant","pack_id":"chat","name":"","granted_by":"al\u001bice","granted_role":"operator","suspended":true,"rule":"network.domains","reason":"\"x\" is denied"},
	{"service":"pip-installer","kind":"lock","pack_id":"notes","name":"notes:requirements.lock:00","granted_by":"bob","granted_role":"","suspended":false,"rule":"pip.sdists","reason":"no"}],
	"count":2,"errors":{}},"error":null}`

func TestCheckPrintsWhatIsNotCovered(t *testing.T) {
	client, asked := suite(t, 200, violated)
	var out bytes.Buffer
	err := Check(t.Context(), client, "-", strings.NewReader(`{"version": 1, "pip": {"sdists": false}}`), &out, false)
	violation, ok := errors.AsType[*ViolatedError](err)
	if !ok || violation.ExitCode() != 3 || violation.Count != 2 {
		t.Errorf("got %v, want 2 violations and the exit status 3", err)
	}
	if want := `POST /api/policy/check Bearer secret {"policy":{"version":1,"pip":{"sdists":false}}}`; *asked != want {
		t.Errorf("asked %q, want %q", *asked, want)
	}
	for _, line := range []string{
		`chat   network grant  al?ice (operator)  network.domains  suspended  "x" is denied`,
		`notes  lock           bob                pip.sdists       stays      no`,
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("printed\n%s, want the line\n%s", &out, line)
		}
	}
	out.Reset()
	if err := Check(t.Context(), client, "", nil, &out, true); !errors.As(err, &violation) {
		t.Errorf("as JSON: got %v, want the violations", err)
	}
	if !strings.Contains(*asked, " {}") || !strings.Contains(out.String(), `"rule": "network.domains"`) || !strings.Contains(out.String(), `"count": 2`) {
		t.Errorf("asked %q and printed %s, want the policy in force, and all in JSON", *asked, &out)
	}
}

func TestCheckSucceedsWhereAllIsCovered(t *testing.T) {
	client, _ := suite(t, 200, `{"success":true,"data":{"violations":[],"count":0,"errors":{}},"error":null}`)
	var out bytes.Buffer
	if err := Check(t.Context(), client, "", nil, &out, false); err != nil || out.String() != "Everything is covered by the policy.\n" {
		t.Errorf("got %q, %v, want no error", &out, err)
	}
}

func TestCheckFailsWhereNobodyKnows(t *testing.T) {
	for what, c := range map[string]struct {
		status               int
		answer, policy, want string
	}{
		"a service is down": {200, `{"success":true,"data":{"violations":[],"count":0,"errors":{"egress-proxy":"Service unavailable"}},"error":null}`, "", "egress-proxy could not be asked"},
		"a wrong token":     {401, `{"success":false,"data":null,"error":"Unauthorized","error_code":"unauthenticated"}`, "", "Unauthorized (401 unauthenticated)"},
		"no answer of Rumi": {502, `<html>`, "", "status 502"},
		"a bad policy":      {200, violated, "{\n \"version\": 1,\n}", "-: line 2, column 14: a comma before }"},
	} {
		client, asked := suite(t, c.status, c.answer)
		file, in := "", io.Reader(nil)
		if c.policy != "" {
			file, in = "-", strings.NewReader(c.policy)
		}
		err := Check(t.Context(), client, file, in, io.Discard, false)
		if _, ok := errors.AsType[*ViolatedError](err); ok || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", what, err, c.want)
		}
		if c.policy != "" && *asked != "" {
			t.Errorf("%s: asked %s, want nothing", what, *asked)
		}
	}
}
