package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/rpc/internal/rpctest"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

// refusals collects what a listener refuses.
type refusals struct {
	mu   sync.Mutex
	seen []identity.Refusal
}

func (r *refusals) add(_ net.Addr, one identity.Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, one)
}

// next waits for the next refusal.
func (r *refusals) next(t *testing.T) identity.Refusal {
	t.Helper()
	for began := time.Now(); time.Since(began) < rpctest.Patience; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		if len(r.seen) > 0 {
			one := r.seen[0]
			r.seen = r.seen[1:]
			r.mu.Unlock()
			return one
		}
		r.mu.Unlock()
	}
	t.Fatal("nothing was refused")
	return identity.Refusal{}
}

// serve serves h as the service approval, and notes who is refused.
func serve(t *testing.T, id *identity.Identity, h http.Handler) (address string, refused *refusals) {
	t.Helper()
	refused = &refusals{}
	s := httptest.NewUnstartedServer(h)
	s.Listener = server.Listener(s.Listener, id, refused.add)
	s.Config.ConnContext = server.ConnContext
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), refused
}

// dial makes the handshake and waits for an answer: with TLS 1.3 only that shows the client that it is refused.
func dial(address string, cfg *tls.Config) error {
	conn, err := tls.Dial("tcp", address, cfg)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	_, err = http.ReadResponse(bufio.NewReader(conn), nil)
	return err
}

func TestWhoIsRefusedInTheHandshakeIsNamed(t *testing.T) {
	w, elsewhere := rpctest.New(t), rpctest.New(t)
	approval, gateway := w.Identity("approval"), w.Identity("gateway")
	address, refused := serve(t, approval, http.NotFoundHandler())
	anonymous, foreign, stranger, revoked, old := gateway.Client("approval"), gateway.Client("approval"), gateway.Client("approval"), gateway.Client("approval"), gateway.Client("approval")
	anonymous.GetClientCertificate = nil
	foreign.GetClientCertificate = elsewhere.Identity("gateway").Client("approval").GetClientCertificate
	stranger.GetClientCertificate = w.Elsewhere("gateway").Client("approval").GetClientCertificate
	ended := w.IdentityOf("gateway", time.Now().Add(-2*identity.MaxLife))
	old.GetClientCertificate = ended.Client("approval").GetClientCertificate
	stolen := w.Identity("gateway")
	revoked.GetClientCertificate = stolen.Client("approval").GetClientCertificate
	approval.Deny([]identity.Denied{{Serial: identity.Serial(stolen.Certificate()), Service: "gateway", NotAfter: stolen.Certificate().NotAfter}})
	ancient := &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true}
	for _, c := range []struct {
		cfg             *tls.Config
		reason, service string
	}{
		{anonymous, identity.NoCertificate, ""},
		{foreign, identity.UnknownAuthority, "gateway"},
		{stranger, identity.OtherHome, "gateway"},
		{old, identity.NotValidNow, "gateway"},
		{revoked, identity.Revoked, "gateway"},
		{ancient, identity.Malformed, ""},
	} {
		if err := dial(address, c.cfg); err == nil {
			t.Errorf("%s: admitted, want it refused", c.reason)
		}
		if r := refused.next(t); r.Reason != c.reason || r.Service != c.service || (r.Serial != "") != (c.service != "") {
			t.Errorf("got %+v, want the reason %s and the service %q", r, c.reason, c.service)
		}
	}
	if err := dial(address, gateway.Client("approval")); err != nil {
		t.Errorf("a good caller afterwards: %v, want it served", err)
	}
}

// Plain HTTP gets an answer that says what is wrong, as from net/http itself. A connection that breaks off says nothing about anybody.
func TestPlainHTTPIsAnsweredAndNamed(t *testing.T) {
	address, refused := serve(t, rpctest.New(t).Identity("approval"), http.NotFoundHandler())
	for range 3 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	response, err := http.Get("http://" + address + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	if response.StatusCode != 400 || !strings.Contains(string(text), "HTTP request to an HTTPS server") {
		t.Errorf("got %d %q, want 400 and what is wrong", response.StatusCode, text)
	}
	if r := refused.next(t); r.Reason != identity.NoTLS {
		t.Errorf("got %+v, want the reason %s", r, identity.NoTLS)
	}
}

// A peer that connects and says nothing keeps nobody waiting.
func TestASilentPeerHoldsNobodyUp(t *testing.T) {
	w := rpctest.New(t)
	address, _ := serve(t, w.Identity("approval"), http.NotFoundHandler())
	for range 50 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	began := time.Now()
	if err := dial(address, w.Identity("gateway").Client("approval")); err != nil || time.Since(began) > 3*time.Second {
		t.Errorf("served with %v after %v, want it at once", err, time.Since(began))
	}
}

// Of a connection that ends soon the answer says so, so that the client makes another one.
func TestTheLastAnswerOfAConnectionSaysSo(t *testing.T) {
	w := rpctest.New(t)
	address, _ := serve(t, w.Identity("approval"), w.Mux(map[string]http.Handler{"GET /x": http.NotFoundHandler()}))
	id := w.Short("gateway")
	conn, err := tls.Dial("tcp", address, id.Client("approval"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for _, want := range []bool{false, true} {
		if _, err := io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.Close != want {
			t.Errorf("the answer ends the connection: %v, want %v", response.Close, want)
		}
		cert := id.Certificate()
		time.Sleep(time.Until(cert.NotBefore.Add(identity.Life(cert)*5/6 + 50*time.Millisecond)))
	}
}

func TestAClosedListenerAcceptsNothing(t *testing.T) {
	below, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := server.Listener(below, rpctest.New(t).Identity("approval"), nil)
	waiting := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		waiting <- err
	}()
	silent, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept of a closed listener: %v, want ErrClosed", err)
	}
	silent.SetReadDeadline(time.Now().Add(rpctest.Patience))
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("the connection whose handshake was under way is open, want it closed")
	}
	if err := l.Close(); err != nil {
		t.Errorf("closed again: %v, want nothing", err)
	}
}
