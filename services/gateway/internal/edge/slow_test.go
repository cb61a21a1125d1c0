package edge

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/rpc/telemetry"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
	"github.com/rumi-ai/rumi/services/gateway/internal/site"
	"github.com/rumi-ai/rumi/services/gateway/internal/token"
)

// pipes is a listener in memory, so that time can be virtual.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// serve runs h and gives a connection to it.
func serve(t *testing.T, h http.Handler) net.Conn {
	t.Helper()
	l := &pipes{make(chan net.Conn), make(chan struct{})}
	server := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	client, other := net.Pipe()
	t.Cleanup(func() { client.Close() })
	l.conns <- other
	return client
}

func newEdge(t *testing.T, change ...func(*Config)) *Edge {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api_token")
	if err := os.WriteFile(path, []byte("right-token"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(path, path+".gateway"); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	key, err := token.Open(path+".gateway", log, func() {})
	if err != nil {
		t.Fatal(err)
	}
	policy, err := site.New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := audit.Open(t.TempDir(), "gateway", log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { entries.Close() })
	cfg := Config{
		Who: key, Site: policy, Audit: entries, Log: log, Peer: func(string) *client.Peer { return nil }, Metrics: prometheus.NewRegistry(),
		Recorder: telemetry.NewRecorder(log, prometheus.NewRegistry(), noop.NewTracerProvider().Tracer(""), slog.LevelInfo),
	}
	for _, c := range change {
		c(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// ask sends request and reads the answer and how long it and the end of the connection took.
func ask(t *testing.T, conn net.Conn, request string) (status int, body string, answered, ended time.Duration) {
	t.Helper()
	began := time.Now()
	go io.WriteString(conn, request)
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	answered = time.Since(began)
	if _, err := in.ReadByte(); err == nil {
		t.Fatal("more than one answer")
	}
	return response.StatusCode, string(data), answered, time.Since(began)
}

func TestSlowBodies(t *testing.T) {
	const start = "POST /api/secrets/set HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
	t.Run("of the operator", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			status, body, answered, ended := ask(t, serve(t, newEdge(t)), start+"Authorization: Bearer right-token\r\n\r\n{\"key\":")
			if status != 400 || !strings.Contains(body, "Request body was not received in time") || answered != bodyTimeout || ended > bodyTimeout+time.Second {
				t.Errorf("answered %d %s after %v, ended after %v", status, body, answered, ended)
			}
		})
	})
	t.Run("of anybody", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			status, _, answered, ended := ask(t, serve(t, newEdge(t)), start+"\r\n{\"key\":")
			if status != 401 || answered > time.Second || ended > bodyTimeout+time.Second {
				t.Errorf("answered %d after %v, ended after %v", status, answered, ended)
			}
		})
	})
}

// transport is a service that reads what it gets and answers nothing.
type transport struct{ err error }

func (s *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	_, s.err = io.Copy(io.Discard, r.Body)
	return nil, s.err
}

// TestStalledUpload: each piece of an upload has its time; one that doesn't come ends it.
func TestStalledUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &transport{}
		p := newProxy("pack-registry", to, newLastAnswer(), slog.New(slog.DiscardHandler))
		class := route.Class{Timeout: time.Hour, Upload: 1 << 20}
		conn := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			stop, err := boundBody(w, r, class)
			defer stop()
			if err == nil {
				err = p.serve(w, r, class)
			}
			if err != nil {
				rpc.WriteError(r.Context(), w, err)
			}
		}))
		began := time.Now()
		go func() {
			io.WriteString(conn, "POST /api/packs/import HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n")
			for range 10 {
				io.WriteString(conn, "piece")
				time.Sleep(stallTimeout - time.Second)
			}
		}()
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != 400 || !strings.Contains(string(body), "not received in time") {
			t.Errorf("got %d %s, want 400 that says that it wasn't received in time", response.StatusCode, body)
		}
		if took := time.Since(began); took != 9*(stallTimeout-time.Second)+stallTimeout {
			t.Errorf("the answer came after %v, want %v", took, 9*(stallTimeout-time.Second)+stallTimeout)
		}
		if cause, ok := errors.AsType[*bodyError](to.err); !ok || !errors.Is(cause, os.ErrDeadlineExceeded) {
			t.Errorf("the service was told %v", to.err)
		}
	})
}

