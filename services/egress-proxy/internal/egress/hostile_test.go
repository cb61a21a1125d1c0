package egress

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// hostile is one connection of a server that does to it what a test says.
type hostile struct {
	conn net.Conn
	*http2.Framer
	head bytes.Buffer
	hpack.Encoder
}

// fields encodes name, value, …
func (h *hostile) fields(pairs ...string) []byte {
	h.head.Reset()
	e := hpack.NewEncoder(&h.head)
	for i := 0; i < len(pairs); i += 2 {
		e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return h.head.Bytes()
}

func (h *hostile) answer(stream uint32, end bool, pairs ...string) error {
	return h.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: h.fields(pairs...), EndHeaders: true, EndStream: end})
}

// served counts bytes written to the proxy.
type served struct {
	net.Conn
	total *atomic.Int64
}

func (s served) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	s.total.Add(int64(n))
	return n, err
}

// hostileSite serves HTTP/2 by hand. react gets the stream of each request that has come whole in its head; its error ends
// the connection.
func (w *world) hostileSite(name, addr string, settings []http2.Setting, react func(h *hostile, stream uint32, path string) error) (sent *atomic.Int64, conns *atomic.Int64) {
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate(w.t, w.roots, name)}, NextProtos: []string{"h2"}})
	if err != nil {
		w.t.Fatal(err)
	}
	sent, conns = new(atomic.Int64), new(atomic.Int64)
	var serving sync.WaitGroup
	open := map[net.Conn]bool{}
	var mu sync.Mutex
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			mu.Lock()
			open[c] = true
			mu.Unlock()
			serving.Go(func() {
				defer c.Close()
				preface := make([]byte, len(http2.ClientPreface))
				if _, err := io.ReadFull(c, preface); err != nil {
					return
				}
				h := &hostile{conn: c, Framer: http2.NewFramer(served{c, sent}, c)}
				h.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
				h.WriteSettings(settings...)
				for {
					f, err := h.ReadFrame()
					if err != nil {
						return
					}
					switch f := f.(type) {
					case *http2.SettingsFrame:
						if !f.IsAck() {
							h.WriteSettingsAck()
						}
					case *http2.MetaHeadersFrame:
						if react(h, f.StreamID, f.PseudoValue("path")) != nil {
							return
						}
					}
				}
			})
		}
	})
	w.t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	w.at(name, addr, "443", l.Addr().String())
	return sent, conns
}

// forever repeats until the proxy has had enough.
func forever(f func() error) error {
	for {
		if err := f(); err != nil {
			return err
		}
	}
}

const mostSent = 32 << 20 // of whatever a server sends without end, sockets' buffers included

