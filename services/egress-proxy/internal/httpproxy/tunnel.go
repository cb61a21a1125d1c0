package httpproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/clienthello"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/headers"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/record"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/session"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

const helloTimeout = 10 * time.Second // from the tunnel's announcement to a whole ClientHello

// alertUnrecognizedName is the TLS alert that a client gets whose ClientHello is for another name (RFC 8446, section 6.2), so that its error says
// what is wrong.
var alertUnrecognizedName = []byte{21, 3, 1, 0, 2, 2, 112}

// tunnel serves a CONNECT request. The tunnel is announced once its destination was decided on and its server reached, so that a client gets
// the reason if either fails (RFC 9110, section 9.3.6).
//
// Nothing goes to the server before the client's first bytes were checked, too: they must be TLS for the same name, or HTTP/1.1, of which each
// request is then decided on. Otherwise a tunnel to an allowed name could ask a shared server for another one (domain fronting). again says that
// the connection goes on, with such requests.
func (c *clientConn) tunnel(r *record.Result, began time.Time) (again bool) {
	s := c.pack.Session() // before anything is decided on; see package session
	ctx, release := s.With(c.stream.Sends())
	ctx = c.recorder.Open(ctx, c.pack.ID, r, began)
	target, f := c.authorize(ctx, s, r, false, began)
	var server net.Conn
	if f == nil {
		c.recorder.Start(new(record.Transfer), record.KindTunnel, c.pack.ID, r, began)
		server, f = c.connect(ctx, s, r, target)
	}
	release()
	if f != nil {
		r.Failure = f
		return c.refuseAndClose(r, began)
	}
	defer server.Close()
	r.Unbounded = true
	stop := s.AfterEnd(func() { c.stream.Close(); server.Close() }) // from here on a client may half close
	defer stop()
	c.out.WriteString("HTTP/1.1 200 Connection established\r\n\r\n")
	if c.flush() != nil {
		r.Failure = decision.ClientClosed
		c.finish(r, began)
		return false
	}
	hello, plain, f := c.checkHello(r.Destination)
	switch {
	case f != nil:
		server.Close()
		c.refuseHello(s, r, f, began)
		return false
	case plain:
		inside := r.Destination
		inside.TLS = false
		c.tunnelTo = &inside
		return c.finish(r, began) == nil
	}
	c.relay(s, r, server, hello)
	c.finish(r, began)
	return false
}

// connect connects a tunnel to its server, once the tunnel has its audit entry: a crash must not lose a connection that was made.
func (c *clientConn) connect(ctx context.Context, s *session.Session, r *record.Result, target *upstream.Target) (net.Conn, *decision.Failure) {
	if c.recorder.Begin(r.Transfer) != nil {
		return nil, decision.Internal
	}
	server, err := s.Pool.DialTunnel(ctx, target) // the pack speaks TLS itself
	switch {
	case err == nil:
		return server, nil
	case ctx.Err() != nil:
		return nil, c.pack.Interrupted(s)
	default:
		return nil, c.pack.UpstreamFailure(s, err)
	}
}

// relay joins the client to its server, until one of them ends, and says in r what came of it. hello is what was read of the client before.
func (c *clientConn) relay(s *session.Session, r *record.Result, server net.Conn, hello []byte) {
	pending, _ := c.in.Peek(c.in.Buffered())
	conn, rest := c.stream.Detach()
	early := append(append(hello, pending...), rest...)
	limited := &quotaConn{Conn: server, pack: c.pack}
	if c.pack.QuotaLimited() {
		server = limited // otherwise bytes need not pass through this process
	}
	server, bytes := countBytes(server)
	c.recorder.SetCounter(r.Transfer, bytes)
	_, err := server.Write(early)
	if err == nil {
		sent, received := join(c.ctx, conn, server, bytes)
		r.Sent, r.Received = sent+int64(len(early)), received
	}
	switch {
	case s.Ended():
		r.Failure = c.pack.EndedFailure()
	case limited.exceeded.Load():
		r.Failure = decision.DailyQuota
	case err != nil:
		r.Failure = c.pack.UpstreamFailure(s, err)
	}
}

// checkHello reads and checks what a tunnel begins with. plain says that it is the head of an HTTP/1.1 request, which stays unread; otherwise it
// is a ClientHello, and records are the TLS records that it came in.
func (c *clientConn) checkHello(to decision.Destination) (records []byte, plain bool, f *decision.Failure) {
	c.stream.SetReadDeadline(time.Now().Add(helloTimeout))
	defer c.stream.SetReadDeadline(time.Time{})
	first, err := c.in.Peek(1)
	if err == nil && isLetter(first[0]) {
		return nil, true, c.checkPlain()
	}
	var name string
	if err == nil {
		records, name, err = clienthello.Read(c.in)
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return nil, false, decision.ClientClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, false, notTLS("no ClientHello in time")
	case err != nil:
		return nil, false, notTLS(err.Error())
	case name == "":
		return nil, false, decision.Blocked("sni_mismatch", "no server name for "+to.Host.Name)
	case strings.HasSuffix(name, "."): // RFC 6066, section 3: servers may take it for another one
		return nil, false, decision.Blocked("sni_mismatch", "server name "+decision.Clip(name)+" ends with a dot")
	}
	if host, err := hostname.Parse(name); err != nil || host.Addr.IsValid() || host.Name != to.Host.Name {
		return nil, false, decision.Blocked("sni_mismatch", "server name "+decision.Clip(name)+" for "+to.Host.Name)
	}
	return records, false, nil
}

