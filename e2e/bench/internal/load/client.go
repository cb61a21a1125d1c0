package load

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"time"
)

// clientTimeout bounds what a client does, from its connection's start: a server that hangs must not hang the driver.
// It is set once, since setting it for each request would be a part of what is measured.
const clientTimeout = 2 * time.Minute

func dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(clientTimeout)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// HTTP makes clients that send the very same HTTP/1.1 request again and again over a connection that is kept as long as
// the server keeps it. Each answer must have the status, and contain want. They read answers with as little work as there
// can be, so that the load doesn't take the time that it measures.
func HTTP(network, address, request string, status int, want string) func() (Client, error) {
	return func() (Client, error) {
		c := &httpClient{network: network, address: address, request: []byte(request), status: strconv.Itoa(status), want: []byte(want)}
		return c, c.dial()
	}
}

type httpClient struct {
	network, address string
	request          []byte
	status           string
	want             []byte
	conn             net.Conn
	in               *bufio.Reader
	answer           bytes.Buffer
}

func (c *httpClient) dial() error {
	conn, err := dial(c.network, c.address)
	if err != nil {
		return err
	}
	c.conn, c.in = conn, bufio.NewReaderSize(conn, 32<<10)
	return nil
}

// Close implements Client.
func (c *httpClient) Close() error { return c.conn.Close() }

// Do implements Client.
func (c *httpClient) Do() error {
	if _, err := c.conn.Write(c.request); err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	c.answer.Reset()
	status, closing, err := readAnswer(c.in, &c.answer)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if status != c.status || !bytes.Contains(c.answer.Bytes(), c.want) {
		return fmt.Errorf("read answer: %s %.300s, want %s with %q", status, c.answer.Bytes(), c.status, c.want)
	}
	if closing {
		c.conn.Close()
		return c.dial()
	}
	return nil
}

// readAnswer reads an answer to its end, and its body into body.
func readAnswer(in *bufio.Reader, body io.Writer) (status string, closing bool, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return "", false, err
	}
	if len(line) < len("HTTP/1.1 200\r\n") {
		return "", false, fmt.Errorf("%q is no status line", line)
	}
	status = string(line[9:12])
	length, chunked := int64(-1), false
	for {
		if line, err = in.ReadSlice('\n'); err != nil {
			return status, false, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		switch name, value, _ := bytes.Cut(line, []byte(":")); {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64); err != nil {
				return status, false, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		case bytes.EqualFold(name, []byte("Connection")):
			closing = bytes.EqualFold(bytes.TrimSpace(value), []byte("close"))
		}
	}
	switch {
	case chunked:
		if _, err = io.Copy(body, httputil.NewChunkedReader(in)); err == nil {
			_, err = in.ReadSlice('\n') // after the trailers, of which there are none
		}
	case length >= 0:
		_, err = io.CopyN(body, in, length)
	default:
		err = errors.New("no length")
	}
	return status, closing, err
}

// maxFrame bounds the answers of sockets (contract.md: 4 MiB).
const maxFrame = 4 << 20

// Frames makes clients that send the very same frame again and again over one connection to a socket of Rumi's. Each
// answer must contain want.
func Frames(path string, request []byte, want string) func() (Client, error) {
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...)
	return func() (Client, error) {
		conn, err := dial("unix", path)
		if err != nil {
			return nil, err
		}
		return &frameClient{conn: conn, in: bufio.NewReaderSize(conn, 32<<10), frame: frame, want: []byte(want)}, nil
	}
}

type frameClient struct {
	conn        net.Conn
	in          *bufio.Reader
	frame, want []byte
	answer      []byte
}

// Close implements Client.
func (c *frameClient) Close() error { return c.conn.Close() }

// Do implements Client.
func (c *frameClient) Do() error {
	if _, err := c.conn.Write(c.frame); err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	var head [4]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	length := int(binary.BigEndian.Uint32(head[:]))
	if length > maxFrame {
		return fmt.Errorf("read frame: %d bytes", length)
	}
	if cap(c.answer) < length {
		c.answer = make([]byte, length)
	}
	c.answer = c.answer[:length]
	if _, err := io.ReadFull(c.in, c.answer); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	if !bytes.Contains(c.answer, c.want) {
		return fmt.Errorf("read frame: %.300s without %s", c.answer, c.want)
	}
	return nil
}
