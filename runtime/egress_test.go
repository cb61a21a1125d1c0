package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

// proxySocket makes the folder with a socket in it, where h is served in place of egress-proxy.
func proxySocket(t *testing.T, h http.HandlerFunc) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "rumi")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "rumi.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	go server.Serve(l)
	t.Cleanup(func() {
		server.Close()
		os.RemoveAll(dir)
	})
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Join(dir, "rumi.sock"), 0o666)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// inContainer runs a program of testdata/pack in a container without a network, with or without an egress socket, and
// gives what it prints.
func inContainer(t *testing.T, egress string, argv ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	engine := testEngine(t)
	defer engine.Close()
	pack, err := filepath.Abs("testdata/pack")
	if err != nil {
		t.Fatal(err)
	}
	spec := sandbox.Spec{
		Kind: sandbox.Pack, Name: strings.ToLower(rand.Text()), Image: packImage,
		Command: append([]string{"rumi-runtime", "run"}, argv...),
		Mounts:  []sandbox.Mount{{Source: pack, Target: "/pack"}},
	}
	if egress != "" {
		spec.Mounts = append(spec.Mounts, sandbox.Mount{Source: egress, Target: "/run/rumi/egress"})
		spec.Env = map[string]string{"RUMI_EGRESS_SOCKET": "/run/rumi/egress/rumi.sock"}
	}
	c, err := engine.Create(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Remove(context.WithoutCancel(ctx), c.ID)
	if err := engine.Start(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := engine.Wait(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line, err := range engine.Logs(ctx, c.ID, sandbox.LogOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line.Text)
	}
	return lines
}

// In a container without a network, the standard library reaches the egress socket by the proxy variables.
func TestUnawareCodeReachesTheProxy(t *testing.T) {
	dir := proxySocket(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprint(w, "asked for ", r.URL)
	})
	got := inContainer(t, dir, "unaware.py", "http://api.example/x", "https://api.example/y")
	want := []string{
		"proxies ['http://127.0.0.1:3128', 'localhost,127.0.0.1,::1,pack']",
		"http://api.example/x 200 asked for http://api.example/x",
		"https://api.example/y Tunnel connection failed: 403 Forbidden",
	}
	if !slices.Equal(got, want) {
		t.Errorf("it said %q, want %q", got, want)
	}
}

// Handlers and packs without an egress socket are told of no proxy.
func TestNoProxyWithoutSocket(t *testing.T) {
	got := inContainer(t, "", "unaware.py", "http://127.0.0.1:3128/")
	if len(got) != 2 || got[0] != "proxies ['none']" || !strings.Contains(got[1], "Connection refused") {
		t.Errorf("it printed %q, want that it knows no proxy and can't connect", got)
	}
}

func TestProxyEnviron(t *testing.T) {
	got := proxyEnviron([]string{"A=1", "HTTP_PROXY=http://elsewhere", "no_proxy=*", "HTTP_PROXY_X=2", "B=3"})
	if len(got) != 16 || !slices.Equal(got[:3], []string{"A=1", "HTTP_PROXY_X=2", "B=3"}) || !slices.Contains(got, "HTTP_PROXY=http://127.0.0.1:3128") || !slices.Contains(got, "no_proxy="+direct(t)) || !slices.Contains(got, "WSS_PROXY=http://127.0.0.1:3128") || !slices.Contains(got, "ws_proxy=http://127.0.0.1:3128") || !slices.Contains(got, "all_proxy=http://127.0.0.1:3128") {
		t.Errorf("got %q, want the proxy's variables in place of those that were there", got)
	}
	if got, err := withProxy([]string{"A=1"}, ""); err != nil || !slices.Equal(got, []string{"A=1"}) {
		t.Errorf("without a socket: got %q, %v; want the variables unchanged", got, err)
	}
}

func TestSpansEnviron(t *testing.T) {
	got := spansEnviron([]string{"A=1", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_SERVICE_NAME=x", "OTEL_METRICS_EXPORTER=otlp"})
	want := []string{"A=1", "OTEL_SERVICE_NAME=x", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
		"OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, err := withSpans([]string{"A=1"}, ""); err != nil || !slices.Equal(got, []string{"A=1"}) {
		t.Errorf("without a socket: got %q, %v; want the variables unchanged", got, err)
	}
}

// In a container without a network, spans reach the egress socket past the proxy variables: as a request to the proxy itself.
func TestSpansReachTheSocket(t *testing.T) {
	dir := proxySocket(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s at %s: %s", r.Method, r.RequestURI, r.Host, body)
	})
	got := inContainer(t, dir, "spans.py")
	want := []string{"http/protobuf none none", "POST /v1/traces at 127.0.0.1:4318: spans"}
	if !slices.Equal(got, want) {
		t.Errorf("it said %q, want %q", got, want)
	}
}

// direct lists the names that no proxy is for: loopback and the machine's own.
func direct(t *testing.T) string {
	t.Helper()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return "localhost,127.0.0.1,::1," + name
}

func TestAuthorities(t *testing.T) {
	got := withAuthorities([]string{"A=1", "SSL_CERT_FILE=/image/s", "SSL_CERT_FILE_X=2"}, "/ca.pem")
	want := []string{"A=1", "SSL_CERT_FILE_X=2", "SSL_CERT_FILE=/ca.pem", "REQUESTS_CA_BUNDLE=/ca.pem", "CURL_CA_BUNDLE=/ca.pem",
		"GIT_SSL_CAINFO=/ca.pem", "NODE_EXTRA_CA_CERTS=/ca.pem", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=/ca.pem", "AWS_CA_BUNDLE=/ca.pem",
		"PIP_CERT=/ca.pem", "CARGO_HTTP_CAINFO=/ca.pem", "DENO_CERT=/ca.pem"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := withAuthorities([]string{"SSL_CERT_FILE=/image/s"}, ""); !slices.Equal(got, []string{"SSL_CERT_FILE=/image/s"}) {
		t.Errorf("without a bundle: got %q, want the variables unchanged", got)
	}
}

// relayed is the address of a relay to a socket.
func relayed(t testing.TB, r relay) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.relayOne(c)
		}
	}()
	return l.Addr().String()
}

