package egress

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/frameproto"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/session"
)

// A pack that asks for much over many connections and reads none of it has its own further answers wait, and the process hold little.
func TestUnreadAnswersHoldLittle(t *testing.T) {
	const clients = 40
	field, letters, octets, zeros := strings.Repeat("x", 60<<10), bytes.Repeat([]byte("x"), 3<<20), bytes.Repeat([]byte{0xff}, 3<<19), make([]byte, 3<<20)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for _, test := range []struct {
		name   string
		serve  http.HandlerFunc
		length int // of the body that the pack gets, -1 for a failure
	}{
		{"long bodies", func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", fmt.Sprint(3<<20))
			rw.Write(letters)
		}, 3 << 20},
		{"long bodies of unknown length", func(rw http.ResponseWriter, _ *http.Request) {
			rw.(http.Flusher).Flush()
			rw.Write(octets)
		}, 2 << 20},
		{"bodies that quotes make long", func(rw http.ResponseWriter, _ *http.Request) { rw.Write(zeros[:600<<10]) }, 600 << 10},
		{"bodies that quotes make too long", func(rw http.ResponseWriter, _ *http.Request) { rw.Write(zeros) }, -1},
		{"long fields", func(rw http.ResponseWriter, _ *http.Request) {
			for i := range 3 {
				rw.Header().Set(fmt.Sprintf("X-Long-%d", i), field)
			}
		}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.site("big.example", "93.184.216.34", false, test.serve)
			path, before := w.socket(), heap()
			var conns []net.Conn
			for range clients {
				c, err := net.Dial("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(time.Minute))
				if err := uds.WriteFrame(c, []byte(`{"url":"http://big.example/","timeout_seconds":60}`)); err != nil {
					t.Fatal(err)
				}
				conns = append(conns, c)
			}
			most := int64(0)
			for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				most = max(most, heap())
			}
			if most > before+96<<20 {
				t.Errorf("%d answers that nobody reads hold %d MiB", clients, (most-before)>>20)
			}
			// Once they are read, all come.
			var reading errgroup.Group
			for i, c := range conns {
				reading.Go(func() error {
					defer c.Close()
					data, err := uds.ReadFrame(c, frameproto.MaxResponse)
					if err != nil {
						return fmt.Errorf("answer %d: %w", i, err)
					}
					got := decode(t, data)
					if test.length < 0 && got.errorType() != "response_too_large" || test.length >= 0 && (got.Body == nil || len(*got.Body) != test.length) {
						return fmt.Errorf("answer %d: %.200s", i, data)
					}
					return nil
				})
			}
			if err := reading.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Answers that wait for room share a connection with those that have it, which must come to their end.
func TestLongAnswersOverHTTP2InTurn(t *testing.T) {
	w := newWorld(t)
	letters := bytes.Repeat([]byte("x"), 1<<20)
	w.site2("big.example", "93.184.216.34", func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			rw.Header().Set("Content-Length", fmt.Sprint(len(letters)))
			rw.Write(letters)
		}
	})
	path := w.socket()
	if got := w.ask("GET", "https://big.example/"); !got.Success { // a connection for all
		t.Fatalf("the first request fails: %s; want success", got.errorText())
	}
	var asking errgroup.Group
	for i := range session.MaxInFlight {
		c := dialSocket(t, path)
		c.SetDeadline(time.Now().Add(2 * time.Minute))
		asking.Go(func() error {
			if err := uds.WriteFrame(c, []byte(`{"url":"https://big.example/long","timeout_seconds":120}`)); err != nil {
				return err
			}
			data, err := uds.ReadFrame(c, frameproto.MaxResponse)
			if err != nil {
				return fmt.Errorf("answer %d: %w", i, err)
			}
			if got := decode(t, data); got.Body == nil || len(*got.Body) != len(letters) {
				return fmt.Errorf("answer %d: %.200s", i, data)
			}
			return nil
		})
	}
	if err := asking.Wait(); err != nil {
		t.Error(err)
	}
}
