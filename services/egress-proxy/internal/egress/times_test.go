package egress

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/dns"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/resolve"
)

// The read bound is the longest wait for the next byte, whichever other bounds there are and whichever version of HTTP the
// server speaks.
func TestReadTimeoutIsForTheNextByte(t *testing.T) {
	w := newWorld(t)
	serve := func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/late":
			select {
			case <-time.After(3 * time.Second):
			case <-r.Context().Done():
			}
		case "/drip":
			for range 30 {
				rw.Write([]byte("x"))
				rw.(http.Flusher).Flush()
				time.Sleep(40 * time.Millisecond)
			}
		case "/stops":
			rw.Write([]byte("x"))
			rw.(http.Flusher).Flush()
			select {
			case <-time.After(3 * time.Second):
			case <-r.Context().Done():
			}
		}
	}
	w.site("x.example", "93.184.216.34", false, serve)
	w.site("t.example", "93.184.216.35", true, serve)
	w.site2("y.example", "93.184.216.36", serve)
	var asking errgroup.Group
	asking.SetLimit(8)
	for _, url := range []string{"http://x.example", "https://t.example", "https://y.example"} {
		w.ask("GET", url+"/") // a connection is there
		for _, test := range []struct {
			path, want string
			times      []any
		}{
			{"/late", "timeout", []any{"read_timeout_seconds", 0.3}},
			{"/late", "timeout", []any{"connect_timeout_seconds", 5, "read_timeout_seconds", 0.3}},
			{"/late", "timeout", []any{"timeout_seconds", 10, "read_timeout_seconds", 0.3}},
			{"/late", "", []any{"timeout_seconds", 10, "connect_timeout_seconds", 5}},
			{"/drip", "", []any{"read_timeout_seconds", 0.4}},
			{"/drip", "", []any{"connect_timeout_seconds", 0.9, "read_timeout_seconds", 0.4}},
			{"/drip", "timeout", []any{"timeout_seconds", 0.2, "read_timeout_seconds", 0.4}},
			{"/stops", "timeout", []any{"read_timeout_seconds", 0.3}},
		} {
			for _, method := range []string{"GET", "POST"} {
				times := test.times
				if method == "POST" {
					times = append([]any{"body", "hello"}, times...)
				}
				asking.Go(func() error {
					began := time.Now()
					r := w.ask(method, url+test.path, times...)
					if took := time.Since(began); r.errorType() != test.want || test.want == "timeout" && took > 2500*time.Millisecond {
						t.Errorf("%s %s%s %v: %q after %v, want %q", method, url, test.path, times, r.errorType(), took, test.want)
					}
					return nil
				})
			}
		}
	}
	asking.Wait()
}

// slowNames never answers.
type slowNames struct{}

func (slowNames) Lookup(ctx context.Context, _ string) (dns.Answer, error) {
	<-ctx.Done()
	return dns.Answer{}, ctx.Err()
}

// The connect bound is for the look-up, too.
func TestConnectTimeoutIncludesTheLookup(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Resolver = slowNames{} })
	began := time.Now()
	r := w.ask("GET", "http://x.example/", "timeout_seconds", 60, "connect_timeout_seconds", 0.2)
	if took := time.Since(began); r.errorType() != "timeout" || took > 5*time.Second {
		t.Errorf("%s after %v, want timeout after 0.2 s", r.errorType(), took)
	}
}

// What the look-up took is not there for the connection any more.
func TestConnectTimeoutIsShared(t *testing.T) {
	w := newWorld(t)
	w.names["x.example"] = []string{"93.184.216.34"}
	var left time.Duration
	w.proxy.packs.Upstream.Dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		until, _ := ctx.Deadline()
		left = time.Until(until)
		return nil, context.DeadlineExceeded
	}
	w.proxy.packs.Names = resolve.New(delayed{w, 300 * time.Millisecond})
	w.ask("GET", "http://x.example/", "timeout_seconds", 60, "connect_timeout_seconds", 1)
	if left <= 0 || left > 700*time.Millisecond {
		t.Errorf("a second less a look-up of 0.3 s leaves %v for the connection", left)
	}
}

type delayed struct {
	resolve.Resolver
	by time.Duration
}

func (d delayed) Lookup(ctx context.Context, name string) (dns.Answer, error) {
	time.Sleep(d.by)
	return d.Resolver.Lookup(ctx, name)
}
