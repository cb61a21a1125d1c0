package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
)

// patience is how long what must happen may take on a machine that does a lot else.
const patience = 30 * time.Second

// counted is a server that counts its connections.
type counted struct {
	*httptest.Server
	made atomic.Int32
}

// counting serves h as the service "approval" at an address, any where it is "".
func (w *world) counting(h http.Handler, address string) *counted {
	w.t.Helper()
	s := &counted{Server: httptest.NewUnstartedServer(h)}
	if address != "" {
		l, err := net.Listen("tcp", address)
		if err != nil {
			w.t.Fatal(err)
		}
		s.Listener.Close()
		s.Listener = l
	}
	s.TLS = w.config("approval").Identity.Server()
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that end in their handshake are part of it
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.made.Add(1)
		}
	}
	s.StartTLS()
	w.t.Cleanup(s.Close)
	return s
}

func (s *counted) address() string { return s.Listener.Addr().String() }

type number struct {
	N int `json:"n"`
}

// double is a route that answers with twice the number that it is asked.
var double = rpc.Handle(func(_ context.Context, n number) (number, error) { return number{2 * n.N}, nil })

func mux(w *world, routes map[string]http.Handler) *rpc.Mux {
	m := rpc.NewMux(w.config("approval"))
	for pattern, h := range routes {
		m.Route(pattern, h, "gateway")
	}
	return m
}

func TestOnceSentRunsWhileThePeerWorks(t *testing.T) {
	w := newWorld(t)
	arrived, released := make(chan struct{}, 1), make(chan struct{})
	s := w.counting(mux(w, map[string]http.Handler{"POST /wait": rpc.Handle(func(ctx context.Context, n number) (number, error) {
		arrived <- struct{}{}
		select {
		case <-released:
			return n, nil
		case <-time.After(patience):
			return n, errors.New("the caller waits for the answer")
		}
	})}), "")
	times := 0
	ctx := rpc.OnceSent(t.Context(), func() {
		times++
		select {
		case <-arrived:
			released <- struct{}{}
		case <-time.After(patience):
			t.Error("called before the request was sent")
		}
	})
	got, err := rpc.Call[number](ctx, w.peer("gateway", s.address()), "POST", "/wait", number{7})
	if err != nil || got.N != 7 || times != 1 {
		t.Errorf("%v, %v; called %d times", got, err, times)
	}
	s.Close()
	ctx = rpc.OnceSent(t.Context(), func() { t.Error("called though nothing was sent") })
	if _, err := rpc.Call[number](ctx, w.peer("gateway", s.address()), "POST", "/wait", number{7}); !fault.Is(err, fault.KindUnavailable) {
		t.Errorf("with nobody there: %v", err)
	}
}

// A connection that its other end cut in the middle is no reason to have something done twice, neither by the peer nor
// by the caller.
func TestOnlyWhatMayBeRepeatedIsSentTwice(t *testing.T) {
	w := newWorld(t)
	var asked, cut atomic.Int32
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if asked.Add(1); cut.CompareAndSwap(1, 0) {
			panic(http.ErrAbortHandler)
		}
		rpc.WriteData(rw, number{1})
	})
	s := w.counting(handler, "")
	for method, want := range map[string]int32{"GET": 2, "POST": 1} {
		peer := w.peer("gateway", s.address())
		if _, err := rpc.Call[number](t.Context(), peer, method, "/x", nil); err != nil {
			t.Fatal(err)
		}
		asked.Store(0)
		cut.Store(1)
		times := 0
		var body any
		if method == "POST" {
			body = number{1}
		}
		_, err := rpc.Call[number](rpc.OnceSent(t.Context(), func() { times++ }), peer, method, "/x", body)
		if asked.Load() != want || times != 1 || (err == nil) != (want == 2) {
			t.Errorf("%s: asked %d times, want %d; told %d times; %v", method, asked.Load(), want, times, err)
		}
	}
}

func TestConnectionsAreKept(t *testing.T) {
	w := newWorld(t)
	s := w.counting(mux(w, map[string]http.Handler{
		"POST /double": double, "GET /none": rpc.Raw(func(rw http.ResponseWriter, _ *http.Request) error { rw.WriteHeader(http.StatusNoContent); return nil }),
	}), "")
	peer := w.peer("gateway", s.address())
	for i := range 20 {
		if got, err := rpc.Call[number](t.Context(), peer, "POST", "/double", number{i}); err != nil || got.N != 2*i {
			t.Fatal(got, err)
		}
		response, err := peer.Stream(t.Context(), "GET", "/none", nil)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if _, err := rpc.Call[number](t.Context(), peer, "POST", "/unknown", number{i}); !fault.Is(err, fault.KindNotFound) {
			t.Fatal(err)
		}
	}
	if n := s.made.Load(); n != 1 {
		t.Errorf("60 calls one after another took %d connections", n)
	}
}