// connect is a client's connection, which doesn't wait for ever.
func connect(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return c.(*net.TCPConn)
}

// listen serves connections at a socket, each with f.
func listen(t testing.TB, socket string, f func(*net.UnixConn)) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c.(*net.UnixConn))
			}()
		}
	}()
	return l
}

// count answers with how much came before the client's end.
func count(c *net.UnixConn) {
	all, _ := io.ReadAll(c)
	fmt.Fprintf(c, "%d bytes", len(all))
}

// A relayed connection carries both ways and passes half an end on, whose ever it is.
func TestRelay(t *testing.T) {
	t.Run("the client ends first", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "s")
		listen(t, socket, count)
		c := connect(t, relayed(t, relay{socket, takeoverTimeout, halfCloseTimeout}))
		c.Write(make([]byte, 1<<20))
		c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "1048576 bytes" {
			t.Errorf("got %q, %v, want that all 1048576 bytes arrived", got, err)
		}
	})
	t.Run("the proxy ends first", func(t *testing.T) {
		socket, said := filepath.Join(t.TempDir(), "s"), make(chan string, 1)
		listen(t, socket, func(c *net.UnixConn) {
			io.ReadFull(c, make([]byte, len("hello")))
			io.WriteString(c, "all I have")
			c.CloseWrite()
			all, _ := io.ReadAll(c)
			said <- string(all)
		})
		c := connect(t, relayed(t, relay{socket, takeoverTimeout, halfCloseTimeout}))
		io.WriteString(c, "hello")
		if got, err := io.ReadAll(c); string(got) != "all I have" {
			t.Errorf("got %q, %v, want all that the server sent", got, err)
		}
		io.WriteString(c, "and mine")
		c.CloseWrite()
		if got := <-said; got != "and mine" {
			t.Errorf("the server got %q, want what the client sent after the server's end", got)
		}
	})
	t.Run("the proxy breaks", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "s")
		asked := make(chan struct{}, 10)
		listen(t, socket, func(c *net.UnixConn) {
			asked <- struct{}{}
			c.Read(make([]byte, 10)) // all of it, so that it may have been acted upon
		})
		c := connect(t, relayed(t, relay{socket, takeoverTimeout, halfCloseTimeout}))
		io.WriteString(c, "xyz")
		if got, err := io.ReadAll(c); len(got) > 0 || len(asked) != 1 {
			t.Errorf("read %q, %v, asked %d times; want nothing, and once", got, err, len(asked))
		}
	})
	t.Run("the proxy breaks in the middle of a request", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "s")
		asked := make(chan struct{}, 10)
		listen(t, socket, func(c *net.UnixConn) {
			c.Read(make([]byte, 10))
			asked <- struct{}{}
			c.Read(make([]byte, 1)) // and more than that is unread: the socket is reset
		})
		c := connect(t, relayed(t, relay{socket, takeoverTimeout, halfCloseTimeout}))
		io.WriteString(c, "head")
		<-asked
		io.WriteString(c, "body")
		if got, err := io.ReadAll(c); len(got) > 0 || len(asked) != 0 {
			t.Errorf("read %q, %v, asked %d times more; want nothing, and none", got, err, len(asked))
		}
	})
	t.Run("the proxy is gone before it has read anything", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "s")
		var calls atomic.Int32
		listen(t, socket, func(c *net.UnixConn) {
			if calls.Add(1) == 1 { // closed unread, as what was not accepted is when a process ends
				waitReadable(c)
				return
			}
			count(c)
		})
		c := connect(t, relayed(t, relay{socket, takeoverTimeout, halfCloseTimeout}))
		io.WriteString(c, "early")
		c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "5 bytes" {
			t.Errorf("got %q, %v, want that 5 bytes arrived", got, err)
		}
	})
	t.Run("the client has ended and the proxy says nothing", func(t *testing.T) {
		socket, release := filepath.Join(t.TempDir(), "s"), make(chan struct{})
		defer close(release)
		listen(t, socket, func(c *net.UnixConn) {
			io.Copy(io.Discard, c) // to the client's end
			io.WriteString(c, "one thing")
			<-release
		})
		c := connect(t, relayed(t, relay{socket, takeoverTimeout, 50 * time.Millisecond}))
		io.WriteString(c, "hello")
		c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "one thing" || err != nil {
			t.Errorf("got %q, %v; want the one thing, then the end", got, err)
		}
	})
	t.Run("the client breaks", func(t *testing.T) {
		socket, ended := filepath.Join(t.TempDir(), "s"), make(chan error, 1)
		listen(t, socket, func(c *net.UnixConn) {
			for {
				if _, err := c.Write(make([]byte, 1<<16)); err != nil {
					ended <- err
					return
				}
			}
		})
		c := connect(t, relayed(t, relay{socket, takeoverTimeout, halfCloseTimeout}))
		io.WriteString(c, "hello")
		io.ReadFull(c, make([]byte, 1))
		c.SetLinger(0)
		c.Close()
		<-ended
	})
}