var hostileAnswers = map[string]struct {
	react func(h *hostile, stream uint32) error
	kinds string // of framed requests; plain ones get 502 or 504, or a connection that ends
	slow  bool   // nothing but time ends it
}{
	"resets each stream":  {func(h *hostile, s uint32) error { return h.WriteRSTStream(s, http2.ErrCodeInternal) }, "upstream_error", false},
	"cancels each stream": {func(h *hostile, s uint32) error { return h.WriteRSTStream(s, http2.ErrCodeCancel) }, "upstream_error", false},
	"resets after the head": {func(h *hostile, s uint32) error {
		h.answer(s, false, ":status", "200")
		return h.WriteRSTStream(s, http2.ErrCodeInternal)
	}, "upstream_error", false},
	"continues its head for ever": {func(h *hostile, s uint32) error {
		h.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h.fields(":status", "200")})
		block := bytes.Clone(h.fields("x-y", strings.Repeat("z", 1000)))
		return forever(func() error { return h.WriteContinuation(s, false, block) })
	}, "upstream_error", false},
	"continues its head for ever with nothing": {func(h *hostile, s uint32) error {
		h.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h.fields(":status", "200")})
		return forever(func() error { return h.WriteContinuation(s, false, nil) })
	}, "upstream_error", false},
	"a huge head": {func(h *hostile, s uint32) error {
		pairs := []string{":status", "200"}
		for i := range 40 {
			pairs = append(pairs, fmt.Sprint("x-", i), strings.Repeat("z", 10<<10))
		}
		block := h.fields(pairs...)
		h.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: block[:8<<10]})
		for block = block[8<<10:]; len(block) > 8<<10; block = block[8<<10:] {
			h.WriteContinuation(s, false, block[:8<<10])
		}
		return h.WriteContinuation(s, true, block)
	}, "upstream_error", false},
	"a head that grows when it is read": {func(h *hostile, s uint32) error { // one table entry, referred to again and again
		h.head.Reset()
		e := hpack.NewEncoder(&h.head)
		e.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
		for range 10_000 {
			e.WriteField(hpack.HeaderField{Name: "x-y", Value: strings.Repeat("z", 3000)})
		}
		return h.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: h.head.Bytes(), EndHeaders: true, EndStream: true})
	}, "upstream_error", false},
	"interim answers for ever": {func(h *hostile, s uint32) error {
		return forever(func() error { return h.answer(s, false, ":status", "103", "link", "</x>") })
	}, "upstream_error", false},
	"pings for ever": {func(h *hostile, s uint32) error {
		go io.Copy(io.Discard, h.conn)
		return forever(func() error { return h.WritePing(false, [8]byte{1}) })
	}, "upstream_error timeout", true},
	"settings for ever": {func(h *hostile, s uint32) error {
		go io.Copy(io.Discard, h.conn)
		return forever(func() error { return h.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 10}) })
	}, "upstream_error timeout", true},
	"empty data for ever": {func(h *hostile, s uint32) error {
		h.answer(s, false, ":status", "200")
		return forever(func() error { return h.WriteData(s, false, nil) })
	}, "upstream_error timeout", true},
	"a promise": {func(h *hostile, s uint32) error {
		return h.WritePushPromise(http2.PushPromiseParam{StreamID: s, PromiseID: 2, BlockFragment: h.fields(":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/"), EndHeaders: true})
	}, "upstream_error", false},
	"goes away at once":         {func(h *hostile, s uint32) error { return h.WriteGoAway(0, http2.ErrCodeNo, nil) }, "upstream_error timeout", true},
	"goes away, being angry":    {func(h *hostile, s uint32) error { h.WriteGoAway(s, http2.ErrCodeEnhanceYourCalm, nil); return io.EOF }, "upstream_error", false},
	"says nothing":              {func(h *hostile, s uint32) error { return nil }, "timeout", true},
	"says nothing after a head": {func(h *hostile, s uint32) error { return h.answer(s, false, ":status", "200", "content-length", "3") }, "timeout", true},
	"ends":                      {func(h *hostile, s uint32) error { return io.EOF }, "upstream_error", false},
	"less than it said": {func(h *hostile, s uint32) error {
		h.answer(s, false, ":status", "200", "content-length", "3")
		return h.WriteData(s, true, []byte("ab"))
	}, "upstream_error", false},
	"more than it said": {func(h *hostile, s uint32) error {
		h.answer(s, false, ":status", "200", "content-length", "3")
		return h.WriteData(s, true, []byte("abcd"))
	}, "upstream_error", false},
	"more than its window": {func(h *hostile, s uint32) error {
		h.answer(s, false, ":status", "200")
		data := make([]byte, 16<<10)
		return forever(func() error { return h.WriteData(s, false, data) })
	}, "upstream_error response_too_large", false},
	"a frame that is too long": {func(h *hostile, s uint32) error {
		return h.WriteRawFrame(http2.FrameData, 0, s, make([]byte, 1<<20+100))
	}, "upstream_error", false},
	"a status that is none": {func(h *hostile, s uint32) error { return h.answer(s, true, ":status", "abc") }, "upstream_error", false},
	"no status":             {func(h *hostile, s uint32) error { return h.answer(s, true, "x", "y") }, "upstream_error", false},
	"a bad field":           {func(h *hostile, s uint32) error { return h.answer(s, true, ":status", "200", "a b", "c\r\nd: e") }, "upstream_error", false},
	"not HTTP/2":            {func(h *hostile, s uint32) error { io.WriteString(h.conn, "HTTP/1.1 200 OK\r\n\r\n"); return io.EOF }, "upstream_error", false},
}

// Whatever a server does with HTTP/2, a request ends with an error within its time, little is read of what is sent without
// end, and other servers are reached as before.
func TestHostileHTTP2(t *testing.T) {
	for about, c := range hostileAnswers {
		t.Run(about, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.site2("good.example", "93.184.216.35", func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "hi") })
			sent, _ := w.hostileSite("x.example", "93.184.216.34", nil, func(h *hostile, s uint32, _ string) error { return c.react(h, s) })
			seconds := 20.0
			if c.slow {
				seconds = 0.3
			}
			for range 2 {
				r := w.ask("POST", "https://x.example/", "timeout_seconds", seconds, "body", "x")
				if !strings.Contains(" "+c.kinds+" ", " "+r.errorType()+" ") {
					t.Errorf("got %s %q, want one of %s", r.errorType(), r.errorText(), c.kinds)
				}
			}
			if n := sent.Load(); n > 2*mostSent {
				t.Errorf("%d bytes were taken, want at most %d", n, 2*mostSent)
			}
			if r := w.ask("GET", "https://good.example/"); !r.Success {
				t.Errorf("another server: %s; want success", r.errorText())
			}
			if c.slow {
				return // a plain HTTP proxy leaves that to its client, within two minutes
			}
			conn := dialSocket(t, w.socket())
			io.WriteString(conn, "GET https://x.example/ HTTP/1.1\r\nHost: x.example\r\nConnection: close\r\n\r\n")
			if strings.Contains(about, "window") {
				return // an answer without end is one that a pack may read
			}
			if answer, err := answerIn(conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 502 ") && !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
				t.Errorf("as plain HTTP: got %.200q, %v; want 502 or 200", answer, err)
			}
		})
	}
}

