package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/api/client"
	"github.com/rumi-ai/rumi/libs/candidate/wire"
)

// gateway answers what a test says, and keeps what it was asked.
type gateway struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []string // "GET /api/packs?x=y body"
	header []http.Header
}

func serve(t *testing.T, answer func(w http.ResponseWriter, r *http.Request, n int)) *gateway {
	t.Helper()
	g := &gateway{}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := ""
		if r.URL.Path != "/api/packs/import" {
			read, _ := io.ReadAll(r.Body)
			body = string(read)
		}
		g.mu.Lock()
		g.asked = append(g.asked, strings.TrimSpace(r.Method+" "+r.RequestURI+" "+body))
		g.header = append(g.header, r.Header)
		n := len(g.asked)
		g.mu.Unlock()
		answer(w, r, n)
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *gateway) client(t *testing.T, options ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(g.URL, client.Token("t0ken"), options...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("X-Request-Id", "R1")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"success":false,"data":null,"error":%q,"error_code":%q}`, message, code)
}

// A call has the token, its fields in path, query and body, and gives the data.
func TestCall(t *testing.T) {
	g := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		if r.Method == http.MethodPost {
			fmt.Fprint(w, `{"success":true,"data":{"success":true,"pack_id":"a","status":"blocked","reason":"no"},"error":null}`)
			return
		}
		fmt.Fprint(w, `{"success":true,"data":{"items":[{"candidate_key":"a:b:c"}],"count":1,"status_filter":"pending"},"error":null}`)
	})
	c := g.client(t)
	decided, err := c.Approval.Reject(t.Context(), approval.RejectRequest{PackID: "a b", Reason: "no"})
	if err != nil || decided.Status != "blocked" || *decided.Reason != "no" {
		t.Errorf("got %+v, %v; want the decision", decided, err)
	}
	locks, err := c.Pip.CandidatesList(t.Context(), wire.ListRequest{Status: "pending"})
	if err != nil || locks.Count != 1 || locks.Items[0].Key != "a:b:c" {
		t.Errorf("got %+v, %v; want the candidates", locks, err)
	}
	want := []string{`POST /api/packs/a%20b/reject {"reason":"no"}`, "GET /api/pip/requests?status=pending"}
	if !slices.Equal(g.asked, want) {
		t.Errorf("was asked %q, want %q", g.asked, want)
	}
	for _, h := range g.header {
		if h.Get("Authorization") != "Bearer t0ken" || h.Get("X-Request-Id") == "" {
			t.Errorf("the header is %v, want the token and a request id", h)
		}
	}
}

// A failure is an Error with all that scripts compare; what is no answer of Rumi's says so.
func TestFailures(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter)
		want   client.Error
	}{
		{"a failure", func(w http.ResponseWriter) { fail(w, 404, "pack_not_found", "Pack not found") },
			client.Error{Status: 404, Code: "pack_not_found", Message: "Pack not found", RequestID: "R1"}},
		{"busy for long", func(w http.ResponseWriter) { w.Header().Set("Retry-After", "9"); fail(w, 503, "busy", "Busy") },
			client.Error{Status: 503, Code: "busy", Message: "Busy", RequestID: "R1", RetryAfter: 9 * time.Second}},
		{"a proxy's page", func(w http.ResponseWriter) { w.WriteHeader(502); fmt.Fprint(w, "<h1>Bad\x1b gateway") },
			client.Error{Status: 502, Message: `Bad Gateway, which is no answer of Rumi's: <h1>Bad\x1b gateway`}},
		{"a redirect", func(w http.ResponseWriter) { w.Header().Set("Location", "https://evil.example/"); w.WriteHeader(302) },
			client.Error{Status: 302, Message: "Found, which is no answer of Rumi's: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) { c.answer(w) })
			_, err := g.client(t).Approval.Approve(t.Context(), approval.ApproveRequest{PackID: "a"})
			got, ok := errors.AsType[*client.Error](err)
			if !ok {
				t.Fatalf("got %v, want an Error", err)
			}
			got.Data = nil
			if got.Status != c.want.Status || got.Code != c.want.Code || got.Message != c.want.Message || got.RequestID != c.want.RequestID || got.RetryAfter != c.want.RetryAfter {
				t.Errorf("got %+v, want %+v", *got, c.want)
			}
			if len(g.asked) != 1 {
				t.Errorf("was asked %d times, want once: an approval must not be repeated unasked", len(g.asked))
			}
			if c.want.Code != "" && (!client.IsCode(err, "x", c.want.Code) || client.IsCode(err, "x")) {
				t.Errorf("IsCode doesn't know the code of %v", err)
			}
		})
	}
}

