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
	// proxyAddress is on the container's own loopback, which nobody else reaches.
	proxyAddress = "127.0.0.1:3128"
	// maxConnections connections are open at once; the next one waits. Each takes two of the 1,024 descriptors that a process
	// in a pack's container may have. egress-proxy says so when a pack has too many requests under way, and does before.
	maxConnections = 448
	relayBuffer    = 32 << 10
	// halfCloseTimeout is how long one direction may stay silent when the other has ended. Packs' clients hardly ever end one
	// direction alone: it is for those that are gone.
	halfCloseTimeout = 30 * time.Second
	// takeoverTimeout is how long a socket may be away: another replica takes a second to serve what one that died has served,
	// a proxy that is started anew a few.
	takeoverTimeout      = 5 * time.Second
	takeoverPollInterval = 20 * time.Millisecond
	drainTimeout         = time.Second // for a client to read that the proxy is away
	maxAttempts          = 3           // to find a proxy that reads what a client says
)

// unavailable is the answer of a proxy that isn't there, in the form of egress-proxy's own.
var unavailable = func() string {
	const body = `{"success":false,"error":"Egress proxy does not answer","error_type":"connection_refused"}` + "\n"
	return "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n" +
		"Content-Length: " + strconv.Itoa(len(body)) + "\r\nRetry-After: 1\r\nConnection: close\r\n\r\n" + body
}()

// withProxy makes the pack's egress socket a proxy that unmodified code finds, and gives environ with the variables that
// such code looks at. Without a socket, environ is given as it is, and so it is with an error.
func withProxy(environ []string, socket string) ([]string, error) {
	if socket == "" {
		return environ, nil
	}
	l, err := net.Listen("tcp4", proxyAddress)
	if err != nil {
		return environ, fmt.Errorf("offer a proxy on loopback: %w", err)
	}
	go relay{socket, takeoverTimeout, halfCloseTimeout}.serve(l)
	return proxyEnviron(environ), nil
}

// proxyEnviron is environ with the proxy's variables in place of any that are there.
func proxyEnviron(environ []string) []string {
	const proxy = "http://" + proxyAddress
	direct := "localhost,127.0.0.1,::1"
	if name, err := os.Hostname(); err == nil && name != "" {
		direct += "," + name // servers that a pack runs for itself
	}
	return setAll(environ,
		"HTTP_PROXY="+proxy, "HTTPS_PROXY="+proxy, "ALL_PROXY="+proxy, "NO_PROXY="+direct,
		"http_proxy="+proxy, "https_proxy="+proxy, "all_proxy="+proxy, "no_proxy="+direct, // curl knows HTTP_PROXY so only
		"WS_PROXY="+proxy, "WSS_PROXY="+proxy, "ws_proxy="+proxy, "wss_proxy="+proxy, // aiohttp's, for WebSockets
		"NODE_USE_ENV_PROXY=1", // Node looks at the others only then
	)
}

// withAuthorities gives environ with the variables by which tools find the certificate authorities in bundle. A tunnel is
// TLS between the program and its server, so that it is the program that must know them.
func withAuthorities(environ []string, bundle string) []string {
	if bundle == "" {
		return environ
	}
	return setAll(environ,
		"SSL_CERT_FILE="+bundle,       // OpenSSL and what stands on it: Python's ssl, httpx; Go
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

// setAll is environ with variables in place of those of the same names.
func setAll(environ []string, variables ...string) []string {
	kept := slices.DeleteFunc(slices.Clone(environ), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.ContainsFunc(variables, func(o string) bool { return strings.HasPrefix(o, name+"=") })
	})
	return append(kept, variables...)
}

// relay passes connections on to a socket.
type relay struct {
	socket    string
	takeover  time.Duration // with a socket that is away
	halfClose time.Duration // of one direction, once the other has ended
}

// serve passes every connection of l on, for as long as the process lives.
func (r relay) serve(l net.Listener) {
	slots := make(chan struct{}, maxConnections)
	for {
		slots <- struct{}{}
		client, err := l.Accept()
		if err != nil { // out of descriptors, which are the program's to give back
			<-slots
			fmt.Fprintln(os.Stderr, "rumi-runtime: accept for the proxy:", err)
			time.Sleep(time.Second)
			continue
		}
		go func() {
			defer func() { <-slots }()
			r.relayOne(client)
		}()
	}
}

// relayOne passes a connection on, each way until its end. Clients speak first, and the proxy is looked for when one does: what
// comes while its socket is away waits for it. A connection that was being served when the proxy died ends.
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

// join passes what client has said first, then everything each way. It says false where the proxy is gone without having
// read of that, so that another may be told: a process that is killed closes what it serves before it stops to listen, and
// those who connect in between are never served.
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
	// Linux says so of a Unix socket whose other end was closed with something unread, or was never accepted.
	if n == 0 && errors.Is(err, syscall.ECONNRESET) {
		client.SetReadDeadline(time.Unix(1, 0))
		<-done
		client.SetReadDeadline(time.Time{})
		relayBuffers.Put(buffer)
		return up.more // which it may have read the first of; the client's connection ends
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

// download is a connection to the proxy. Once the client has ended, each wait for the next bytes is bounded: a client that
// is gone looks like one that has only said all it had to say, and a server that stays silent would hold the connection, one
// of a bounded number, for ever.
type download struct {
	net.Conn
	timeout     time.Duration
	clientEnded atomic.Bool
}

// bound starts the bound, also for a wait under way.
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

// upload is a connection to the proxy that notes whether more than the first of what a client said was passed on.
type upload struct {
	net.Conn
	more bool
}

func (u *upload) Write(p []byte) (int, error) {
	u.more = true
	return u.Conn.Write(p)
}

// CloseWrite passes on that the client has ended.
func (u *upload) CloseWrite() error { return u.Conn.(*net.UnixConn).CloseWrite() }

// dial connects to the socket, which may be away for a moment: nobody listens at it, or it isn't there.
func (r relay) dial() (net.Conn, error) {
	for began := time.Now(); ; time.Sleep(takeoverPollInterval) {
		conn, err := net.Dial("unix", r.socket)
		moment := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
		if err == nil || !moment || time.Since(began) > r.takeover {
			return conn, err
		}
	}
}

// refuse tells a client that the proxy is away, and takes what it still sends: a connection that is closed before may lose
// the answer.
func refuse(client net.Conn) {
	if _, err := io.WriteString(client, unavailable); err != nil {
		return
	}
	closeWrite(client)
	client.SetReadDeadline(time.Now().Add(drainTimeout))
	_, _ = io.Copy(io.Discard, client)
}

var relayBuffers = sync.Pool{New: func() any { return new([relayBuffer]byte) }}

// copyThenCloseWrite copies until from ends, and passes the end on. It copies by itself where io.Copy would have the kernel splice: that
// takes four descriptors more for each connection.
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
