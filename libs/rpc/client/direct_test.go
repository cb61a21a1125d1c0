package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/rpc/internal/rpctest"
)

func TestOnceSentRunsBeforeTheAnswer(t *testing.T) {
	w := rpctest.New(t)
	arrived, released := make(chan struct{}, 1), make(chan struct{})
	s := w.ServeCounted(w.Mux(map[string]http.Handler{"POST /wait": rpc.Handle(func(ctx context.Context, n rpctest.Number) (rpctest.Number, error) {
		arrived <- struct{}{}
		select {
		case <-released:
			return n, nil
		case <-time.After(rpctest.Patience):
			return n, errors.New("the caller waits for the answer")
		}
	})}), "")
	times := 0
	ctx := client.OnceSent(t.Context(), func() {
		times++
		select {
		case <-arrived:
			released <- struct{}{}
		case <-time.After(rpctest.Patience):
			t.Error("called before the request was sent")
		}
	})
	got, err := client.Call[rpctest.Number](ctx, w.Peer("gateway", s.Address()), "POST", "/wait", rpctest.Number{N: 7})
	if err != nil || got.N != 7 || times != 1 {
		t.Errorf("got %v, %v, and the hook was called %d times; want 7 and once", got, err, times)
	}
	s.Close()
	ctx = client.OnceSent(t.Context(), func() { t.Error("called though nothing was sent") })
	if _, err := client.Call[rpctest.Number](ctx, w.Peer("gateway", s.Address()), "POST", "/wait", rpctest.Number{N: 7}); !fault.Is(err, fault.KindUnavailable) {
		t.Errorf("with nobody there: got %v, want unavailable", err)
	}
}

// A connection that its other end cut in the middle is no reason to have something done twice, neither by the peer nor
// by the caller.
func TestOnlyIdempotentRequestsAreSentTwice(t *testing.T) {
	w := rpctest.New(t)
	var asked, cut atomic.Int32
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if asked.Add(1); cut.CompareAndSwap(1, 0) {
			panic(http.ErrAbortHandler)
		}
		rpc.WriteData(rw, rpctest.Number{N: 1})
	})
	s := w.ServeCounted(handler, "")
	for method, want := range map[string]int32{"GET": 2, "POST": 1} {
		peer := w.Peer("gateway", s.Address())
		if _, err := client.Call[rpctest.Number](t.Context(), peer, method, "/x", nil); err != nil {
			t.Fatal(err)
		}
		asked.Store(0)
		cut.Store(1)
		times := 0
		var body any
		if method == "POST" {
			body = rpctest.Number{N: 1}
		}
		_, err := client.Call[rpctest.Number](client.OnceSent(t.Context(), func() { times++ }), peer, method, "/x", body)
		if asked.Load() != want || times != 1 || (err == nil) != (want == 2) {
			t.Errorf("%s: asked %d times, want %d; told %d times; %v", method, asked.Load(), want, times, err)
		}
	}
}

func TestConnectionsAreKept(t *testing.T) {
	w := rpctest.New(t)
	s := w.ServeCounted(w.Mux(map[string]http.Handler{
		"POST /double": rpctest.Double, "GET /none": rpc.Raw(func(rw http.ResponseWriter, _ *http.Request) error { rw.WriteHeader(http.StatusNoContent); return nil }),
	}), "")
	peer := w.Peer("gateway", s.Address())
	for i := range 20 {
		if got, err := client.Call[rpctest.Number](t.Context(), peer, "POST", "/double", rpctest.Number{N: i}); err != nil || got.N != 2*i {
			t.Fatalf("call %d: got %v, %v; want %d", i, got, err, 2*i)
		}
		response, err := peer.Stream(t.Context(), "GET", "/none", nil)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if _, err := client.Call[rpctest.Number](t.Context(), peer, "POST", "/unknown", rpctest.Number{N: i}); !fault.Is(err, fault.KindNotFound) {
			t.Fatal(err)
		}
	}
	if n := s.Connections.Load(); n != 1 {
		t.Errorf("60 calls one after another took %d connections", n)
	}
}