// A service that is started anew has closed the connections that its callers keep: nothing of that reaches a caller.
func TestARestartedPeerIsCalledAtOnce(t *testing.T) {
	w := newWorld(t)
	routes := map[string]http.Handler{"POST /double": double}
	s := w.counting(mux(w, routes), "")
	address := s.address()
	peer := w.peer("gateway", address)
	for i := range 5 {
		if _, err := rpc.Call[number](t.Context(), peer, "POST", "/double", number{i}); err != nil {
			t.Fatalf("after %d restarts: %v", i, err)
		}
		s.Close()
		s = w.counting(mux(w, routes), address)
	}
}

func TestACallerThatGivesUpIsToldAtOnce(t *testing.T) {
	w := newWorld(t)
	gone := make(chan struct{})
	s := w.counting(mux(w, map[string]http.Handler{
		"POST /double": double,
		"POST /hang": rpc.Raw(func(_ http.ResponseWriter, r *http.Request) error {
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			close(gone)
			return nil
		}),
		"GET /drip": rpc.Raw(func(rw http.ResponseWriter, r *http.Request) error {
			rw.Write([]byte("a"))
			http.NewResponseController(rw).Flush()
			<-r.Context().Done()
			return nil
		}),
	}), "")
	peer := w.peer("gateway", s.address())
	ctx, cancel := context.WithCancel(t.Context())
	_, err := rpc.Call[number](rpc.OnceSent(ctx, cancel), peer, "POST", "/hang", number{1})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("the peer goes on working")
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	response, err := peer.Stream(ctx, "GET", "/drip", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(response.Body); string(got) != "a" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("in the middle of a body: %q, %v", got, err)
	}
	response.Body.Close()
	if got, err := rpc.Call[number](t.Context(), peer, "POST", "/double", number{4}); err != nil || got.N != 8 {
		t.Errorf("afterwards: %v, %v", got, err)
	}
}

// Whatever happens to other answers, each caller gets its own.
func TestAnswersAreNeverMixed(t *testing.T) {
	w := newWorld(t)
	s := w.counting(mux(w, map[string]http.Handler{
		"POST /double": double,
		"GET /much": rpc.Raw(func(rw http.ResponseWriter, _ *http.Request) error {
			_, err := rw.Write(bytes.Repeat([]byte("x"), 1<<20))
			return err
		}),
	}), "")
	peer := w.peer("gateway", s.address())
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 50 {
				n := i*1000 + j
				switch j % 5 {
				case 3: // leaves most of it where it is
					response, err := peer.Stream(t.Context(), "GET", "/much", nil)
					if err != nil {
						t.Error(err)
						return
					}
					io.CopyN(io.Discard, response.Body, int64(j))
					response.Body.Close()
				case 4: // gives up at any moment
					ctx, cancel := context.WithCancel(t.Context())
					time.AfterFunc(time.Duration(j)*20*time.Microsecond, cancel)
					if got, err := rpc.Call[number](ctx, peer, "POST", "/double", number{n}); err == nil && got.N != 2*n {
						t.Errorf("asked for %d, got %d", 2*n, got.N)
					}
					cancel()
				default:
					got, err := rpc.Call[number](t.Context(), peer, "POST", "/double", number{n})
					if err != nil || got.N != 2*n {
						t.Errorf("asked for %d, got %d, %v", 2*n, got.N, err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestAnswersOfEveryForm(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		answer string
		want   string // of the body
		fails  string
	}{
		"plain":              {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", ""},
		"chunked":            {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", ""},
		"to the end":         {"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", "ok", ""},
		"after others":       {"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", ""},
		"another protocol":   {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "", "Service unavailable"},
		"no HTTP":            {"220 smtp ready\r\n\r\n", "", "Service unavailable"},
		"nothing":            {"", "", "Service unavailable"},
		"half a header":      {"HTTP/1.1 200 OK\r\nContent-Le", "", "Service unavailable"},
		"half a body":        {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "ok", "unexpected EOF"},
		"header without end": {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Filler: "+strings.Repeat("x", 1000)+"\r\n", 2000), "", "Service unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			s := w.counting(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(rw).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				io.WriteString(conn, c.answer)
			}), "")
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			response, err := w.peer("gateway", s.address()).Stream(ctx, "POST", "/", number{1})
			var got []byte
			if err == nil {
				got, err = io.ReadAll(response.Body)
				response.Body.Close()
			}
			if string(got) != c.want || (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// Bodies that may be slower than their answers, and everything else that needs more than one goroutine, take the other
// transport.
func TestSlowBodiesAreSentAsTheyCome(t *testing.T) {
	w := newWorld(t)
	began := make(chan struct{})
	s := w.counting(mux(w, map[string]http.Handler{"POST /upload": rpc.Raw(func(rw http.ResponseWriter, r *http.Request) error {
		close(began)
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		return rpc.WriteData(rw, number{len(data)})
	})}), "")
	in, out := io.Pipe()
	go func() {
		fmt.Fprint(out, "first")
		select {
		case <-began:
			fmt.Fprint(out, " second")
		case <-time.After(patience):
		}
		out.Close()
	}()
	got, err := rpc.Call[number](t.Context(), w.peer("gateway", s.address()), "POST", "/upload", in)
	if err != nil || got.N != len("first second") {
		t.Errorf("%v, %v", got, err)
	}
}
