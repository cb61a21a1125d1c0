package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// askTimeout bounds an exchange: a server that hangs must not hang the driver.
const askTimeout = 30 * time.Second

// Client sends the same request again and again over one connection. It checks only that each answer is complete and the expected one, because
// its own processor time is a part of the measurement: client and server share the machine's processors. A Client is for one
// goroutine.
type Client struct {
	network, address string
	request          []byte
	protocol         protocol

	fd         int // non-blocking
	connection int // the number of connections so far
	answer     []byte
}

// protocol finds the end of an answer.
type protocol interface {
	// end returns the length of the answer at the beginning of raw, or 0 if its end has not arrived. closing means that the server closes the
	// connection after it. An answer other than the expected one is an error.
	end(raw []byte) (n int, closing bool, err error)
}

func dial(network, address string, request []byte, p protocol) (*Client, error) {
	c := &Client{network: network, address: address, request: request, protocol: p, fd: -1}
	return c, c.connect()
}

func (c *Client) connect() error {
	var to unix.Sockaddr = &unix.SockaddrUnix{Name: c.address}
	family := unix.AF_UNIX
	if c.network == "tcp" {
		at, err := netip.ParseAddrPort(c.address)
		if err != nil || !at.Addr().Is4() {
			return fmt.Errorf("connect to %s: no IPv4 address and port", c.address)
		}
		to, family = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}, unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", c.address, err)
	}
	err = unix.Connect(fd, to)
	for errors.Is(err, unix.EINTR) { // the connect continues in spite of the signal
		if err = unix.Connect(fd, to); errors.Is(err, unix.EISCONN) {
			err = nil
		}
	}
	if err == nil && c.network == "tcp" {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("connect to %s: %w", c.address, err)
	}
	c.fd = fd
	c.connection++
	return nil
}

// Close closes the connection.
func (c *Client) Close() error {
	fd := c.fd
	if c.fd = -1; fd < 0 {
		return nil
	}
	return unix.Close(fd)
}

// Do sends a request and waits for its answer.
func (c *Client) Do() error {
	if err := c.begin(); err != nil {
		return err
	}
	for end := time.Now().Add(askTimeout); ; {
		wait := time.Until(end).Milliseconds()
		if wait <= 0 {
			return fmt.Errorf("read answer: none within %v", askTimeout)
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, int(wait)); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("read answer: %w", err)
		}
		if done, err := c.advance(); done || err != nil {
			return err
		}
	}
}

// begin sends a request. A request is far smaller than a socket's buffer, so the write never blocks.
func (c *Client) begin() error {
	c.answer = c.answer[:0]
	n, err := unix.Write(c.fd, c.request)
	if err == nil && n < len(c.request) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	return nil
}

// advance reads the arrived part of the answer and returns whether the answer is complete. Afterwards the client may have a new connection.
func (c *Client) advance() (done bool, err error) {
	if cap(c.answer)-len(c.answer) < 4<<10 {
		c.answer = append(make([]byte, 0, 2*cap(c.answer)+32<<10), c.answer...)
	}
	n, err := unix.Read(c.fd, c.answer[len(c.answer):cap(c.answer)])
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return false, nil
	case err == nil && n == 0:
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return false, fmt.Errorf("read answer: %w", err)
	}
	c.answer = c.answer[:len(c.answer)+n]
	end, closing, err := c.protocol.end(c.answer)
	if err == nil && end > 0 && end < len(c.answer) {
		err = fmt.Errorf("%d bytes follow it", len(c.answer)-end)
	}
	if err != nil {
		return false, fmt.Errorf("read answer: %w", err)
	}
	if closing && end > 0 {
		if err := errors.Join(c.Close(), c.connect()); err != nil {
			return false, err
		}
	}
	return end > 0, nil
}

