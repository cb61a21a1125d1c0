package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// proxyAddress is on the container's own loopback. No other container can reach it.
	proxyAddress = "127.0.0.1:3128"
	// spansAddress is where OpenTelemetry's libraries send spans to if nobody tells them otherwise (OTLP over HTTP).
	spansAddress = "127.0.0.1:4318"
	// maxConnections is how many connections to the proxy are open at once; the next one waits. Each takes two of the 1,024 descriptors
	// that a process in a pack's container may have. egress-proxy's own limit is lower: a pack gets its clear answer first.
	maxConnections = 448
	// maxSpanConnections is the same for spans. A process needs one, and egress-proxy reads few at once.
	maxSpanConnections = 16
	relayBuffer        = 32 << 10
	// halfCloseTimeout is how long one direction may carry nothing when the other has ended. Few clients end one direction alone; most
	// that seem to have closed the connection.
	halfCloseTimeout = 30 * time.Second
	// takeoverTimeout is how long the socket may be unserved before a client gets an error. Another replica takes over the socket of a dead
	// one within a second; a restarted proxy takes a few.
	takeoverTimeout      = 5 * time.Second
	takeoverPollInterval = 20 * time.Millisecond
	drainTimeout         = time.Second // for a client to read the answer that the proxy is unavailable
	maxAttempts          = 3           // to find a proxy that reads the request
)

// unavailable is the answer when no proxy serves the socket, in the form of egress-proxy's own refusals.
var unavailable = func() string {
	const body = `{"success":false,"error":"Egress proxy does not answer","error_type":"connection_refused"}` + "\n"
	return "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n" +
		"Content-Length: " + strconv.Itoa(len(body)) + "\r\nRetry-After: 1\r\nConnection: close\r\n\r\n" + body
}()

// withProxy starts the relay to the pack's egress socket, and returns environ with the variables by which unmodified code finds it. If
// there is no socket, or with an error, environ is returned unchanged.
func withProxy(environ []string, socket string) ([]string, error) {
	if err := relayTo(socket, proxyAddress, maxConnections); socket == "" || err != nil {
		return environ, err
	}
	return proxyEnviron(environ), nil
}

// withSpans is withProxy for the spans that the pack makes itself. They take the same relay to the same socket: egress-proxy tells their requests
// from those to servers.
func withSpans(environ []string, socket string) ([]string, error) {
	if err := relayTo(socket, spansAddress, maxSpanConnections); socket == "" || err != nil {
		return environ, err
	}
	return spansEnviron(environ), nil
}

// relayTo relays connections to an address on loopback to a socket. It does nothing if socket is "".
func relayTo(socket, address string, connections int) error {
	if socket == "" {
		return nil
	}
	l, err := net.Listen("tcp4", address)
	if err != nil {
		return fmt.Errorf("offer the egress socket on loopback: %w", err)
	}
	go relay{socket, takeoverTimeout, halfCloseTimeout}.serve(l, connections)
	return nil
}

// spansEnviron returns environ with the variables of OpenTelemetry, which replace those that are there. Metrics and logs have no way out of the
// container: without the last two, libraries that configure themselves would send them, and report each failure.
func spansEnviron(environ []string) []string {
	return setAll(environ,
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://"+spansAddress,
		"OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", // some libraries prefer gRPC, which nobody speaks here
		"OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none",
	)
}

// proxyEnviron returns environ with the variables of the proxy, which replace those that are there.
func proxyEnviron(environ []string) []string {
	const proxy = "http://" + proxyAddress
	direct := "localhost,127.0.0.1,::1"
	if name, err := os.Hostname(); err == nil && name != "" {
		direct += "," + name // for servers that a pack runs for itself
	}
	return setAll(environ,
		"HTTP_PROXY="+proxy, "HTTPS_PROXY="+proxy, "ALL_PROXY="+proxy, "NO_PROXY="+direct,
		"http_proxy="+proxy, "https_proxy="+proxy, "all_proxy="+proxy, "no_proxy="+direct, // curl reads http_proxy in small letters only
		"WS_PROXY="+proxy, "WSS_PROXY="+proxy, "ws_proxy="+proxy, "wss_proxy="+proxy, // aiohttp, for WebSockets
		"NODE_USE_ENV_PROXY=1", // Node ignores the others without it
	)
}

// withAuthorities returns environ with the variables by which tools find the certificate authorities in bundle. In a tunnel, TLS is
// between the program and its server, so the program itself must know the operator's authorities.
func withAuthorities(environ []string, bundle string) []string {
	if bundle == "" {
		return environ
	}
	return setAll(environ,
		"SSL_CERT_FILE="+bundle,       // OpenSSL and what uses it (Python's ssl, httpx); Go
		"REQUESTS_CA_BUNDLE="+bundle,  // requests, pip, botocore
		"CURL_CA_BUNDLE="+bundle,      // curl
		"GIT_SSL_CAINFO="+bundle,      // git
		"NODE_EXTRA_CA_CERTS="+bundle, // Node
		"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH="+bundle,
		"AWS_CA_BUNDLE="+bundle, // the AWS command line
		"PIP_CERT="+bundle,      // pip, where its own setting hides REQUESTS_CA_BUNDLE
		"CARGO_HTTP_CAINFO="+bundle,
		"DENO_CERT="+bundle,
	)
}

// setAll returns environ with variables, which replace those of the same names.
func setAll(environ []string, variables ...string) []string {
	kept := slices.DeleteFunc(slices.Clone(environ), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.ContainsFunc(variables, func(o string) bool { return strings.HasPrefix(o, name+"=") })
	})
	return append(kept, variables...)
}

