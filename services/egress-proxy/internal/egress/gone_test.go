package egress

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/record"
)

// A client that leaves ends what its server does for it, whatever it asked for and however far that is.
func TestServerIsToldWhenTheClientLeaves(t *testing.T) {
	w := newWorld(t)
	arrived, left := make(chan string, 1), make(chan string, 1)
	serve := func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/unread" {
			io.Copy(io.Discard, r.Body)
		}
		if r.URL.Path == "/stall" {
			io.WriteString(rw, "data: begun\n\n")
			rw.(http.Flusher).Flush()
		}
		arrived <- r.URL.Path
		<-r.Context().Done()
		left <- r.URL.Path
	}
	w.site("x.example", "93.184.216.34", false, serve)
	w.site2("y.example", "93.184.216.35", serve)
	path := w.socket()
	const frame = "frame"
	for _, host := range []string{"http://x.example", "https://y.example"} {
		for _, method := range []string{"GET", "POST", "chunked", frame} {
			for _, at := range []string{"/hang", "/stall"} {
				for _, leave := range []string{"close", "half close"} {
					if leave == "half close" && method == frame {
						continue // who still reads
					}
					name := strings.Join([]string{method, host + at, leave}, " ")
					c := dialSocket(t, path)
					head := " " + host + at + " HTTP/1.1\r\nHost: " + host[strings.LastIndex(host, "/")+1:] + "\r\n"
					switch method {
					case "GET":
						io.WriteString(c, "GET"+head+"\r\n")
					case "POST":
						io.WriteString(c, "POST"+head+"Content-Length: 5\r\n\r\nhello")
					case "chunked":
						io.WriteString(c, "POST"+head+"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
					case frame:
						uds.WriteFrame(c, []byte(`{"method":"POST","body":"hello","url":"`+host+at+`","timeout_seconds":120}`))
					}
					next(t, arrived, name+" arrives")
					if leave == "close" {
						c.Close()
					} else {
						c.(*net.UnixConn).CloseWrite() // as the relay passes an end on
					}
					next(t, left, name+": the server's end of it")
					if e := w.recorded(1)[0]; e.Details["error_type"] != "client_closed" {
						t.Errorf("%s: the entry is %+v, want client_closed", name, e)
					}
					for _, kind := range []record.Kind{record.KindFrame, record.KindHTTP} {
						if n := w.streams(kind); n != 0 {
							t.Errorf("%s: %v %s under way, want none", name, n, kind)
						}
					}
				}
			}
		}
	}
}

func next[T any](t *testing.T, from <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: not within 10 s", what)
	}
	return v
}

// A client that stalls an upload, or whose server does, and leaves.
func TestStalledUploadEndsWithItsClient(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.at("x.example", "93.184.216.34", "80", l.Addr().String())
	path := w.socket()
	for name, body := range map[string]string{"client stalls": "hello", "server stalls": strings.Repeat("x", 16<<20)} {
		c := dialSocket(t, path)
		go io.WriteString(c, "POST http://x.example/ HTTP/1.1\r\nHost: x.example\r\nContent-Length: 100000000\r\n\r\n"+body)
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(server)
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if name == "server stalls" { // until no more is taken of the client
			sent := func() int64 { return w.underWay(record.KindHTTP).Sent }
			w.eventually("the stall", func() bool {
				n := sent()
				time.Sleep(50 * time.Millisecond)
				return n > 0 && n == sent()
			})
		}
		c.Close()
		if e := w.recorded(1)[0]; e.Details["error_type"] != "client_closed" {
			t.Errorf("%s: the entry is %+v, want client_closed", name, e)
		}
		server.Close()
	}
}

// underWay is the one transfer of a kind.
func (w *world) underWay(kind record.Kind) record.UnderWay {
	w.t.Helper()
	for _, t := range w.proxy.recorder.UnderWay() {
		if t.Kind == kind {
			return t
		}
	}
	w.t.Fatalf("no %s is under way", kind)
	return record.UnderWay{}
}

// When a container is gone, its tunnels are, too, though their servers say nothing.
func TestTunnelsEndWithTheirClient(t *testing.T) {
	w := newWorld(t)
	ended := w.quietSite("x.example", "93.184.216.34", "443")
	path := w.socket()
	const tunnels = 20
	var conns []net.Conn
	for range tunnels {
		c := connect(t, path, "x.example:443")
		go tls.Client(c, &tls.Config{ServerName: "x.example"}).Handshake() // which nobody answers
		conns = append(conns, c)
	}
	w.eventually("the tunnels", func() bool {
		joined := 0
		for _, t := range w.proxy.recorder.UnderWay() {
			if t.Counter {
				joined++
			}
		}
		return joined == tunnels
	})
	if n := w.streams(record.KindTunnel); n != tunnels {
		t.Errorf("%v under way, want %d", n, tunnels)
	}
	for _, c := range conns {
		c.(*net.UnixConn).CloseWrite() // which is all that a relay says at first
	}
	for _, c := range conns {
		c.Close()
	}
	for range tunnels {
		next(t, ended, "the server's connection")
	}
	for _, e := range w.recorded(tunnels) {
		if !e.Success || e.Details["bytes_sent"].(int64) == 0 {
			t.Errorf("entry of a tunnel whose client left: %+v, want success and bytes_sent over 0", e)
		}
	}
	if n := w.streams(record.KindTunnel); n != 0 {
		t.Errorf("%v under way at the end", n)
	}
	w.eventually("no place is held", func() bool { return w.proxy.packs.Get("p").Streams() == 0 })
}

// What a client sent before it left still reaches its server, through a tunnel.
func TestTunnelKeepsLastWords(t *testing.T) {
	w := newWorld(t)
	got := w.quietSite("x.example", "93.184.216.34", "443")
	c := connect(t, w.socket(), "x.example:443")
	near, far := net.Pipe()
	go tls.Client(far, &tls.Config{ServerName: "x.example"}).Handshake()
	hello := make([]byte, 16<<10)
	n, err := near.Read(hello)
	if err != nil {
		t.Fatal(err)
	}
	near.Close()
	words := strings.Repeat("last words ", 1<<17)
	if _, err := io.WriteString(c, string(hello[:n])+words); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if all := next(t, got, "the server's end"); all != string(hello[:n])+words {
		t.Errorf("the server got %d bytes, want %d", len(all), n+len(words))
	}
}
