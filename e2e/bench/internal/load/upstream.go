package load

import (
	"bufio"
	"fmt"
	"net"
	"strings"
)

// Upstream is a server on loopback that answers every request with the same short JSON. It uses as little processor time as possible, because the
// proxies before it are measured. It keeps connections open and expects no bodies.
type Upstream struct{ listener net.Listener }

// NewUpstream starts an upstream. The caller closes it.
func NewUpstream() (*Upstream, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start upstream: %w", err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answer(conn)
		}
	}()
	return &Upstream{l}, nil
}

// Address is the address that it listens at: host:port.
func (u *Upstream) Address() string { return u.listener.Addr().String() }

// Port is the port that it listens at.
func (u *Upstream) Port() int { return u.listener.Addr().(*net.TCPAddr).Port }

// Close stops listening. Open connections end when their clients close them.
func (u *Upstream) Close() error { return u.listener.Close() }

// UpstreamSays is a text in the body of every answer.
const UpstreamSays = "what an upstream has to say"

const upstreamBody = `{"success": true, "data": "` + UpstreamSays + `", "error": null}`

// answer serves one connection. Requests end with an empty line.
func answer(conn net.Conn) {
	defer conn.Close()
	whole := []byte(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n%s",
		len(upstreamBody), upstreamBody))
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		if strings.TrimRight(string(line), "\r\n") != "" {
			continue
		}
		if _, err := conn.Write(whole); err != nil {
			return
		}
	}
}
