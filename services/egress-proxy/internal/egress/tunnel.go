package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/clienthello"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
)

const (
	helloTimeout = 10 * time.Second // from the tunnel's announcement to a whole ClientHello
	afterEnd     = 30 * time.Second // how long a client may go on sending to a server that has ended
)

// Alerts that a tunnel ends with before it begins (RFC 8446, section 6), so that the client's error says something.
var (
	alertUnrecognizedName = []byte{21, 3, 1, 0, 2, 2, 112}
	alertInternalError    = []byte{21, 3, 1, 0, 2, 2, 80}
)

// tunnel serves a CONNECT request: it announces the tunnel once its place is judged, reads what TLS begins with, and dials
// only when that is for the same name.
func (c *client) tunnel(r *result, began time.Time) {
	k := c.pack
	a := k.access.Load() // before anything is judged, as in run
	target, f := k.judge(a, r.call.method, r.place, began.Add(defaultTimeout))
	if f != nil {
		r.failure, c.closes = f, true
		c.refuse(r, began)
		c.linger()
		return
	}
	r.endless = true
	stop := context.AfterFunc(a.ctx, func() { c.stream.Close() })
	defer stop()
	c.out.WriteString("HTTP/1.1 200 Connection established\r\n\r\n")
	if c.flush() != nil {
		r.failure = errClientGone
		c.finish(r, began)
		return
	}
	hello, f := c.hello(r.place)
	if f != nil {
		c.end(a, r, f, began)
		return
	}
	server, _, err := k.proxy.pools.Reach(a.ctx, target, time.Now().Add(defaultConnect)) // the pack speaks TLS itself
	if err != nil {
		c.end(a, r, k.upstreamFailure(err), began)
		return
	}
	defer server.Close()
	undo := context.AfterFunc(a.ctx, func() { server.Close() })
	defer undo()
	pending, _ := c.in.Peek(c.in.Buffered())
	conn, rest := c.stream.Detach()
	early := append(append(hello, pending...), rest...)
	bound := &metered{Conn: server, pack: k}
	if k.proxy.cfg.Ledger.Bounded() {
		server = bound // otherwise bytes need not pass through this process
	}
	if _, err := server.Write(early); err != nil {
		f := k.upstreamFailure(err)
		if bound.spent.Load() {
			f = errBudget
		}
		c.end(a, r, f, began)
		return
	}
	sent, received := join(conn, server)
	r.sent, r.received = sent+int64(len(early)), received
	switch {
	case a.ctx.Err() != nil:
		r.failure = k.ended()
	case bound.spent.Load():
		r.failure = errBudget
	}
	c.finish(r, began)
}

// hello reads the ClientHello and judges it.
func (c *client) hello(to place) ([]byte, *failure) {
	c.stream.SetReadDeadline(time.Now().Add(helloTimeout))
	records, name, err := clienthello.Read(c.in)
	c.stream.SetReadDeadline(time.Time{})
	switch {
	case err == io.EOF:
		return nil, errClientGone
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, blocked("tls_required", "no ClientHello in time")
	case err != nil:
		return nil, blocked("tls_required", err.Error())
	case name == "":
		return nil, blocked("sni_mismatch", "no server name for "+to.host.Name)
	}
	if host, err := hostname.Parse(name); err != nil || host.Addr.IsValid() || host.Name != to.host.Name {
		return nil, blocked("sni_mismatch", "server name "+shorten(name)+" for "+to.host.Name)
	}
	return records, nil
}

// end ends a tunnel that nothing was joined by.
func (c *client) end(a *access, r *result, f *failure, began time.Time) {
	if a.ctx.Err() != nil {
		f = c.pack.ended()
	}
	r.failure = f
	if c.finish(r, began) != nil || f == errClientGone {
		return
	}
	switch f.reason {
	case "tls_required":
	case "sni_mismatch":
		c.stream.Write(alertUnrecognizedName)
	default:
		c.stream.Write(alertInternalError)
	}
	c.linger()
}

// upgrade joins a client to a server that agreed to WebSocket.
func (c *client) upgrade(r *result, out *http.Request, response *http.Response, body *upload, began time.Time) {
	c.closes = true
	server, ok := response.Body.(io.ReadWriteCloser)
	if !ok || !isWebSocket(out.Header) || !isWebSocket(response.Header) || !body.stop() {
		r.status = 0
		r.failure = &failure{kind: "upstream_error", text: "Server switched to a protocol that nobody asked for"}
		c.refuse(r, began)
		return
	}
	r.endless = true
	strip(response.Header)
	c.begin()
	c.statusLine(response.StatusCode)
	c.out.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\n")
	response.Header.Write(c.out)
	c.out.WriteString("\r\n")
	if c.flush() == nil {
		sent := make(chan int64, 1)
		go func() {
			n, err := io.Copy(spender{server, c.pack}, c.in)
			if errors.Is(err, errSpent) {
				r.failure = errBudget
			}
			server.Close()
			sent <- n
		}()
		r.received, _ = io.Copy(c.stream.UnixConn, server)
		c.stream.Close()
		r.sent = <-sent
	}
	if out.Context().Err() != nil {
		r.failure = c.pack.ended()
	}
	c.finish(r, began)
}

// errSpent ends a stream to a server when the day's bytes are used up.
var errSpent = errors.New("write to server: the pack's daily bytes are used up")

// metered is what a pack sends to a server in a tunnel, taken from what it may send today.
type metered struct {
	net.Conn
	pack  *pack
	spent atomic.Bool // nothing was left for what came next
}

func (m *metered) Write(p []byte) (int, error) {
	n, err := spender{m.Conn, m.pack}.Write(p)
	if errors.Is(err, errSpent) {
		m.spent.Store(true)
	}
	return n, err
}

// CloseWrite passes on the end of what the pack sends.
func (m *metered) CloseWrite() error {
	if half, ok := m.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return m.Conn.Close()
}

// spender writes what a pack sends, taken from what it may send today.
type spender struct {
	to   io.Writer
	pack *pack
}

func (s spender) Write(p []byte) (int, error) {
	if s.pack.spend(len(p)) != nil {
		return 0, errSpent
	}
	return s.to.Write(p)
}

// join copies both ways until both have ended, and gives the bytes of each. On Linux they don't pass through the process.
func join(client, server net.Conn) (sent, received int64) {
	done := make(chan int64, 1)
	go func() {
		n, err := io.Copy(server, client)
		closeWrite(server, err)
		done <- n
	}()
	received, err := io.Copy(client, server)
	closeWrite(client, err)
	client.SetReadDeadline(time.Now().Add(afterEnd))
	return <-done, received
}

// closeWrite passes the end of one side on to the other. A connection that broke is closed altogether.
func closeWrite(c net.Conn, err error) {
	if half, ok := c.(interface{ CloseWrite() error }); ok && err == nil {
		half.CloseWrite()
		return
	}
	c.Close()
}