// What may be repeated is repeated after the time that the answer says, and never beyond ctx or the number of attempts.
func TestRetries(t *testing.T) {
	unavailable := func(w http.ResponseWriter) {
		w.Header().Set("Retry-After", "0")
		fail(w, 503, "service_unavailable", "Down")
	}
	limited := func(w http.ResponseWriter) {
		w.Header().Set("Retry-After", "0")
		fail(w, 429, "rate_limited", "Slowly")
	}
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter)
		read   bool // GET, else POST
		want   int  // times asked
		fails  bool
	}{
		{"a read of a service that comes back", unavailable, true, 3, false},
		{"a change of a service that is down", unavailable, false, 1, true},
		{"a change that was not begun", limited, false, 3, false},
		{"a wrong token", func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "0")
			fail(w, 429, "too_many_failures", "No")
		}, true, 1, true},
		{"a wait beyond the deadline", func(w http.ResponseWriter) { w.Header().Set("Retry-After", "600"); fail(w, 503, "busy", "Busy") }, true, 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := serve(t, func(w http.ResponseWriter, _ *http.Request, n int) {
				if n < 3 {
					c.answer(w)
					return
				}
				fmt.Fprint(w, `{"success":true,"data":null,"error":null}`)
			})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var err error
			if c.read {
				_, err = g.client(t).Approval.List(ctx)
			} else {
				_, err = g.client(t).Approval.Reject(ctx, approval.RejectRequest{PackID: "a"})
			}
			if (err != nil) != c.fails || len(g.asked) != c.want {
				t.Errorf("was asked %d times, and got %v; want %d times", len(g.asked), err, c.want)
			}
			if len(g.header) > 1 && g.header[0].Get("X-Request-Id") != g.header[1].Get("X-Request-Id") {
				t.Error("the attempts have several request ids, want one: they are one call")
			}
		})
	}
	g := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) { unavailable(w) })
	if _, err := g.client(t, client.Attempts(2)).Approval.List(t.Context()); !client.IsCode(err, "service_unavailable") || len(g.asked) != 2 {
		t.Errorf("was asked %d times, and got %v; want two times, then the failure", len(g.asked), err)
	}
}

// Events come one by one, while the stream goes on; leaving the loop ends it.
func TestFollow(t *testing.T) {
	ended := make(chan struct{})
	g := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, ": hello\n\ndata: {\"text\":\"a\",\ndata: \"stream\":\"stdout\"}\n\nevent: x\ndata:{\"text\":\"b\"}\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(ended)
	})
	var texts []string
	for line, err := range g.client(t).Broker.FollowContainerLogs(t.Context(), broker.LogsRequest{PackID: "a", Tail: 5}) {
		if err != nil {
			t.Fatal(err)
		}
		if texts = append(texts, line.Text+line.Stream); len(texts) == 2 {
			break
		}
	}
	if !slices.Equal(texts, []string{"astdout", "b"}) || g.asked[0] != "GET /api/containers/a/logs?follow=true&tail=5" {
		t.Errorf("got %q by %q, want both events", texts, g.asked)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the stream went on after the loop was left")
	}
}

// The end of a stream is no error; a refusal, an answer that is none of events and an event that can't be read are.
func TestFollowFails(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter)
		want   string // in the error; "" for none
	}{
		{"the end", func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/event-stream") }, ""},
		{"a refusal", func(w http.ResponseWriter) { fail(w, 404, "container_not_found", "Container not found") }, "container_not_found"},
		{"no stream", func(w http.ResponseWriter) { w.Header().Set("Content-Type", "application/json"); fmt.Fprint(w, "{}") }, "no stream of events"},
		{"no JSON", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: {\n\n")
		}, "read an event"},
	} {
		g := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) { c.answer(w) })
		var last error
		for _, err := range g.client(t).Broker.FollowContainerLogs(t.Context(), broker.LogsRequest{PackID: "a"}) {
			last = err
		}
		if (last == nil) != (c.want == "") || last != nil && !strings.Contains(last.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, last, c.want)
		}
	}
}

