package call_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/call"
)

// socket serves a principal's socket.
func (r *replica) socket(principal string) (path string) {
	r.t.Helper()
	dir, err := os.MkdirTemp("", "rumi") // t.TempDir's names may be too long for a socket's address
	if err != nil {
		r.t.Fatal(err)
	}
	l, err := uds.Listen(uds.Config{Dir: dir, Name: uds.DirName(principal), GID: -1})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		uds.Serve(ctx, l, r.calls.Socket(principal), uds.Limits{Request: call.MaxRequest, Conns: call.MaxConns, Drain: time.Millisecond}, discard)
	})
	r.t.Cleanup(func() { cancel(); serving.Wait(); os.RemoveAll(dir) })
	return l.Path()
}

// A pack that reads none of its long answers has its own further ones wait, and the process hold little.
func TestUnreadOutputsHoldLittle(t *testing.T) {
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	r := newReplica(t, sqlite(t))
	r.install("x", "")
	r.grant("p", "fs.read", "{}")
	r.grant("q", "fs.read", "{}")
	r.output = jsontext.Value(`"` + strings.Repeat("x", 1000<<10) + `"`)
	dial := func(path string) net.Conn {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(time.Minute))
		if err := uds.WriteFrame(c, []byte(`{"permission_id": "fs.read", "args": {}, "timeout_seconds": 60}`)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	read := func(c net.Conn) error {
		data, err := uds.ReadFrame(c, call.MaxResponse)
		if err != nil {
			return err
		}
		var got reply
		if err := json.Unmarshal(data, &got); err != nil {
			return fmt.Errorf("%.200s: %w", data, err)
		}
		if len(got.Output) != len(r.output) {
			return fmt.Errorf("an output of %d bytes, want %d: %.200s", len(got.Output), len(r.output), data)
		}
		return nil
	}
	path, other, before := r.socket("p"), r.socket("q"), heap()
	var conns []net.Conn
	for range call.MaxConns {
		conns = append(conns, dial(path))
	}
	most := int64(0)
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		most = max(most, heap())
	}
	if most > before+48<<20 {
		t.Errorf("%d answers that nobody reads hold %d MiB", len(conns), (most-before)>>20)
	}
	if err := read(dial(other)); err != nil {
		t.Errorf("another pack: %v", err)
	}
	var reading errgroup.Group // once they are read, all come
	for _, c := range conns {
		reading.Go(func() error { return read(c) })
	}
	if err := reading.Wait(); err != nil {
		t.Error(err)
	}
}
