package server_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/internal/rpctest"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

// streams are handlers that go on for as long as somebody listens, each in another way.
func streams(returned chan<- string) map[string]http.Handler {
	forever := func(name string, fn func(w http.ResponseWriter, r *http.Request) error) http.Handler {
		return rpc.Raw(func(w http.ResponseWriter, r *http.Request) error {
			defer func() { returned <- name }()
			return fn(w, r)
		})
	}
	return map[string]http.Handler{
		"flushes and waits": forever("flushes and waits", func(w http.ResponseWriter, r *http.Request) error {
			if err := http.NewResponseController(w).Flush(); err != nil {
				return err
			}
			<-r.Context().Done()
			return r.Context().Err()
		}),
		"begins and waits": forever("begins and waits", func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(http.StatusOK)
			<-r.Context().Done()
			return r.Context().Err()
		}),
		"only writes": forever("only writes", func(w http.ResponseWriter, _ *http.Request) error {
			for {
				if _, err := fmt.Fprint(w, "data: x\n\n"); err != nil {
					return err
				}
				time.Sleep(time.Millisecond)
			}
		}),
	}
}

func TestHeadOfAStreamEndsWithItsHead(t *testing.T) {
	returned := make(chan string, 10)
	for name, stream := range streams(returned) {
		t.Run(name, func(t *testing.T) {
			w := rpctest.New(t)
			client := &http.Client{Transport: w.Peer("gateway", w.Serve(func(m *server.Mux) {
				m.Route("GET /stream", stream, "gateway")
				m.Route("GET /n", rpc.Handle(func(context.Context, struct{}) (rpctest.Number, error) { return rpctest.Number{N: 7}, nil }), "gateway")
			}))}
			for range 3 {
				within(t, client, "HEAD", "/stream", 200)
				within(t, client, "GET", "/n", 200)
				select {
				case <-returned:
				case <-time.After(rpctest.Patience):
					t.Fatal("the handler still runs, for nobody")
				}
			}
			within(t, client, "OPTIONS", "/stream", 405)
			if len(returned) != 0 {
				t.Error("OPTIONS ran the handler")
			}
		})
	}
}

// within sends a request that must be answered at once.
func within(t *testing.T, client *http.Client, method, path string, status int) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rpctest.Patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "https://approval"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	response.Body.Close()
	if response.StatusCode != status {
		t.Fatalf("%s %s: %d, want %d", method, path, response.StatusCode, status)
	}
	return response
}

func TestHeadIsThatOfGet(t *testing.T) {
	w := rpctest.New(t)
	client := &http.Client{Transport: w.Peer("gateway", w.Serve(func(m *server.Mux) {
		m.Route("GET /n", rpc.Handle(func(ctx context.Context, _ struct{}) (rpctest.Number, error) { return rpctest.Number{N: 7}, ctx.Err() }), "gateway")
	}))}
	get, head := within(t, client, "GET", "/n", 200), within(t, client, "HEAD", "/n", 200)
	if got, want := head.Header.Get("Content-Length"), get.Header.Get("Content-Length"); got != want || want == "" {
		t.Errorf("Content-Length %q, want %q", got, want)
	}
	if got := within(t, client, "HEAD", "/nothing", 404); got.Header.Get("X-Request-Id") == "" {
		t.Error("no X-Request-Id")
	}
}

// The answer to HEAD says nothing of whether its handler has returned, so its connection is not used again.
func TestConnectionIsNotKeptAfterHead(t *testing.T) {
	for name, length := range map[string]string{"a stream": "", "an answer with a length": "9"} {
		t.Run(name, func(t *testing.T) {
			w := rpctest.New(t)
			release := make(chan struct{})
			s := w.ServeCounted(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/stuck" {
					fmt.Fprint(w, `{"success":true,"data":{"n":7},"error":null}`)
					return
				}
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				w.WriteHeader(http.StatusOK)
				_ = http.NewResponseController(w).Flush()
				<-release
			}), "")
			t.Cleanup(func() { close(release) })
			for _, header := range []http.Header{{}, {"Expect": {"nothing"}}} { // the second takes the way of http.Transport
				before := s.Connections.Load()
				client := &http.Client{Transport: w.Peer("gateway", s.Address())}
				r, err := http.NewRequestWithContext(t.Context(), "HEAD", "https://approval/stuck", nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Header = header
				response, err := client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				response.Body.Close()
				within(t, client, "GET", "/n", 200)
				if got := s.Connections.Load() - before; got != 2 {
					t.Errorf("%d connections, want one for each request", got)
				}
			}
		})
	}
}
