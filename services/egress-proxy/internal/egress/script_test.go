package egress

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"sync"
	"testing"
)

// accept has every connection to l served, each by a goroutine of its own, until the test ends. The connection is closed when serve returns, and
// at the end of the test, which waits for all.
func accept(t testing.TB, l net.Listener, serve func(c net.Conn)) {
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				go func() { <-over; c.Close() }()
				serve(c)
			})
		}
	})
	t.Cleanup(func() { close(over); l.Close(); wg.Wait() })
}

// listen is accept for a new listener on loopback.
func listen(t testing.TB, serve func(c net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accept(t, l, serve)
	return l.Addr().String()
}

// script is a server that answers each request with exactly the bytes that answer gives for its path. What ends in
// "<close>" is followed by the end of the connection, what ends in "<reset>" by a reset, "<hang>" by silence.
func script(t testing.TB, answer func(path string) string) (address string) {
	return listen(t, func(c net.Conn) { converse(c, answer) })
}

func converse(c net.Conn, answer func(string) string) {
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		r.Body.Close()
		text := answer(r.URL.Path)
		for _, end := range []string{"<close>", "<reset>", "<hang>"} {
			rest, found := strings.CutSuffix(text, end)
			if !found {
				continue
			}
			c.Write([]byte(rest))
			switch end {
			case "<reset>":
				if tcp, ok := c.(*net.TCPConn); ok {
					tcp.SetLinger(0)
				}
			case "<hang>":
				io.Copy(io.Discard, in)
			}
			return
		}
		c.Write([]byte(text))
	}
}

// scriptLine is a server that answers each request with what answer gives for its first line, whatever that is.
func scriptLine(t testing.TB, answer func(line string) string) (address string) {
	return listen(t, func(c net.Conn) {
		in := textproto.NewReader(bufio.NewReader(c))
		for {
			line, err := in.ReadLine()
			if err != nil {
				return
			}
			if _, err := in.ReadMIMEHeader(); err != nil {
				return
			}
			c.Write([]byte(answer(line)))
		}
	})
}
