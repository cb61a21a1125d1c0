package client_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/rpc/internal/rpctest"
	"github.com/rumi-ai/rumi/libs/rpc/server"
)

// Whatever the sizes of pieces, both bodies arrive as they were sent, on one connection after another.
func TestBodiesArriveUnchanged(t *testing.T) {
	w := rpctest.New(t)
	client := &http.Client{Transport: w.Peer("gateway", w.Serve(func(m *server.Mux) {
		m.Route("POST /echo", rpc.Raw(func(w http.ResponseWriter, r *http.Request) error {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			_, err = w.Write(body)
			return err
		}), "gateway")
	}))}
	const mib = 1 << 20
	data := make([]byte, 3*mib+17)
	rand.Read(data)
	for name, body := range map[string]struct {
		size   int
		reader func(io.Reader) io.Reader
	}{
		"none":             {0, func(r io.Reader) io.Reader { return r }},
		"small":            {100, func(r io.Reader) io.Reader { return r }},
		"large":            {len(data), func(r io.Reader) io.Reader { return r }},
		"byte by byte":     {100_000, iotest.OneByteReader},
		"half of it":       {mib, iotest.HalfReader},
		"its end at once":  {mib, iotest.DataErrReader},
		"a record":         {16 << 10, func(r io.Reader) io.Reader { return r }},
		"a buffer":         {128 << 10, func(r io.Reader) io.Reader { return r }},
		"one byte more":    {128<<10 + 1, func(r io.Reader) io.Reader { return r }},
		"a small one next": {10, func(r io.Reader) io.Reader { return r }},
	} {
		for _, sized := range []bool{true, false} {
			r, err := http.NewRequestWithContext(t.Context(), "POST", "https://approval/echo", body.reader(bytes.NewReader(data[:body.size])))
			if err != nil {
				t.Fatal(err)
			}
			if r.ContentLength = -1; sized {
				r.ContentLength = int64(body.size)
			}
			response, err := client.Do(r)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil || !bytes.Equal(got, data[:body.size]) {
				t.Errorf("%s: %d of %d bytes came back, %v", name, len(got), body.size, err)
			}
		}
	}
}

// A body that can't be read to its end is not taken for a shorter one.
func TestABodyThatFailsIsNotDelivered(t *testing.T) {
	w := rpctest.New(t)
	read := make(chan error, 1)
	peer := w.Peer("gateway", w.Serve(func(m *server.Mux) {
		m.Route("POST /in", rpc.Raw(func(_ http.ResponseWriter, r *http.Request) error {
			_, err := io.Copy(io.Discard, r.Body)
			read <- err
			return err
		}), "gateway")
	}))
	broken := errors.New("broken")
	if _, err := peer.Stream(t.Context(), "POST", "/in", io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), iotest.ErrReader(broken))); err == nil {
		t.Error("a request whose body breaks off succeeds, want an error")
	}
	if err := <-read; err == nil {
		t.Error("the peer took it for whole")
	}
}

// Who accepts a connection and says nothing is unavailable, after a while.
func TestAHandshakeIsBounded(t *testing.T) {
	w := rpctest.New(t)
	id := w.Identity("gateway")
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		go io.Copy(io.Discard, far)
		err := client.Secure(t.Context(), near, id, "approval")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the deadline's error", err)
		}
		if _, err := near.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the connection is open still: %v, want ErrClosedPipe", err)
		}
		if fault.Of(err).Kind != fault.KindInternal { // RoundTrip makes it what callers see
			t.Errorf("got a fault of the kind %v (%v), want internal", fault.Of(err).Kind, err)
		}
	})
}
