package tlsbatch_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"testing"

	"github.com/rumi-ai/rumi/libs/rpc/internal/rpctest"
	"github.com/rumi-ai/rumi/libs/rpc/tlsbatch"
)

// counting notes what is written at once.
type counting struct {
	net.Conn
	writes []int
}

func (c *counting) Write(p []byte) (int, error) {
	c.writes = append(c.writes, len(p))
	return c.Conn.Write(p)
}

// What is sent at once goes out at once, and records that a caller doesn't hold don't wait for others.
func TestRecordsGoTogether(t *testing.T) {
	w := rpctest.New(t)
	near, far := net.Pipe()
	below := &counting{Conn: near}
	received := make(chan []byte, 1)
	l := tls.NewListener(tlsbatch.Listener(&oneConn{far}), w.Identity("approval").Server())
	go func() {
		conn, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		got, err := io.ReadAll(conn)
		if err != nil {
			t.Error(err)
		}
		received <- got
	}()
	conn, err := tlsbatch.Client(t.Context(), below, w.Identity("gateway").Client("approval"))
	if err != nil {
		t.Fatal(err)
	}
	below.writes = nil
	data := make([]byte, 256<<10)
	rand.Read(data)
	if n, err := conn.ReadFrom(bytes.NewReader(data)); n != int64(len(data)) || err != nil {
		t.Fatal(n, err)
	}
	if len(below.writes) != 2 { // of eight records each
		t.Errorf("256 KiB were written in pieces of %v", below.writes)
	}
	below.writes = nil
	if _, err := conn.Write([]byte("x")); err != nil || len(below.writes) != 1 {
		t.Errorf("a byte was written in pieces of %v, %v", below.writes, err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if got := <-received; !bytes.Equal(got, append(data, 'x')) {
		t.Errorf("received %d bytes that differ", len(got))
	}
}

type oneConn struct{ net.Conn }

func (l *oneConn) Accept() (net.Conn, error) { return l.Conn, nil }

func (l *oneConn) Addr() net.Addr { return l.LocalAddr() }
