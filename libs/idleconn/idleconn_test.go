package idleconn_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/idleconn"
)

// joined writes what it is given at once when it is told to, as one segment.
type joined struct {
	net.Conn
	holding bool
	held    bytes.Buffer
}

func (j *joined) Write(p []byte) (int, error) {
	if j.holding {
		return j.held.Write(p)
	}
	return j.Conn.Write(p)
}

// SetWriteDeadline does nothing: crypto/tls lets no write follow its closing alert, but that is still held here.
func (j *joined) SetWriteDeadline(time.Time) error { return nil }

func (j *joined) release() error {
	j.holding = false
	_, err := j.held.WriteTo(j.Conn)
	return err
}

// pair is two ends of a connection over the loopback, with TLS or without; tcp is what ours stands on.
func pair(t *testing.T, secured bool) (ours, tcp, theirs net.Conn, below *joined) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); accepted.Close() })
	below = &joined{Conn: accepted}
	if !secured {
		return ours, ours, below, below
	}
	authority, err := identity.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name string) *identity.Identity {
		dir := t.TempDir()
		if err := authority.Issue(name, dir, time.Now()); err != nil {
			t.Fatal(err)
		}
		id, err := identity.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	server := tls.Server(below, issue("approval").Server())
	client := tls.Client(ours, issue("gateway").Client("approval"))
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return client, ours, server, below
}

// answer has theirs send a message that ours reads, and calls send, if there is one, for what goes out along with it.
func answer(t *testing.T, ours, theirs net.Conn, below *joined, send func()) {
	t.Helper()
	below.holding = true
	if _, err := theirs.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if send != nil {
		send()
	}
	if err := below.release(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("answer"))
	if _, err := io.ReadFull(ours, got); err != nil || string(got) != "answer" {
		t.Fatalf("got %q, %v; want answer", got, err)
	}
}

func TestHealthy(t *testing.T) {
	for _, secured := range []bool{false, true} {
		for name, c := range map[string]struct {
			along func(theirs net.Conn) // goes out along with the answer
			after func(theirs net.Conn) // is done after the answer was read
			want  bool
		}{
			"nothing":                    {want: true},
			"a byte with the answer":     {along: func(c net.Conn) { c.Write([]byte("x")) }},
			"a byte after the answer":    {after: func(c net.Conn) { c.Write([]byte("x")) }},
			"much with the answer":       {along: func(c net.Conn) { c.Write(make([]byte, 100<<10)) }},
			"its end":                    {after: func(c net.Conn) { c.Close() }},
			"its end, with the answer":   {along: closeWrite},
			"its end, behind the answer": {after: closeWrite},
		} {
			ours, tcp, theirs, below := pair(t, secured)
			probe, err := idleconn.New(ours, tcp)
			if err != nil {
				t.Fatal(err)
			}
			answer(t, ours, theirs, below, func() {
				if c.along != nil {
					c.along(theirs)
				}
			})
			if c.after != nil {
				c.after(theirs)
			}
			got := probe.Healthy()
			for began := time.Now(); got != c.want && time.Since(began) < 5*time.Second; got = probe.Healthy() { // it travels
				time.Sleep(time.Millisecond)
			}
			if got != c.want {
				t.Errorf("%s (TLS: %v): healthy is %v, want %v", name, secured, got, c.want)
			}
			if c.want { // and it can be used
				for range 3 {
					answer(t, ours, theirs, below, nil)
					if !probe.Healthy() {
						t.Errorf("%s (TLS: %v): not healthy after another answer", name, secured)
					}
				}
			}
		}
	}
}

// closeWrite ends what theirs sends.
func closeWrite(theirs net.Conn) {
	if secured, ok := theirs.(*tls.Conn); ok {
		secured.CloseWrite() // an alert, which is a record
		return
	}
	j := theirs.(*joined)
	j.release()
	j.Conn.(*net.TCPConn).CloseWrite()
}

func TestNewWantsADescriptor(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if probe, err := idleconn.New(a, a); err == nil {
		t.Errorf("got %v for a pipe, want an error", probe)
	}
}
