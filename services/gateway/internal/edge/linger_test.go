package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestEarlyAnswersReachTheClient: a client that sends all of a large body before it reads anything, as most do, gets the answer to a
// request that is refused at its head.
func TestEarlyAnswersReachTheClient(t *testing.T) {
	const size = 24 << 20
	for name, c := range map[string]struct {
		head    string
		chunked bool
		want    int
	}{
		"no token":           {"POST /api/packs/import HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\n", false, 401},
		"no token, chunked":  {"POST /api/packs/import HTTP/1.1\r\n", true, 401},
		"too large":          {"POST /api/packs/import HTTP/1.1\r\nAuthorization: Bearer right-token\r\nContent-Type: application/zip\r\n", false, 413},
		"too large, chunked": {"POST /api/packs/import HTTP/1.1\r\nAuthorization: Bearer right-token\r\nContent-Type: application/json\r\n", true, 413},
		"no such path":       {"POST /api/nothing HTTP/1.1\r\nAuthorization: Bearer right-token\r\n", false, 404},
		"foreign host":       {"POST /api/packs/import HTTP/1.1\r\nAuthorization: Bearer right-token\r\nOrigin: https://evil.example\r\n", false, 403},
		"no API":             {"POST /nothing HTTP/1.1\r\n", false, 404},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each case takes over a second of pauses
			server := httptest.NewServer(newEdge(t))
			defer server.Close()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			head := c.head + "Host: localhost\r\n"
			piece := strings.Repeat("x", 1<<20)
			if c.chunked {
				head += "Transfer-Encoding: chunked\r\n\r\n"
			} else {
				head += fmt.Sprintf("Content-Length: %d\r\n\r\n", size)
			}
			if _, err := io.WriteString(conn, head); err != nil {
				t.Fatal(err)
			}
			for sent := 0; sent < size; sent += len(piece) {
				data := piece
				if c.chunked {
					data = fmt.Sprintf("%x\r\n%s\r\n", len(piece), piece)
				}
				if _, err := io.WriteString(conn, data); err != nil {
					t.Fatalf("the connection broke after %d bytes: %v", sent, err)
				}
				time.Sleep(50 * time.Millisecond) // longer in all than the server waits for the client to see the end
			}
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("no answer: %v", err)
			}
			if body, _ := io.ReadAll(response.Body); name == "too large" && !strings.Contains(string(body), "Request body too large: an archive is sent as the field 'file' of a form") {
				t.Errorf("got %s, want how to send it", body)
			}
			if response.StatusCode != c.want || !response.Close {
				t.Errorf("got %d, close %v, want %d and the end of the connection", response.StatusCode, response.Close, c.want)
			}
		})
	}
}

// A client that keeps sending slowly, or says nothing more, has its answer at once and is cut off in time.
func TestLingeringIsBounded(t *testing.T) {
	const request = "POST /api/packs/import HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
	for name, c := range map[string]struct {
		pause time.Duration // between bytes; 0 for none
		most  time.Duration
	}{
		"silent": {0, 7 * time.Second},
		"slow":   {time.Second, 32 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := serve(t, newEdge(t))
				var sending sync.WaitGroup
				defer sending.Wait() // until it has seen that the connection is closed
				defer conn.Close()
				if c.pause > 0 {
					sending.Go(func() {
						for _, err := io.WriteString(conn, request); err == nil; _, err = io.WriteString(conn, "x") {
							time.Sleep(c.pause)
						}
					})
				}
				first := request
				if c.pause > 0 {
					first = ""
				}
				status, _, answered, ended := ask(t, conn, first)
				if status != 401 || answered > time.Second || ended > c.most {
					t.Errorf("got %d after %v and the end after %v, want 401 at once and the end within %v", status, answered, ended, c.most)
				}
			})
		})
	}
}