// A service that is started anew has closed the connections that its callers keep: nothing of that reaches a caller.
func TestARestartedPeerIsCalledAtOnce(t *testing.T) {
	w := rpctest.New(t)
	routes := map[string]http.Handler{"POST /double": rpctest.Double}
	s := w.ServeCounted(w.Mux(routes), "")
	address := s.Address()
	peer := w.Peer("gateway", address)
	for i := range 5 {
		if _, err := client.Call[rpctest.Number](t.Context(), peer, "POST", "/double", rpctest.Number{N: i}); err != nil {
			t.Fatalf("after %d restarts: %v", i, err)
		}
		s.Close()
		s = w.ServeCounted(w.Mux(routes), address)
	}
}

func TestACancelledCallReturnsAtOnce(t *testing.T) {
	w := rpctest.New(t)
	gone := make(chan struct{})
	s := w.ServeCounted(w.Mux(map[string]http.Handler{
		"POST /double": rpctest.Double,
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
	peer := w.Peer("gateway", s.Address())
	ctx, cancel := context.WithCancel(t.Context())
	_, err := client.Call[rpctest.Number](client.OnceSent(ctx, cancel), peer, "POST", "/hang", rpctest.Number{N: 1})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the call got %v, want that it was cancelled", err)
	}
	select {
	case <-gone:
	case <-time.After(rpctest.Patience):
		t.Error("the peer goes on working")
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	response, err := peer.Stream(ctx, "GET", "/drip", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(response.Body); string(got) != "a" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("in the middle of a body: %q, %v; want a and the deadline's error", got, err)
	}
	response.Body.Close()
	if got, err := client.Call[rpctest.Number](t.Context(), peer, "POST", "/double", rpctest.Number{N: 4}); err != nil || got.N != 8 {
		t.Errorf("the next call got %v, %v; want 8", got, err)
	}
}

// Whatever happens to other answers, each caller gets its own.
func TestAnswersAreNeverMixed(t *testing.T) {
	w := rpctest.New(t)
	s := w.ServeCounted(w.Mux(map[string]http.Handler{
		"POST /double": rpctest.Double,
		"GET /much": rpc.Raw(func(rw http.ResponseWriter, _ *http.Request) error {
			_, err := rw.Write(bytes.Repeat([]byte("x"), 1<<20))
			return err
		}),
	}), "")
	peer := w.Peer("gateway", s.Address())
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
					if got, err := client.Call[rpctest.Number](ctx, peer, "POST", "/double", rpctest.Number{N: n}); err == nil && got.N != 2*n {
						t.Errorf("got %[2]d, want %[1]d", 2*n, got.N)
					}
					cancel()
				default:
					got, err := client.Call[rpctest.Number](t.Context(), peer, "POST", "/double", rpctest.Number{N: n})
					if err != nil || got.N != 2*n {
						t.Errorf("got %d, %v; want %d", got.N, err, 2*n)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestAnswersOfEveryForm(t *testing.T) {
	w := rpctest.New(t)
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
			s := w.ServeCounted(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(rw).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				io.WriteString(conn, c.answer)
			}), "")
			ctx, cancel := context.WithTimeout(t.Context(), rpctest.Patience)
			defer cancel()
			response, err := w.Peer("gateway", s.Address()).Stream(ctx, "POST", "/", rpctest.Number{N: 1})
			var got []byte
			if err == nil {
				got, err = io.ReadAll(response.Body)
				response.Body.Close()
			}
			if string(got) != c.want || (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Errorf("read %q, %v; want %q and an error that says %q", got, err, c.want, c.fails)
			}
		})
	}
}

// Bodies that may be slower than their answers, and everything else that needs more than one goroutine, take the other
// transport.
func TestSlowBodiesAreSentAsTheyCome(t *testing.T) {
	w := rpctest.New(t)
	began := make(chan struct{})
	s := w.ServeCounted(w.Mux(map[string]http.Handler{"POST /upload": rpc.Raw(func(rw http.ResponseWriter, r *http.Request) error {
		close(began)
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		return rpc.WriteData(rw, rpctest.Number{N: len(data)})
	})}), "")
	in, out := io.Pipe()
	go func() {
		fmt.Fprint(out, "first")
		select {
		case <-began:
			fmt.Fprint(out, " second")
		case <-time.After(rpctest.Patience):
		}
		out.Close()
	}()
	got, err := client.Call[rpctest.Number](t.Context(), w.Peer("gateway", s.Address()), "POST", "/upload", in)
	if err != nil || got.N != len("first second") {
		t.Errorf("the upload got %v, %v; want %d", got, err, len("first second"))
	}
}
