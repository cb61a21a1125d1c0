package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// h2Server is a server that speaks HTTP/2, and a pool that reaches it under the name of its certificate.
func h2Server(t *testing.T, h http.HandlerFunc) (pool *Pool, target *Target, dialled *atomic.Int64) {
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	dialled = new(atomic.Int64)
	ctx, cancel := context.WithCancel(context.Background())
	pool = NewPool(ctx, &Config{
		TLS: func() *tls.Config { return &tls.Config{RootCAs: roots} },
		Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			dialled.Add(1)
			var d net.Dialer
			return d.DialContext(ctx, "tcp", s.Listener.Addr().String())
		},
	})
	t.Cleanup(func() { cancel(); pool.Close() })
	return pool, &Target{TLS: true, Host: "example.com", Port: 443, Addrs: []netip.Addr{netip.MustParseAddr("93.184.216.34")}, ID: "1"}, dialled
}

func get(ctx context.Context, s *Stream) (*http.Response, error) {
	r := &http.Request{Method: "GET", URL: s.URL("/"), Host: "example.com", Header: http.Header{}, ProtoMajor: 1, ProtoMinor: 1}
	return s.RoundTrip(r.WithContext(ctx))
}

// users is how many exchanges of a pool are under way over HTTP/2.
func (p *Pool) users() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, all := range p.h2 {
		for _, h := range all {
			n += h.users
		}
	}
	return n
}

// What is held in memory and what is streamed share connections, each with as many exchanges as its window has room for.
func TestStreamsShareConnections(t *testing.T) {
	release := make(chan struct{})
	pool, target, dialled := h2Server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("request over %s, want HTTP/2", r.Proto)
		}
		w.(http.Flusher).Flush()
		if r.URL.Path == "/" {
			<-release
		}
		io.WriteString(w, "hello")
	})
	do := func() {
		t.Helper()
		response, err := pool.Do(t.Context(), target, &Request{Method: "GET", Path: "/do", Host: "example.com", Deadline: time.Now().Add(time.Minute), MaxBody: 10}, nil)
		if err != nil || string(response.Body) != "hello" || !response.HTTP2 {
			t.Fatalf("Do: %v, %v; want hello over HTTP/2", response, err)
		}
	}
	do()
	var bodies []io.ReadCloser
	for i := range 2 * maxPerH2Conn {
		response, err := get(t.Context(), pool.NewStream(target, false))
		if err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
		bodies = append(bodies, response.Body)
	}
	if got := dialled.Load(); got != 2 {
		t.Errorf("%d streams at once use %d connections, want 2", len(bodies), got)
	}
	close(release)
	for i, body := range bodies {
		if got, err := io.ReadAll(body); err != nil || string(got) != "hello" {
			t.Errorf("body of stream %d: %q, %v; want hello", i, got, err)
		}
		body.Close()
	}
	if got := pool.users(); got != 0 {
		t.Errorf("%d exchanges are under way at the end, want 0", got)
	}
	do()
	if got := dialled.Load(); got != 2 {
		t.Errorf("Do afterwards made connection %d, want none", got)
	}
}

// However a stream ends, it leaves its connection.
func TestStreamsLeaveTheirConnection(t *testing.T) {
	pool, target, dialled := h2Server(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "some")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	for name, end := range map[string]func(cancel func(), body io.ReadCloser){
		"closed":              func(_ func(), body io.ReadCloser) { body.Close() },
		"client leaves":       func(cancel func(), body io.ReadCloser) { cancel(); io.Copy(io.Discard, body); body.Close() },
		"client leaves early": func(cancel func(), body io.ReadCloser) { cancel(); body.Close() },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		response, err := get(ctx, pool.NewStream(target, false))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		end(cancel, response.Body)
		cancel()
		if got := pool.users(); got != 0 {
			t.Errorf("%s: %d exchanges are under way, want 0", name, got)
		}
	}
	if got := dialled.Load(); got != 1 {
		t.Errorf("%d connections, want 1: a client that leaves says nothing against its server", got)
	}
}

// A client may leave while the connection for its request is being made. The connection is then there for the next request.
func TestStreamsThatEndDuringTheDial(t *testing.T) {
	pool, target, dialled := h2Server(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	dial := pool.cfg.Dial
	dialling, proceed := make(chan struct{}), make(chan struct{})
	pool.cfg.Dial = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		dialling <- struct{}{}
		<-proceed
		return dial(ctx, to)
	}
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := get(ctx, pool.NewStream(target, false))
		failed <- err
	}()
	<-dialling
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("RoundTrip: %v, want %v", err, context.Canceled)
	}
	close(proceed)
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		pool.mu.Lock()
		n := pool.h2Count
		pool.mu.Unlock()
		if n == 1 && pool.users() == 0 {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("the pool has %d connections with %d exchanges, want 1 with none", n, pool.users())
		}
	}
	response, err := get(t.Context(), pool.NewStream(target, false))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if got := dialled.Load(); got != 1 {
		t.Errorf("%d connections, want 1", got)
	}
}

// Many requests to a server of which nothing is known yet each dial, and still end up on few connections, none lost.
func TestStreamsAtOnce(t *testing.T) {
	pool, target, _ := h2Server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	})
	var all sync.WaitGroup
	for i := range 4 * maxPerH2Conn {
		all.Go(func() {
			want := fmt.Appendf(nil, "body %d", i)
			s := pool.NewStream(target, false)
			r := &http.Request{
				Method: "POST", URL: s.URL("/"), Host: "example.com", Header: http.Header{}, ProtoMajor: 1, ProtoMinor: 1,
				Body: io.NopCloser(bytes.NewReader(want)), ContentLength: int64(len(want)),
			}
			response, err := s.RoundTrip(r.WithContext(t.Context()))
			if err != nil {
				t.Errorf("stream %d: %v", i, err)
				return
			}
			defer response.Body.Close()
			if got, err := io.ReadAll(response.Body); err != nil || !bytes.Equal(got, want) {
				t.Errorf("stream %d: %q, %v; want %q", i, got, err, want)
			}
		})
	}
	all.Wait()
	if got := pool.users(); got != 0 {
		t.Errorf("%d exchanges are under way at the end, want 0", got)
	}
}

// When the session ends, so does what is streamed.
func TestStreamsEndWithThePool(t *testing.T) {
	pool, target, _ := h2Server(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	response, err := get(pool.ctx, pool.NewStream(target, false))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	pool.Close()
	if _, err := io.ReadAll(response.Body); err == nil {
		t.Error("the body came to a good end, want an error")
	}
	if _, err := get(t.Context(), pool.NewStream(target, false)); err == nil {
		t.Error("a stream began in a pool that is closed, want an error")
	}
}