// answerIn reads an answer behind the interim ones before it.
func answerIn(conn net.Conn) (string, error) {
	all, err := io.ReadAll(conn)
	answer := string(all)
	for strings.HasPrefix(answer, "HTTP/1.1 1") {
		_, answer, _ = strings.Cut(answer, "\r\n\r\n")
	}
	return answer, err
}

// A server that never takes a body costs the request's time, no more.
func TestHTTP2ServerThatTakesNoBody(t *testing.T) {
	w := newWorld(t)
	w.hostileSite("x.example", "93.184.216.34", []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}, func(*hostile, uint32, string) error { return nil })
	if r := w.ask("PUT", "https://x.example/", "body", strings.Repeat("x", 1<<19), "timeout_seconds", 0.3); r.errorType() != "timeout" {
		t.Errorf("got %s %s, want timeout", r.errorType(), r.errorText())
	}
}

// One that takes a single request at a time, and refuses those that came before it said so, gets a connection for each.
func TestHTTP2ServerOfOneStream(t *testing.T) {
	w := newWorld(t)
	over := make(chan struct{})
	var mu sync.Mutex
	arrived := 0
	busy := map[*hostile]bool{}
	_, conns := w.hostileSite("x.example", "93.184.216.34", []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 1}}, func(h *hostile, s uint32, path string) error {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case busy[h]:
			return h.WriteRSTStream(s, http2.ErrCodeRefusedStream)
		case path != "/wait":
			return h.answer(s, true, ":status", "200")
		}
		busy[h] = true
		if arrived++; arrived == 2 {
			close(over)
		}
		go func() {
			<-over
			mu.Lock()
			defer mu.Unlock()
			busy[h] = false
			h.answer(s, true, ":status", "200")
		}()
		return nil
	})
	if r := w.ask("POST", "https://x.example/"); !r.Success {
		t.Fatalf("the first request fails: %s; want success", r.errorText())
	}
	var asking sync.WaitGroup
	for range 2 {
		asking.Go(func() {
			if r := w.ask("POST", "https://x.example/wait"); !r.Success {
				t.Errorf("the request that waits fails: %s; want success", r.errorText())
			}
		})
	}
	asking.Wait()
	if n := conns.Load(); n < 2 || n > 3 {
		t.Errorf("%d connections, want 2 or 3", n)
	}
}

// A server that says it goes away between two requests costs neither of them.
func TestHTTP2GoesAwayPolitely(t *testing.T) {
	w := newWorld(t)
	handlerEnded := make(chan struct{}, 1)
	_, conns := w.hostileSite("x.example", "93.184.216.34", nil, func(h *hostile, s uint32, path string) error {
		if err := h.answer(s, true, ":status", "200"); err != nil || path != "/last" {
			return err
		}
		defer func() { handlerEnded <- struct{}{} }()
		return h.WriteGoAway(s, http2.ErrCodeNo, nil)
	})
	for i, path := range []string{"/", "/last", "/", "/"} {
		if r := w.ask("GET", "https://x.example"+path); !r.Success {
			t.Errorf("request %d fails: %s; want success", i, r.errorText())
		}
		if path == "/last" {
			<-handlerEnded
		}
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// What a server sends when nothing was asked of it ends its connection.
func TestHTTP2FloodWhileIdle(t *testing.T) {
	w := newWorld(t)
	ended := make(chan struct{})
	sent, _ := w.hostileSite("x.example", "93.184.216.34", nil, func(h *hostile, s uint32, path string) error {
		h.answer(s, true, ":status", "200")
		go io.Copy(io.Discard, h.conn)
		defer close(ended)
		return forever(func() error { return h.WritePing(false, [8]byte{1}) })
	})
	if r := w.ask("GET", "https://x.example/"); !r.Success {
		t.Fatalf("the request fails: %s; want success", r.errorText())
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the flood goes on")
	}
	if n := sent.Load(); n > mostSent {
		t.Errorf("%d bytes were taken, want at most %d", n, mostSent)
	}
}
