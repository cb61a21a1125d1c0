package egress

import (
	"bufio"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"sync"
	"testing"
)

// script is a server that answers each request with exactly the bytes that answer gives for its path. What ends in
// "<close>" is followed by the end of the connection, what ends in "<reset>" by a reset, "<hang>" by silence.
func script(t testing.TB, answer func(path string) string) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, answer)
	return l.Addr().String()
}

func serve(t testing.TB, l net.Listener, answer func(path string) string) {
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { converse(c, answer, over) })
		}
	})
	t.Cleanup(func() { close(over); l.Close(); wg.Wait() })
}

func converse(c net.Conn, answer func(string) string, over chan struct{}) {
	defer c.Close()
	go func() { <-over; c.Close() }()
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
				<-over
			}
			return
		}
		c.Write([]byte(text))
	}
}

// scriptLine is a server that answers each request with what answer gives for its first line, whatever that is.
func scriptLine(t testing.TB, answer func(line string) string) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
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
			}()
		}
	}()
	return l.Addr().String()
}