// TestClientThatDoesNotRead: an answer that nobody takes ends.
func TestClientThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		conn := serve(t, http.HandlerFunc(func(raw http.ResponseWriter, r *http.Request) {
			w := &answerWriter{ResponseWriter: raw, ctx: r.Context()}
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					ended <- err
					return
				}
			}
		}))
		began := time.Now()
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("it ended with %v, want its deadline's error", err)
		}
		if took := time.Since(began); took > stallTimeout {
			t.Errorf("it ended after %v, want at most %v", took, stallTimeout)
		}
	})
}

// hung is a service that takes a request and never answers.
type hung struct{}

func (hung) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// TestServiceThatHangs: each class has its bound, one that follows included until its answer begins.
func TestServiceThatHangs(t *testing.T) {
	for query, class := range map[string]route.Class{
		"":             {Timeout: 15 * time.Second},
		"?follow=true": {Timeout: 20 * time.Second, Follow: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newProxy("approval", hung{}, newLastAnswer(), slog.New(slog.DiscardHandler))
			conn := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if err := p.serve(w, r, class); err != nil {
					rpc.WriteError(r.Context(), w, err)
				}
			}))
			began := time.Now()
			go io.WriteString(conn, "GET /"+query+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != 503 || response.Header.Get("Retry-After") == "" || time.Since(began) != class.Timeout {
				t.Errorf("%q: got %d after %v, want 503 with Retry-After after %v", query, response.StatusCode, time.Since(began), class.Timeout)
			}
		})
	}
}

// endless is a service that says something each minute for an hour.
type endless struct{}

func (endless) RoundTrip(r *http.Request) (*http.Response, error) {
	body, out := io.Pipe()
	stop := context.AfterFunc(r.Context(), func() { out.CloseWithError(r.Context().Err()) })
	go func() {
		defer stop()
		defer out.Close()
		for range 60 {
			select {
			case <-time.After(time.Minute):
			case <-r.Context().Done():
				return
			}
			if _, err := io.WriteString(out, "."); err != nil {
				return
			}
		}
	}()
	return &http.Response{StatusCode: 200, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: body, ContentLength: -1, Request: r}, nil
}

// TestFollowing: an answer that follows has no bound, in whichever way the service that gives it lets itself be asked.
func TestFollowing(t *testing.T) {
	for query, want := range map[string]int{"?follow=true": 60, "?follow=1": 60, "?follow=True&tail=5": 60, "?follow=false": 0, "?follow=maybe": 0, "": 0} {
		synctest.Test(t, func(t *testing.T) {
			p := newProxy("capability-broker", endless{}, newLastAnswer(), slog.New(slog.DiscardHandler))
			conn := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer func() { _ = recover() }() // how the answer is broken off
				_ = p.serve(w, r, route.Class{Timeout: 15 * time.Second, Follow: true})
			}))
			go io.WriteString(conn, "GET /"+query+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, _ := io.ReadAll(response.Body); len(body) != want {
				t.Errorf("%q: %d pieces, want %d", query, len(body), want)
			}
		})
	}
}

func TestPanic(t *testing.T) {
	e := newEdge(t)
	for r := range e.targets {
		e.targets[r] = target{name: "boom", handler: func(w http.ResponseWriter, _ *http.Request, _ route.Class) error { panic("boom /secret") }}
	}
	synctest.Test(t, func(t *testing.T) {
		conn := serve(t, e)
		go io.WriteString(conn, "GET /api/packs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer right-token\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		if want := `{"success":false,"data":null,"error":"Internal server error","error_code":"internal"}`; response.StatusCode != 500 || string(body) != want {
			t.Errorf("got %d %s, want 500 %s", response.StatusCode, body, want)
		}
	})
}