// relay relays connections to a socket. It reads nothing of them, so there is nothing in it that a pack could confuse.
type relay struct {
	socket    string
	takeover  time.Duration // how long to wait for the socket to be served
	halfClose time.Duration // how long one direction may carry nothing once the other has ended
}

// serve relays every connection of l, until the process ends. When so many are open, the next one waits.
func (r relay) serve(l net.Listener, connections int) {
	slots := make(chan struct{}, connections)
	for {
		slots <- struct{}{}
		client, err := l.Accept()
		if err != nil { // out of descriptors: only the program can close some, so wait and try again
			<-slots
			fmt.Fprintln(os.Stderr, "rumi-runtime: accept on loopback:", err)
			time.Sleep(time.Second)
			continue
		}
		go func() {
			defer func() { <-slots }()
			r.relayOne(client)
		}()
	}
}

// relayOne relays a connection, each way until its end. HTTP clients send first, so the proxy is dialled when the first bytes are there:
// a request that comes while the socket is unserved waits, and can be sent to another replica if the first one didn't read
// it. A connection that carried more when its proxy died ends: what was sent may have had an effect.
func (r relay) relayOne(client net.Conn) {
	defer client.Close()
	buffer := relayBuffers.Get().(*[relayBuffer]byte)
	defer relayBuffers.Put(buffer)
	n, _ := client.Read(buffer[:])
	if n == 0 {
		return
	}
	for range maxAttempts {
		proxy, err := r.dial()
		if err != nil {
			break
		}
		if r.join(client, proxy, buffer[:n]) {
			return
		}
	}
	refuse(client)
}

// join sends first, then copies both ways. It returns false if the proxy closed the connection without having read any of first: the
// caller may then try another one. That happens when a proxy is killed: the kernel closes the connections that it serves
// before the one it listens on, and connections that are made in between are never accepted.
func (r relay) join(client, proxy net.Conn, first []byte) bool {
	defer proxy.Close()
	if _, err := proxy.Write(first); err != nil {
		return false
	}
	up, down := upload{Conn: proxy}, download{Conn: proxy, timeout: r.halfClose}
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyThenCloseWrite(&up, client)
		down.bound()
	}()
	buffer := relayBuffers.Get().(*[relayBuffer]byte)
	n, err := proxy.Read(buffer[:])
	// Linux reports ECONNRESET for a Unix socket whose other end was closed with unread bytes, or was never accepted.
	if n == 0 && errors.Is(err, syscall.ECONNRESET) {
		client.SetReadDeadline(time.Unix(1, 0))
		<-done
		client.SetReadDeadline(time.Time{})
		relayBuffers.Put(buffer)
		return up.more // true: more than first was sent, and the proxy may have read some; the client's connection ends
	}
	_, err = client.Write(buffer[:n])
	relayBuffers.Put(buffer)
	if err != nil {
		client.Close()
	}
	copyThenCloseWrite(client, &down)
	client.SetReadDeadline(time.Now().Add(r.halfClose))
	<-done
	return true
}

// download is the connection to the proxy as the source of bytes for the client. Once the client has ended its direction, each wait for the
// next bytes is bounded. A client that has closed its connection looks like one that has sent all it had to send; without the bound, a silent
// server would hold one of the relay's connections for ever.
type download struct {
	net.Conn
	timeout     time.Duration
	clientEnded atomic.Bool
}

// bound starts the bound, also for a read that is under way.
func (d *download) bound() {
	d.clientEnded.Store(true)
	d.SetReadDeadline(time.Now().Add(d.timeout))
}

func (d *download) Read(p []byte) (int, error) {
	if d.clientEnded.Load() {
		d.SetReadDeadline(time.Now().Add(d.timeout))
	}
	return d.Conn.Read(p)
}

// upload is the connection to the proxy as the destination of the client's bytes.
type upload struct {
	net.Conn
	more bool // whether anything was written after the first bytes
}

func (u *upload) Write(p []byte) (int, error) {
	u.more = true
	return u.Conn.Write(p)
}

// CloseWrite ends the direction to the proxy, since the client has ended it.
func (u *upload) CloseWrite() error { return u.Conn.(*net.UnixConn).CloseWrite() }

// dial connects to the socket. While no proxy listens on it, or it doesn't exist, it tries again for r.takeover.
func (r relay) dial() (net.Conn, error) {
	for began := time.Now(); ; time.Sleep(takeoverPollInterval) {
		conn, err := net.Dial("unix", r.socket)
		moment := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
		if err == nil || !moment || time.Since(began) > r.takeover {
			return conn, err
		}
	}
}

// refuse answers that the proxy is unavailable, then reads what the client still sends: closing a TCP connection with unread bytes resets
// it, and the reset may overtake the answer.
func refuse(client net.Conn) {
	if _, err := io.WriteString(client, unavailable); err != nil {
		return
	}
	closeWrite(client)
	client.SetReadDeadline(time.Now().Add(drainTimeout))
	_, _ = io.Copy(io.Discard, client)
}

var relayBuffers = sync.Pool{New: func() any { return new([relayBuffer]byte) }}

// copyThenCloseWrite copies until from ends, then ends that direction of to. The wrapped reader and writer keep io.Copy from splice(2),
// whose pipes would take four more descriptors for each connection.
func copyThenCloseWrite(to, from net.Conn) {
	buffer := relayBuffers.Get().(*[relayBuffer]byte)
	defer relayBuffers.Put(buffer)
	if _, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, buffer[:]); err != nil {
		to.Close()
		return
	}
	closeWrite(to)
}

func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}
