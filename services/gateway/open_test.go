package main

import (
	"io"
	"net/http"
	"strings"
	"testing"

	document "github.com/rumi-ai/rumi/api/openapi"
	"github.com/rumi-ai/rumi/libs/openapi"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
)

// open asks for a path without a token.
func (w *world) open(t *testing.T, method, path, etag string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// The document and its page need no token, and are sent once only to a client that keeps them.
func TestDocumentIsServed(t *testing.T) {
	w := newWorld(t, nil)
	for _, c := range []struct{ path, kind, begins string }{
		{"/openapi.json", "application/json; charset=utf-8", "{\n\t\"openapi\": \"3.1.0\","},
		{"/docs", "text/html; charset=utf-8", "<!DOCTYPE html>"},
	} {
		response, body := w.open(t, http.MethodGet, c.path, "")
		tag := response.Header.Get("ETag")
		if response.StatusCode != 200 || response.Header.Get("Content-Type") != c.kind || !strings.HasPrefix(body, c.begins) || tag == "" ||
			response.Header.Get("X-Request-Id") == "" {
			t.Errorf("GET %s answered %d %v %.60q, want 200 with an entity tag", c.path, response.StatusCode, response.Header, body)
		}
		if response, none := w.open(t, http.MethodGet, c.path, `"other", W/`+tag); response.StatusCode != 304 || none != "" {
			t.Errorf("GET %s with the entity tag answered %d, want 304", c.path, response.StatusCode)
		}
		if response, none := w.open(t, http.MethodHead, c.path, ""); response.StatusCode != 200 || none != "" || response.ContentLength != int64(len(body)) {
			t.Errorf("HEAD %s answered %d of %d bytes, want 200 of %d", c.path, response.StatusCode, response.ContentLength, len(body))
		}
		wantFailure(t, w.do(t, http.MethodPost, c.path, nil, map[string]string{"Authorization": "-"}), 405, "Method not allowed")
	}
	response, _ := w.open(t, http.MethodGet, "/docs", "")
	if got := response.Header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'; ") {
		t.Errorf("the page's policy is %q, want one that forbids everything else", got)
	}
}

// What the gateway hands on is what its document says: no path more, none less.
func TestDocumentHasEveryRoute(t *testing.T) {
	d, err := openapi.Parse([]byte(document.Document()))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, item := range d.Paths {
		for method := range item.Value.Operations() {
			documented[method+" "+item.Name] = strings.HasPrefix(item.Name, "/api/")
		}
	}
	for _, r := range route.Routes {
		if !documented[r.Name()] {
			t.Errorf("the document lacks %s", r.Name())
		}
		delete(documented, r.Name())
	}
	for name, api := range documented {
		if api {
			t.Errorf("the document has %s, which the gateway doesn't know", name)
		}
	}
}
