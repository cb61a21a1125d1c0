package rpc_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
)

// A refusal in the middle of an upload reaches a client that sends everything before it reads.
func TestRawLingers(t *testing.T) {
	server := httptest.NewServer(rpc.Raw(func(_ http.ResponseWriter, r *http.Request) error {
		_, _ = io.ReadFull(r.Body, make([]byte, 10))
		return fault.Invalid("Unsupported input").With("unsupported_input")
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const pieces = 24
	piece := strings.Repeat("x", 1<<20)
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", pieces*len(piece))
	for i := range pieces {
		if _, err := io.WriteString(conn, piece); err != nil {
			t.Fatalf("the connection broke after %d MiB: %v", i, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	if body, err := io.ReadAll(response.Body); response.StatusCode != 400 || !strings.Contains(string(body), "Unsupported input") {
		t.Errorf("got %d %s, %v; want 400 that says why", response.StatusCode, body, err)
	}
}