// HTTP returns a function that opens clients for an HTTP/1.1 request. They keep their connection as long as the server does. Each answer must
// have the status, and contain want in its body.
func HTTP(network, address, request string, status int, want string) func() (*Client, error) {
	return func() (*Client, error) {
		return dial(network, address, []byte(request), httpAnswers{strconv.Itoa(status), []byte(want)})
	}
}

type httpAnswers struct {
	status string
	want   []byte
}

func (h httpAnswers) end(raw []byte) (n int, closing bool, err error) {
	status, head, length, chunked, closing, err := readHead(raw)
	if err != nil || head == 0 {
		return 0, false, err
	}
	n = head + length
	if chunked {
		size, err := chunks(raw[head:])
		if err != nil || size == 0 {
			return 0, false, err
		}
		n = head + size
	}
	if len(raw) < n {
		return 0, false, nil
	}
	if status != h.status || !bytes.Contains(raw[head:n], h.want) {
		return 0, false, fmt.Errorf("%s %.300s, want %s with %q", status, raw[head:n], h.status, h.want)
	}
	return n, closing, nil
}

// readHead parses the head of an answer. head is its size, or 0 if its end has not arrived.
func readHead(raw []byte) (status string, head, length int, chunked, closing bool, err error) {
	if prefix := raw[:min(len(raw), len("HTTP/1.1 "))]; !bytes.Equal(prefix, []byte("HTTP/1.1 ")[:len(prefix)]) {
		return "", 0, 0, false, false, fmt.Errorf("%.20q is no status line", raw)
	}
	end := bytes.Index(raw, []byte("\r\n\r\n"))
	if end < 0 {
		return "", 0, 0, false, false, nil
	}
	line, rest, _ := bytes.Cut(raw[:end], []byte("\r\n"))
	if len(line) < len("HTTP/1.1 200") {
		return "", 0, 0, false, false, fmt.Errorf("%q is no status line", line)
	}
	length = -1
	for len(rest) > 0 {
		var field []byte
		field, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(field, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 {
				return "", 0, 0, false, false, fmt.Errorf("%q is no length", value)
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		case bytes.EqualFold(name, []byte("Connection")):
			closing = bytes.EqualFold(value, []byte("close"))
		}
	}
	if length < 0 && !chunked {
		return "", 0, 0, false, false, errors.New("no length")
	}
	return string(line[9:12]), end + 4, max(length, 0), chunked, closing, nil
}

// chunks is the size of a chunked body, or 0 if its end has not arrived. It doesn't know trailers: no measured server sends them.
func chunks(raw []byte) (size int, err error) {
	for {
		line := bytes.Index(raw[size:], []byte("\r\n"))
		if line < 0 {
			return 0, nil
		}
		n, err := strconv.ParseUint(string(raw[size:size+line]), 16, 31)
		if err != nil {
			return 0, fmt.Errorf("%.20q is no size of a chunk", raw[size:size+line])
		}
		if size += line + 2 + int(n) + 2; len(raw) < size {
			return 0, nil
		}
		if n == 0 {
			return size, nil
		}
	}
}

// maxFrame bounds the answers of sockets (contract.md: 4 MiB).
const maxFrame = 4 << 20

// Frames returns a function that opens clients which send a frame to a pack's socket. Each answer must contain want.
func Frames(path string, request []byte, want string) func() (*Client, error) {
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...)
	return func() (*Client, error) { return dial("unix", path, frame, frames(want)) }
}

type frames []byte

func (want frames) end(raw []byte) (n int, closing bool, err error) {
	if len(raw) < 4 {
		return 0, false, nil
	}
	n = 4 + int(binary.BigEndian.Uint32(raw))
	switch {
	case n > maxFrame:
		return 0, false, fmt.Errorf("a frame of %d bytes", n)
	case len(raw) < n:
		return 0, false, nil
	case !bytes.Contains(raw[4:n], want):
		return 0, false, fmt.Errorf("%.300s without %s", raw[4:n], want)
	}
	return n, false, nil
}
