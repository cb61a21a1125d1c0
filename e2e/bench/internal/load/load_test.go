package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
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
		t.Errorf("median %d", got)
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

// paced answers after a time of its own and writes down who was asked.
type paced struct {
	name   string
	took   time.Duration
	turns  *[]string
	closed *atomic.Int32
}

func (p paced) Do() error {
	if turns := *p.turns; len(turns) == 0 || turns[len(turns)-1] != p.name {
		*p.turns = append(turns, p.name)
	}
	time.Sleep(p.took)
	return nil
}

func (p paced) Close() error { p.closed.Add(1); return nil }

func TestContestantsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns []string
		var closed atomic.Int32
		contestant := func(name string, took time.Duration) Contestant {
			return Contestant{Name: name, Open: func() (Client, error) { return paced{name, took, &turns, &closed}, nil }}
		}
		s, err := Compare(t.Context(), Plan{InFlight: 1, Rounds: 3, Each: time.Second}, contestant("a", time.Millisecond), contestant("b", 10*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"a", "b", "a", "b", "a", "b"}; !slices.Equal(turns, want) {
			t.Errorf("turns %v, want %v", turns, want)
		}
		if s[0].Rate != 1000 || s[0].P50 != time.Millisecond || s[1].Rate != 100 || s[1].P99 != 10*time.Millisecond {
			t.Errorf("summaries %+v", s)
		}
		if closed.Load() != 8 { // six turns, two warm-ups
			t.Errorf("%d clients were closed", closed.Load())
		}
	})
}

func TestAFailureNamesItsContestant(t *testing.T) {
	broken := errors.New("broken")
	for name, open := range map[string]func() (Client, error){
		"opening": func() (Client, error) { return nil, broken },
		"asking":  func() (Client, error) { return failing{broken}, nil },
	} {
		_, err := Compare(t.Context(), Plan{InFlight: 2, Rounds: 1, Each: time.Millisecond}, Contestant{Name: "squid", Open: open})
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "measure squid") {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Compare(ctx, Plan{InFlight: 1, Rounds: 1, Each: time.Hour}, Contestant{Open: func() (Client, error) { return failing{}, nil }}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Do() error    { return f.err }
func (f failing) Close() error { return nil }

func TestReadAnswer(t *testing.T) {
	for _, c := range []struct {
		name, text    string
		status, body  string
		closing, fail bool
	}{
		{name: "a length", text: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", status: "200", body: "hello"},
		{name: "no body", text: "HTTP/1.1 403 Forbidden\r\ncontent-length:0\r\n\r\n", status: "403"},
		{name: "chunks", text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", status: "200", body: "hello!"},
		{name: "the last", text: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", status: "200", body: "x", closing: true},
		{name: "no length", text: "HTTP/1.1 200 OK\r\n\r\nhello", fail: true},
		{name: "cut off", text: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", fail: true},
		{name: "no HTTP", text: "SSH-2.0\n", fail: true},
		{name: "nothing", fail: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := bufio.NewReader(strings.NewReader(c.text))
			var body bytes.Buffer
			status, closing, err := readAnswer(in, &body)
			if c.fail {
				if err == nil {
					t.Fatalf("taken for %s %q", status, body.String())
				}
				return
			}
			if err != nil || status != c.status || body.String() != c.body || closing != c.closing {
				t.Fatalf("%s %q %v (%v)", status, body.String(), closing, err)
			}
			if in.Buffered() != 0 {
				t.Errorf("%d bytes are left", in.Buffered())
			}
		})
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
				t.Errorf("%d with %q: %v", c.status, c.want, err)
			}
		}
		client.Close()
	}
}

func TestFrameClients(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go echo(conn)
		}
	}()
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

// echo answers each frame with itself.
func echo(conn net.Conn) {
	defer conn.Close()
	for {
		var head [4]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		if _, err := fmt.Fprintf(conn, "%s", head[:]); err != nil {
			return
		}
		if _, err := io.CopyN(conn, conn, int64(binary.BigEndian.Uint32(head[:]))); err != nil {
			return
		}
	}
}