// waitReadable returns when something came, which stays unread.
func waitReadable(c *net.UnixConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Read(func(fd uintptr) bool {
		n, _, _ := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
		return n > 0
	})
}

// A connection that comes while the proxy is replaced waits for the next; one that waits too long is told.
func TestRelayToAProxyThatIsAway(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listen(t, socket, count).Close() // which takes the socket away
	address := relayed(t, relay{socket, time.Hour, halfCloseTimeout})
	c := connect(t, address)
	io.WriteString(c, "early")
	c.CloseWrite()
	time.Sleep(3 * takeoverPollInterval) // so that it has been looked for
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close() // a socket at which nobody listens, as one that was killed leaves
	time.Sleep(3 * takeoverPollInterval)
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	listen(t, socket, count)
	if got, err := io.ReadAll(c); string(got) != "5 bytes" {
		t.Errorf("got %q, %v, want that the next proxy got 5 bytes", got, err)
	}

	nobody := relay{filepath.Join(t.TempDir(), "s"), 0, halfCloseTimeout}
	response, err := (&http.Client{Transport: &http.Transport{
		Proxy:             http.ProxyURL(&url.URL{Scheme: "http", Host: relayed(t, nobody)}),
		DisableKeepAlives: true,
	}}).Post("http://api.example/", "text/plain", strings.NewReader("a body that nobody reads"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if want := `{"success":false,"error":"Egress proxy does not answer","error_type":"connection_refused"}` + "\n"; response.StatusCode != 503 || string(body) != want {
		t.Errorf("got %d %q, %v; want 503 %q", response.StatusCode, body, err, want)
	}
}

// As many connections as a program may open are served at once, within the descriptors that PID 1 may have.
func TestManyConnectionsAtOnce(t *testing.T) {
	const many = 400
	var open sync.WaitGroup
	open.Add(many)
	dir := proxySocket(t, func(w http.ResponseWriter, r *http.Request) {
		open.Done()
		open.Wait() // until all have come
		fmt.Fprint(w, "all there")
	})
	got := inContainer(t, dir, "many.py", fmt.Sprint(many))
	if want := []string{fmt.Sprintf("%d answers", many)}; !slices.Equal(got, want) {
		t.Errorf("it said %q, want %q", got, want)
	}
}

// BenchmarkRelay is what goes through a relay in one connection, each way.
func BenchmarkRelay(b *testing.B) {
	const size = 256 << 20
	chunk := make([]byte, 256<<10)
	send := func(w io.Writer) {
		for range size / len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				b.Error(err)
				return
			}
		}
	}
	for _, c := range []struct {
		name          string
		proxy, client func(io.ReadWriter)
	}{
		{"down", func(c io.ReadWriter) {
			c.Read(make([]byte, 1))
			send(c)
		}, func(c io.ReadWriter) {
			c.Write([]byte{0})
			io.Copy(io.Discard, c)
		}},
		{"up", func(c io.ReadWriter) { io.Copy(io.Discard, c) }, func(c io.ReadWriter) {
			send(c)
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c) // until the other has read it all
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			socket := filepath.Join(b.TempDir(), "s")
			listen(b, socket, func(conn *net.UnixConn) { c.proxy(conn) })
			address := relayed(b, relay{socket, takeoverTimeout, halfCloseTimeout})
			b.SetBytes(size)
			for b.Loop() {
				conn := connect(b, address)
				c.client(conn)
				conn.Close()
			}
		})
	}
}
