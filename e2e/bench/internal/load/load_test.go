package load

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = i + 1
	}
	for _, c := range []struct {
		values []int
		p      int
		want   int
	}{
		{[]int{7}, 50, 7},
		{[]int{7}, 99, 7},
		{[]int{1, 2}, 50, 1},
		{[]int{1, 2, 3}, 50, 2},
		{[]int{1, 2, 3, 4}, 50, 2},
		{[]int{1, 2, 3}, 0, 1},
		{[]int{1, 2, 3}, 100, 3},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred[:10], 99, 10},
	} {
		if got := Percentile(c.values, c.p); got != c.want {
			t.Errorf("percentile %d of %v is %d, want %d", c.p, c.values, got, c.want)
		}
	}
	if got := Median([]string{"ccc", "a", "bb"}, func(s string) int { return len(s) }); got != 2 {
		t.Errorf("the median is %d, want 2", got)
	}
}

func TestParseStat(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20"
	for name, want := range map[string]time.Duration{
		"42 (squid)" + rest:          2 * time.Second,
		"42 (a ) 9 9 (name)" + rest:  2 * time.Second,
		"42 (cut off) S 1 2 3":       0,
		"":                           0,
		"42 (odd) S 1 2 3 4 5 6 7 8": 0,
	} {
		if got := parseStat([]byte(name)); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

// serve answers what comes over each connection to a socket, until the test ends.
func serve(t *testing.T, answer func(conn net.Conn)) (path string) {
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				answer(conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return path
}

// echo answers each frame with itself, in two pieces.
func echo(conn net.Conn) {
	for {
		var head [4]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		if _, err := conn.Write(head[:]); err != nil {
			return
		}
		if _, err := io.CopyN(conn, conn, int64(binary.BigEndian.Uint32(head[:]))); err != nil {
			return
		}
	}
}

func TestSummarise(t *testing.T) {
	took := make([]time.Duration, 200)
	for i := range took {
		took[i] = time.Duration(200-i) * time.Millisecond
	}
	want := Summary{Rate: 100, P50: 100 * time.Millisecond, P99: 198 * time.Millisecond, CPU: 5 * time.Millisecond}
	if got := summarise(took, 2*time.Second, time.Second); got != want {
		t.Errorf("the summary is %+v, want %+v", got, want)
	}
}

func TestContestantsTakeTurns(t *testing.T) {
	var mu sync.Mutex
	var turns []string
	closed := make(chan struct{}, 64)
	contestant := func(name string, pause time.Duration) Contestant {
		path := serve(t, func(conn net.Conn) {
			mu.Lock()
			turns = append(turns, name)
			mu.Unlock()
			defer func() { closed <- struct{}{} }()
			for request := make([]byte, 64); ; time.Sleep(pause) {
				n, err := conn.Read(request)
				if err == nil {
					_, err = conn.Write(request[:n])
				}
				if err != nil {
					return
				}
			}
		})
		return Contestant{Name: name, Open: Frames(path, []byte("ping"), "ping")}
	}
	s, err := Compare(t.Context(), Plan{InFlight: 2, Rounds: 3, Each: 20 * time.Millisecond}, contestant("a", 0), contestant("b", 5*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	for range 16 { // two connections, six turns and two to warm up: Compare closes them all
		<-closed
	}
	mu.Lock()
	defer mu.Unlock()
	// Each has two connections a turn, and two to warm up.
	if want := strings.Split("aaaabbbbaabbaabb", ""); !slices.Equal(turns, want) {
		t.Errorf("turns %v, want %v", turns, want)
	}
	for _, s := range s {
		if s.Rate <= 0 || s.P50 <= 0 || s.P99 < s.P50 {
			t.Errorf("the summary is %+v, want a rate, a P50, and a P99 that isn't below it", s)
		}
	}
	if s[1].P99 < 4*time.Millisecond {
		t.Errorf("who pauses 5 ms between requests: %+v; want a P99 of 4 ms at least", s[1])
	}
}

func TestAFailureNamesItsContestant(t *testing.T) {
	broken := errors.New("broken")
	mute := serve(t, func(net.Conn) {})
	for name, open := range map[string]func() (*Client, error){
		"opening": func() (*Client, error) { return nil, broken },
		"asking":  Frames(mute, []byte("ping"), "ping"),
		"reading": Frames(serve(t, echo), []byte("ping"), "pong"),
		"nobody":  Frames(filepath.Join(t.TempDir(), "s"), []byte("ping"), "ping"),
	} {
		_, err := Compare(t.Context(), Plan{InFlight: 2, Rounds: 1, Each: time.Millisecond}, Contestant{Name: "squid", Open: open})
		if err == nil || !strings.Contains(err.Error(), "measure squid") || name == "opening" && !errors.Is(err, broken) {
			t.Errorf("%s: got %v, want an error of the measurement of squid", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Compare(ctx, Plan{InFlight: 1, Rounds: 1, Each: time.Hour}, Contestant{Open: Frames(serve(t, echo), []byte("ping"), "ping")}); !errors.Is(err, context.Canceled) {
		t.Errorf("a comparison that was cancelled: got %v, want the context's error", err)
	}
}

func TestAnswersEnd(t *testing.T) {
	answers := httpAnswers{"200", []byte("h")}
	for _, c := range []struct {
		name, text    string
		closing, fail bool
	}{
		{name: "a length", text: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"},
		{name: "chunks", text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"},
		{name: "the last", text: "HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length:1\r\n\r\nh", closing: true},
		{name: "another body", text: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", fail: true},
		{name: "another status", text: "HTTP/1.1 403 Forbidden\r\nContent-Length: 1\r\n\r\nh", fail: true},
		{name: "no length", text: "HTTP/1.1 200 OK\r\n\r\nhello", fail: true},
		{name: "a length that is none", text: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nh", fail: true},
		{name: "a chunk without a size", text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nh\r\n", fail: true},
		{name: "no HTTP", text: "SSH-2.0\r\n", fail: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, closing, err := answers.end([]byte(c.text))
			if (err != nil) != c.fail || err == nil && (n != len(c.text) || closing != c.closing) {
				t.Fatalf("the answer ends at %d of %d, closing %v, %v; want closing %v, or an error: %v", n, len(c.text), closing, err, c.closing, c.fail)
			}
			for i := range len(c.text) {
				n, _, err := answers.end([]byte(c.text[:i]))
				if n != 0 || err != nil && !c.fail {
					t.Fatalf("of the first %d bytes: %d, %v; want that the frame hasn't ended", i, n, err)
				}
			}
		})
	}
	for text, want := range map[string]int{"\x00\x00\x00\x02hi": 6, "\x00\x00\x00\x02h": 0, "\x00\x00": 0, "\xff\xff\xff\xff": -1, "\x00\x00\x00\x01x": -1} {
		if n, _, err := frames("h").end([]byte(text)); (err != nil) != (want < 0) || err == nil && n != want {
			t.Errorf("%q: the frame ends at %d, %v; want %d", text, n, err, want)
		}
	}
}

func TestAServerThatClosesIsConnectedToAgain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		io.WriteString(w, "hello")
	})}
	go server.Serve(l)
	defer server.Close()
	client, err := HTTP("tcp", l.Addr().String(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200, "hello")()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for served := 0; served < 10; { // by drive, which polls the new connection
		took, err := drive(t.Context(), []*Client{client}, time.Now().Add(10*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		served += len(took)
	}
}

func TestHTTPClients(t *testing.T) {
	upstream, err := NewUpstream()
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	const request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, c := range []struct {
		status int
		want   string
		good   bool
	}{{200, UpstreamSays, true}, {403, UpstreamSays, false}, {200, "something else", false}} {
		client, err := HTTP("tcp", upstream.Address(), request, c.status, c.want)()
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := client.Do(); (err == nil) != c.good {
				t.Errorf("%d with %q: got %v, want it good: %v", c.status, c.want, err, c.good)
			}
		}
		client.Close()
	}
}

func TestFrameClients(t *testing.T) {
	path := serve(t, echo)
	for want, good := range map[string]bool{"ping": true, "pong": false} {
		client, err := Frames(path, []byte(`{"say":"ping"}`), want)()
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := client.Do(); (err == nil) != good {
				t.Errorf("want %s: %v", want, err)
			}
		}
		client.Close()
	}
}
