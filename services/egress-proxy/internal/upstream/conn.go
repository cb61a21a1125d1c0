package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http/httputil"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/libs/idleconn"
)

const (
	readBuffer  = 4 << 10
	maxHead     = 256 << 10 // bytes of an answer's status line and fields
	oneWrite    = 16 << 10  // a body up to this goes out together with its header
	besideReads = 64 << 10  // a longer body is written while the answer is read: some servers answer, and close, early
	firstBody   = 8 << 10   // allocated at first for a body of unknown length
)

// conn is a connection to a server.
type conn struct {
	net.Conn
	probe     *idleconn.Probe // nil if what is below has no descriptor
	in        *bufio.Reader
	out       []byte
	head      []byte
	used      int  // exchanges begun
	answered  bool // in the current exchange, something of an answer came
	idleSince time.Time

	// Of the current exchange, where its request bounds each wait for the server.
	wait        time.Duration // 0 for no bound but the deadline
	deadline    time.Time
	interrupted atomic.Bool // the session ended: no more waiting
}

func newConn(c, tcp net.Conn) *conn {
	n := &conn{Conn: c}
	n.in = bufio.NewReaderSize(timedReader{n}, readBuffer)
	n.probe, _ = idleconn.New(c, tcp)
	return n
}

// timedReader reads from a connection's server, each time within Request.Read.
type timedReader struct{ c *conn }

func (w timedReader) Read(p []byte) (int, error) {
	c := w.c
	if c.wait > 0 {
		until := time.Now().Add(c.wait)
		if c.deadline.Before(until) {
			until = c.deadline
		}
		if err := c.SetReadDeadline(until); err != nil {
			return 0, err
		}
		if c.interrupted.Load() { // before that deadline was set, or it will be set anew after it
			return 0, os.ErrDeadlineExceeded
		}
	}
	return c.Conn.Read(p)
}

// interrupt ends the exchange under way: what reads or writes returns at once.
func (c *conn) interrupt() {
	c.interrupted.Store(true)
	c.SetDeadline(time.Unix(1, 0))
}

// healthy reports whether an idle connection can be used: its server has neither closed it nor sent anything. An answer that is there before its
// request would be taken for the answer to the next request (response smuggling). The connection has no read deadline afterwards.
func (c *conn) healthy() bool {
	return c.in.Buffered() == 0 && (c.probe == nil || c.probe.Healthy())
}

// roundTrip sends r and reads the answer, under the deadline that the connection has. reusable says whether another exchange may follow.
func (c *conn) roundTrip(r *Request, close bool, buf []byte) (_ *Response, reusable bool, err error) {
	c.used++
	c.answered = false
	c.wait, c.deadline = r.Read, r.Deadline
	c.out = appendHead(c.out[:0], r, close)
	if len(r.Body) <= oneWrite {
		c.out = append(c.out, r.Body...)
		_, err = c.Write(c.out)
	} else if _, err = c.Write(c.out); err == nil && len(r.Body) <= besideReads {
		_, err = c.Write(r.Body)
	}
	if cap(c.out) > 2*oneWrite {
		c.out = nil
	}
	if err != nil {
		// A server that answers without reading all of a request closes: its answer may have arrived.
		if response, _, readErr := c.receive(r, buf); readErr == nil {
			return response, false, nil
		}
		return nil, false, err
	}
	if len(r.Body) <= besideReads {
		return c.receive(r, buf)
	}
	written := make(chan error, 1)
	go func() { _, err := c.Write(r.Body); written <- err }()
	response, reusable, err := c.receive(r, buf)
	if err != nil {
		c.interrupt()
		<-written
		return nil, false, err
	}
	select {
	case werr := <-written:
		return response, reusable && werr == nil, nil
	default: // answered before it had read everything
		c.interrupt()
		<-written
		return response, false, nil
	}
}

func appendHead(out []byte, r *Request, close bool) []byte {
	out = append(out, r.Method...)
	out = append(out, ' ')
	out = append(out, r.Path...)
	out = append(out, " HTTP/1.1\r\nHost: "...)
	out = append(out, r.Host...)
	for _, f := range r.Fields {
		out = append(out, "\r\n"...)
		out = append(out, f.Name...)
		out = append(out, ": "...)
		out = append(out, f.Value...)
	}
	if close {
		out = append(out, "\r\nConnection: close"...)
	}
	if len(r.Body) > 0 || r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH" {
		out = append(out, "\r\nContent-Length: "...)
		out = strconv.AppendInt(out, int64(len(r.Body)), 10)
	}
	return append(out, "\r\n\r\n"...)
}