// checkPlain checks that the first line of what begins with a letter is one of an HTTP/1.1 request. What is wrong with the request itself is
// answered later, as for any other.
func (c *clientConn) checkPlain() *decision.Failure {
	for seen := 0; seen < c.in.Size(); {
		_, err := c.in.Peek(seen + 1)
		have, _ := c.in.Peek(c.in.Buffered())
		line, _, whole := strings.Cut(string(have), "\r\n")
		switch {
		case whole && (strings.HasSuffix(line, " HTTP/1.1") || strings.HasSuffix(line, " HTTP/1.0")):
			return nil
		case whole || strings.Contains(line, "\n"):
			return notTLS("neither TLS nor HTTP/1.1")
		case errors.Is(err, os.ErrDeadlineExceeded):
			return notTLS("no whole line in time")
		case err != nil:
			return decision.ClientClosed
		}
		seen = len(have)
	}
	return notTLS("neither TLS nor HTTP/1.1")
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// notTLS is a tunnel that begins with neither TLS nor HTTP/1.1. The client may read this: it is only about the bytes that it has sent itself.
func notTLS(detail string) *decision.Failure {
	f := decision.Blocked("tls_required", detail)
	f.Text += ": a tunnel must carry TLS or HTTP/1.1"
	return f
}

// refuseHello ends a tunnel whose client began with something else than it may, and records it. Nothing of it went to the server.
func (c *clientConn) refuseHello(s *session.Session, r *record.Result, f *decision.Failure, began time.Time) {
	if s.Ended() {
		f = c.pack.EndedFailure()
	}
	r.Failure = f
	switch f.Reason {
	case "sni_mismatch":
		if c.finish(r, began) == nil {
			c.stream.Write(alertUnrecognizedName)
		}
	case "tls_required":
		c.closeAfter = true
		c.refuse(r, began)
	default:
		c.finish(r, began)
		return
	}
	c.linger()
}

// upgrade joins a client to a server that agreed to WebSocket. Any other protocol is refused: behind an upgrade that we don't know could come
// requests that nobody decides on.
func (c *clientConn) upgrade(s *session.Session, r *record.Result, out *http.Request, response *http.Response, body *upload, began time.Time) {
	c.closeAfter = true
	server, ok := response.Body.(io.ReadWriteCloser)
	if !ok || !headers.IsWebSocket(out.Header) || !headers.IsWebSocket(response.Header) || !body.stop() {
		r.Status = 0
		r.Failure = &decision.Failure{Kind: decision.KindUpstream, Text: "Server switched to a protocol that nobody asked for"}
		c.refuse(r, began)
		return
	}
	r.Unbounded = true
	c.recorder.SetKind(r.Transfer, record.KindWebSocket)
	headers.Strip(response.Header)
	c.beginResponse()
	c.statusLine(response)
	c.out.WriteString("Connection: Upgrade\r\nUpgrade: websocket\r\n")
	response.Header.Write(c.out)
	c.out.WriteString("\r\n")
	upgraded := &upgradedServer{ReadWriteCloser: server, pack: c.pack, transfer: r.Transfer}
	if c.flush() == nil {
		r.Sent, r.Received = join(c.ctx, upgradedClient{c.in, c.stream.UnixConn}, upgraded, r.Transfer.Bytes)
	}
	switch {
	case s.Ended():
		r.Failure = c.pack.EndedFailure()
	case upgraded.exceeded:
		r.Failure = decision.DailyQuota
	}
	c.finish(r, began)
}

// upgradedClient is a client's connection of which some bytes were read already, which come first.
type upgradedClient struct {
	io.Reader
	*net.UnixConn
}

func (u upgradedClient) Read(p []byte) (int, error) { return u.Reader.Read(p) }

// upgradedServer counts what goes to a server and comes from it, and takes what goes there from the pack's daily quota.
type upgradedServer struct {
	io.ReadWriteCloser
	pack     *session.Pack
	transfer *record.Transfer
	exceeded bool // the daily quota was; belongs to the writer until join returns
}

func (u *upgradedServer) Read(p []byte) (int, error) {
	n, err := u.ReadWriteCloser.Read(p)
	u.transfer.AddReceived(n)
	return n, err
}

func (u *upgradedServer) Write(p []byte) (int, error) {
	if u.pack.Spend(len(p)) != nil {
		u.exceeded = true
		return 0, errQuotaExceeded
	}
	n, err := u.ReadWriteCloser.Write(p)
	u.transfer.AddSent(n)
	return n, err
}
