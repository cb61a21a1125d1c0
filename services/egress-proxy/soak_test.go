package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// soak is a pack that asks for everything at once, while its grant comes and goes.
type soak struct {
	*rig
	url, ports, secure string
}

func newSoak(t testing.TB) *soak {
	// Log lines of services under test are kept by the testing package, which is no leak of theirs.
	s := &soak{rig: newRig(t, map[string]string{"RUMI_LOG_LEVEL": "error", "RUMI_AUDIT_REFUSALS": "1000"})}
	plain, port := upstreamServer(t, func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/redirect":
			http.Redirect(w, q, "/ok", http.StatusFound)
		case "/reset":
			if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		default:
			io.WriteString(w, "hello")
		}
	})
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // of handshakes that a revoke cut
	secure.StartTLS()
	t.Cleanup(secure.Close)
	_, securePort, _ := net.SplitHostPort(secure.Listener.Addr().String())
	s.url, s.ports, s.secure = plain, port+","+securePort, "localhost:"+securePort
	s.pack("p", "approved")
	s.dial("p").Close() // the pack is known
	return s
}

// state is what must not grow.
type state struct {
	goroutines, descriptors int
	heap                    int64
}

func (s *soak) state() state {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		s.Fatal(err)
	}
	runtime.GC()
	runtime.GC() // pools are emptied in two steps
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return state{runtime.NumGoroutine(), len(list), int64(m.HeapAlloc)}
}

const soakers = 8

// run sends so many requests, and gives the state once everything that they were about is closed.
func (s *soak) run(requests int) state {
	var asking sync.WaitGroup
	for worker := range soakers {
		asking.Go(func() {
			for done := 0; done < requests/soakers; {
				done += s.visit(worker, min(100, requests/soakers-done))
			}
		})
	}
	over := make(chan struct{})
	go func() { asking.Wait(); close(over) }()
	for ended := false; !ended; {
		s.rig.grant("p", `"127.0.0.1","localhost"`, s.ports)
		select {
		case <-over:
			ended = true
		case <-time.After(50 * time.Millisecond):
		}
		s.mustCall("POST", "/api/network/revoke", `{"pack_id":"p"}`) // the last of which closes what is pooled
	}
	var least state
	for range 100 { // what ends does so at its leisure
		if now := s.state(); least.goroutines == 0 || now.goroutines <= least.goroutines && now.descriptors <= least.descriptors {
			least = now
		}
		time.Sleep(10 * time.Millisecond)
	}
	return least
}

// visit is one client's stay: some requests over connections of its own.
func (s *soak) visit(worker, requests int) int {
	framed, err := net.Dial("unix", s.socket("p"))
	if err != nil {
		s.Error(err)
		return requests
	}
	defer framed.Close()
	framed.SetDeadline(time.Now().Add(2 * time.Minute))
	asked := func(path, otherwise string) {
		a, err := ask(framed, fmt.Sprintf(`{"url":"%s"}`, path))
		if err != nil || a.ErrorType != otherwise && a.ErrorType != "grant_denied" {
			s.Errorf("%s: %+v, %v", path, a, err)
		}
	}
	for i := range requests {
		switch kind := (i + worker) % 32; {
		case kind == 0:
			s.tunnel()
		case kind == 1:
			s.proxied()
		case kind%8 == 2:
			asked(s.url+"/redirect", "")
		case kind%8 == 3:
			asked(s.url+"/reset", "upstream_error")
		case kind%8 == 4:
			asked("http://other.example/", "grant_denied")
		case kind%8 == 5:
			asked("ftp://other.example/", "validation_error")
		default:
			asked(s.url+"/ok", "")
		}
	}
	return requests
}

// proxied is a request as plain HTTP; it may be refused.
func (s *soak) proxied() {
	s.http(func(c net.Conn, in *bufio.Reader) {
		fmt.Fprintf(c, "GET %s/ok HTTP/1.1\r\nHost: %s\r\n\r\n", s.url, s.url[len("http://"):])
		if answer, err := http.ReadResponse(in, nil); err == nil {
			io.Copy(io.Discard, answer.Body)
		}
	})
}

// tunnel says hello through a tunnel, which a revoke may cut at any time.
func (s *soak) tunnel() {
	s.http(func(c net.Conn, in *bufio.Reader) {
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", s.secure, s.secure)
		if answer, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect}); err != nil || answer.StatusCode != http.StatusOK {
			return
		}
		inner := tls.Client(c, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true})
		fmt.Fprint(inner, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		io.Copy(io.Discard, inner)
	})
}

func (s *soak) http(f func(net.Conn, *bufio.Reader)) {
	c, err := net.Dial("unix", s.socket("p"))
	if err != nil {
		s.Error(err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	f(c, bufio.NewReader(c))
}

func (s *soak) compare(before, after state, requests int) {
	s.Helper()
	if after.goroutines > before.goroutines+5 || after.descriptors > before.descriptors+5 || after.heap > before.heap+4<<20 {
		s.Errorf("after %d requests %+v, before %+v", requests, after, before)
	}
}

// Whatever a pack asks for, nothing of it stays behind.
func TestNothingStaysBehind(t *testing.T) {
	s := newSoak(t)
	before := s.run(1500) // with it comes what is made once
	const requests = 6000
	s.compare(before, s.run(requests), requests)
}

// BenchmarkSoak is the same with as many requests as one likes, a million for example: -bench Soak -benchtime 1000000x.
func BenchmarkSoak(b *testing.B) {
	s := newSoak(b)
	before := s.run(20_000)
	b.ResetTimer()
	after := s.run(b.N)
	b.StopTimer()
	s.compare(before, after, b.N)
	b.ReportMetric(float64(after.heap-before.heap)/1e6, "MB-grown")
	b.ReportMetric(float64(after.goroutines-before.goroutines), "goroutines-grown")
	b.ReportMetric(float64(after.descriptors-before.descriptors), "descriptors-grown")
}