// receive reads one answer, behind any number of interim ones as long as they are no longer than a head may be.
func (c *conn) receive(r *Request, buf []byte) (*Response, bool, error) {
	for interim := 0; ; {
		text, err := c.readHead()
		if err != nil {
			return nil, false, err
		}
		h, err := parseHead(text)
		if err != nil {
			return nil, false, err
		}
		if h.status == 101 {
			return nil, false, broken("Server switched to a protocol that nobody asked for")
		}
		if h.status < 200 {
			if interim += len(text); interim > maxHead {
				return nil, false, broken("Server sent too many interim answers")
			}
			continue
		}
		body, ended, err := c.readBody(r, h, buf)
		if err != nil {
			return nil, false, err
		}
		reusable := ended && h.keepAlive && !h.closes && c.in.Buffered() == 0
		return &Response{Status: h.status, Fields: h.fields, Body: body}, reusable, nil
	}
}

// readHead reads up to and with the empty line, which it leaves out.
func (c *conn) readHead() (string, error) {
	c.head = c.head[:0]
	start := 0 // of the current line
	for {
		part, err := c.in.ReadSlice('\n')
		if len(part) > 0 {
			c.answered = true
		}
		c.head = append(c.head, part...)
		if len(c.head) > maxHead {
			c.head = nil
			return "", broken("Server's header is too long")
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			if err == io.EOF && c.answered {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		line := bytes.TrimRight(c.head[start:], "\r\n")
		if len(line) == 0 && start > 0 {
			return string(c.head[:start]), nil
		}
		if len(line) == 0 {
			return "", broken("Server sent an invalid answer")
		}
		start = len(c.head)
	}
}

// readBody reads the body as RFC 9112, section 6.3, delimits it. ended says that the connection is at its end, with
// nothing left to read.
func (c *conn) readBody(r *Request, h *head, buf []byte) (_ []byte, ended bool, err error) {
	switch {
	case r.Method == "HEAD", h.status == 204, h.status == 304:
		return buf, true, nil
	case h.chunked:
		body, err := readAll(buf, httputil.NewChunkedReader(c.in), -1, r, h.fields)
		if err != nil {
			if !errors.Is(err, ErrTooLarge) && !isNetwork(err) && !errors.Is(err, errOverBudget) {
				err = broken("Server sent an invalid chunk")
			}
			return nil, false, err
		}
		return body, !h.ambiguous, c.skipTrailer()
	case h.length >= 0:
		if h.length > int64(r.MaxBody) {
			return nil, false, ErrTooLarge
		}
		body, err := readAll(buf, c.in, int(h.length), r, h.fields)
		return body, true, err
	default:
		body, err := readAll(buf, c.in, -1, r, h.fields)
		return body, false, err
	}
}

// isNetwork says whether an error is the connection's, rather than the chunked reader's about what came over it.
func isNetwork(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) || isTimeout(err)
}

// skipTrailer reads and drops trailer fields, up to their end: packs aren't given any (RFC 9110, section 6.5.1, allows that).
func (c *conn) skipTrailer() error {
	for total := 0; total <= maxHead; {
		line, err := c.in.ReadSlice('\n')
		total += len(line)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			return nil
		}
	}
	return broken("Server's trailer is too long")
}

func (r *Request) received(n int) {
	if r.Received != nil {
		r.Received.Add(int64(n))
	}
}

// readAll appends length bytes of in to buf, or all there are for -1, as r bounds them; fields are those of the answer.
func readAll(buf []byte, in io.Reader, length int, r *Request, fields []Field) ([]byte, error) {
	start, limit := len(buf), r.MaxBody
	reserved := r.Budget == nil
	if length >= 0 {
		for left := length; left > 0; {
			n := min(left, max(firstBody, len(buf)-start)) // grown as it arrives: a length is only a claim
			if !reserved && len(buf)-start+n > SmallBody {
				if reserved = true; r.Budget.Reserve(fields, length) != nil {
					return nil, errOverBudget
				}
			}
			buf = slices.Grow(buf, n)
			m, err := io.ReadFull(in, buf[len(buf):len(buf)+n])
			buf, left = buf[:len(buf)+m], left-m
			r.received(m)
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return nil, err
			}
		}
		return buf, nil
	}
	for {
		n := max(firstBody, (len(buf)-start)/4)
		if !reserved && len(buf)-start+n > SmallBody {
			if reserved = true; r.Budget.Reserve(fields, limit) != nil {
				return nil, errOverBudget
			}
		}
		buf = slices.Grow(buf, n)
		n, err := in.Read(buf[len(buf):min(cap(buf), start+limit+1)])
		buf = buf[:len(buf)+n]
		r.received(n)
		if len(buf)-start > limit {
			return nil, ErrTooLarge
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
