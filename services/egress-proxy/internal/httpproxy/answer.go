package httpproxy

import (
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/headers"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/record"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

var copyBuffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// framing is how a client knows where an answer's body ends (RFC 9112, section 6).
type framing int

const (
	noBody  framing = iota
	sized           // by Content-Length
	chunked         // by chunks
	toEnd           // by the connection's end
)

// framingOf says how an answer's body is framed for a client. length is the value of Content-Length, if any.
func framingOf(response *http.Response, in *http.Request) (how framing, length string) {
	bodiless, length := bodiless(in.Method, response)
	switch {
	case bodiless:
		return noBody, length
	case (response.ContentLength < 0 || len(response.Trailer) > 0) && in.ProtoAtLeast(1, 1):
		// An answer over HTTP/2 may have both a length and a trailer, which HTTP/1.1 has behind chunks only.
		return chunked, ""
	case response.ContentLength >= 0:
		return sized, strconv.FormatInt(response.ContentLength, 10)
	}
	return toEnd, ""
}

// answer streams a server's answer to the client. The error is errClient or the server's.
func (c *clientConn) answer(r *record.Result, response *http.Response, in *http.Request, server *upstream.Stream) error {
	how := c.answerHead(response, in)
	if how == noBody {
		return c.flush()
	}
	// A short body of known length goes out together with the head; what may take its time is announced first.
	if response.ContentLength < 0 || response.ContentLength > copyBuffer {
		if err := c.flush(); err != nil {
			return err
		}
	}
	if err := c.answerBody(r, response, how == chunked, server); err != nil {
		return err
	}
	if how == chunked {
		c.out.WriteString("0\r\n")
		headers.Strip(response.Trailer)
		response.Trailer.Write(c.out)
		c.out.WriteString("\r\n")
	}
	return c.flush()
}

// answerHead writes an answer's head, and says how the body must follow.
func (c *clientConn) answerHead(response *http.Response, in *http.Request) framing {
	how, length := framingOf(response, in)
	headers.Strip(response.Header)
	c.beginResponse()
	c.statusLine(response)
	response.Header.Write(c.out)
	switch {
	case how == chunked:
		c.out.WriteString("Transfer-Encoding: chunked\r\n")
		for name := range response.Trailer {
			c.out.WriteString("Trailer: " + name + "\r\n")
		}
	case how == toEnd:
		c.closeAfter = true
	case length != "":
		c.out.WriteString("Content-Length: " + length + "\r\n")
	}
	if c.closeAfter {
		c.out.WriteString("Connection: close\r\n")
	}
	c.out.WriteString("\r\n")
	return how
}

// answerBody passes a body on as it comes: each piece is sent before the next is waited for, as server-sent events need.
func (c *clientConn) answerBody(r *record.Result, response *http.Response, chunked bool, server *upstream.Stream) error {
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := response.Body.Read(buf[:])
		if n > 0 {
			r.Transfer.AddReceived(n)
			server.Allow(n)
			c.writePiece(buf[:n], chunked)
		}
		switch {
		case err == io.EOF: // what is left goes out with the body's end
			return nil
		case err != nil:
			c.out.Flush()
			return err
		case n > 0:
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
}

func (c *clientConn) writePiece(p []byte, chunked bool) {
	if !chunked {
		c.out.Write(p)
		return
	}
	c.out.WriteString(strconv.FormatInt(int64(len(p)), 16) + "\r\n")
	c.out.Write(p)
	c.out.WriteString("\r\n")
}

// bodiless says whether an answer has no body. length is then what the server says that another answer's would be: of 304 (Not Modified) to a
// GET, or of HEAD to the same (RFC 9110, section 8.6).
func bodiless(method string, response *http.Response) (bodiless bool, length string) {
	if response.StatusCode == http.StatusNoContent {
		return true, ""
	}
	if method != http.MethodHead && response.StatusCode != http.StatusNotModified {
		return false, ""
	}
	if given := response.Header["Content-Length"]; len(given) == 1 {
		length = given[0]
	}
	return true, length
}