// A file is streamed: the server reads its beginning before its end exists. A failure in the middle of it is the call's.
func TestUpload(t *testing.T) {
	var name, notes string
	var size int64
	g := serve(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		file, header, err := r.FormFile("file")
		if err != nil {
			fail(w, 400, "body_unreadable", "Request body could not be read")
			return
		}
		defer file.Close()
		name, notes = header.Filename, r.FormValue("notes")
		size, _ = io.Copy(io.Discard, file)
		fmt.Fprint(w, `{"success":true,"data":{"success":true,"staging_id":"0123456789abcdef"},"error":null}`)
	})
	staged, err := g.client(t).Registry.UploadImport(t.Context(), "my_pack.zip", io.LimitReader(zeros{}, 40<<20), "by hand")
	if err != nil || staged.StagingID != "0123456789abcdef" || name != "my_pack.zip" || notes != "by hand" || size != 40<<20 {
		t.Errorf("got %+v, %v of %q, %q, %d bytes; want the staging of 40 MiB", staged, err, name, notes, size)
	}
	broken := io.MultiReader(io.LimitReader(zeros{}, 1<<20), failing{})
	if _, err := g.client(t).Registry.UploadImport(t.Context(), "my_pack.zip", broken, ""); err == nil || !strings.Contains(err.Error(), "the disk is broken") {
		t.Errorf("an upload whose file can't be read got %v, want why", err)
	}
}

// A refusal before the file is sent ends the upload, and the goroutine that reads the file.
func TestUploadIsRefused(t *testing.T) {
	g := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) { fail(w, 403, "not_allowed", "Not allowed") })
	file := &endless{}
	if _, err := g.client(t).Registry.UploadImport(t.Context(), "my_pack.zip", file, ""); !client.IsCode(err, "not_allowed") {
		t.Errorf("got %v, want the refusal", err)
	}
	before := file.reads()
	time.Sleep(100 * time.Millisecond)
	if after := file.reads(); after > before+1 {
		t.Errorf("the file was read %d times more after the refusal", after-before)
	}
}

// The token's file is read for each call; one that isn't there is an error, and nothing is sent.
func TestTokenFile(t *testing.T) {
	g := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) {
		fmt.Fprint(w, `{"success":true,"data":[],"error":null}`)
	})
	path := filepath.Join(t.TempDir(), "token")
	c, err := client.New(g.URL+"/", client.TokenFile(path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Approval.List(t.Context()); !errors.Is(err, os.ErrNotExist) || len(g.asked) != 0 {
		t.Errorf("without a token got %v after %d requests, want an error and none", err, len(g.asked))
	}
	for _, token := range []string{"one", "two"} {
		if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Approval.List(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := g.header[len(g.header)-1].Get("Authorization"); got != "Bearer "+token {
			t.Errorf("sent %q, want the token that is in the file now, %s", got, token)
		}
	}
}

func TestAddresses(t *testing.T) {
	for address, works := range map[string]bool{
		"http://localhost:8765": true, "https://rumi.example/prefix/": true, "localhost:8765": false, "": false, "ftp://x": false, "http://": false, "http://x/?y": false,
	} {
		if _, err := client.New(address, client.Token("x")); (err == nil) != works {
			t.Errorf("New(%q) gives %v", address, err)
		}
	}
	if _, err := client.New("http://x", client.Token("x"), client.Attempts(0)); err == nil {
		t.Error("a client of no attempts was made")
	}
}

// zeros is a file of any length.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// failing can't be read.
type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the disk is broken") }

// endless is a file without an end, which counts how often it is read.
type endless struct {
	mu sync.Mutex
	n  int
}

func (e *endless) Read(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.n++
	return len(p), nil
}

func (e *endless) reads() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.n
}
