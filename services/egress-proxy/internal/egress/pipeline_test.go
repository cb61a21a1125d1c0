package egress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/uds"
)

// Requests that a pack sends without waiting are answered in order, each as it would be alone.
func TestRequestsSentTogether(t *testing.T) {
	w := newWorld(t)
	w.grants["p"] = []string{"ok.example"}
	w.site("ok.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, r.URL.Path) })
	c, err := net.Dial("unix", w.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	var frames []byte
	const rounds = 50
	requests := []struct{ frame, kind string }{
		{`{"url":"http://no.example/%d"}`, "grant_denied"},
		{`{"url":"ftp://no.example/%d"}`, "validation_error"},
		{`{"url":"http://ok.example/%d"}`, ""},
		{`not JSON %d`, "protocol_error"},
	}
	for i := range rounds {
		for _, r := range requests {
			frame := fmt.Sprintf(r.frame, i)
			frames = append(binary.BigEndian.AppendUint32(frames, uint32(len(frame))), frame...)
		}
	}
	go c.Write(frames)
	for i := range rounds {
		for _, r := range requests {
			data, err := uds.ReadFrame(c, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			got := decode(t, data)
			if got.errorType() != r.kind || r.kind == "" && *got.Body != fmt.Sprintf("/%d", i) {
				t.Fatalf("round %d: %s, want %q", i, data, r.kind)
			}
		}
	}
	if n := len(w.audited()); n != rounds*(len(requests)+1) {
		t.Errorf("%d entries, want %d", n, rounds*(len(requests)+1))
	}

	w.mu.Lock()
	w.auditErr = errors.New("no space left")
	w.mu.Unlock()
	for range 3 {
		if got := w.ask("GET", "http://no.example/"); got.errorType() != "internal_error" {
			t.Errorf("a denial was answered without an entry: %s, want internal_error", got.errorText())
		}
	}
}

// A pack that is refused without end is answered as before, its counters go on, and its entries don't.
func TestRefusalsAreCounted(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Refusals = 10 })
	w.grants["p"] = nil
	const times = 1000
	for i := range times {
		if got := w.ask("GET", fmt.Sprintf("http://h%d.example/", i)); got.errorType() != "grant_denied" {
			t.Fatalf("got %s %q, want grant_denied", got.errorType(), got.errorText())
		}
		if got := w.ask("GET", "ftp://x/"); got.errorType() != "validation_error" {
			t.Fatalf("got %s %q, want validation_error", got.errorType(), got.errorText())
		}
	}
	if err := w.proxy.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	counted, lines := map[string]int64{}, 0
	for _, e := range w.audited() {
		lines++
		n, ok := e.Details["count"].(int64)
		if !ok {
			n = 1
		}
		counted[e.Category.String()] += n
		if e.Success || e.OwnerPack != "p" || e.Details["allowed"] != false {
			t.Errorf("entry of a refusal: %+v, want no success, of pack p, not allowed", e)
		}
	}
	if lines != 11*3+3 || counted["security"] != times || counted["network"] != 2*times {
		t.Errorf("%d entries stand for %v; want %d, which stand for %d in security and %d in network", lines, counted, 11*3+3, times, 2*times)
	}
	if got := w.counts(); got["denied/grant_denied"] != times || got["failed/validation_error"] != times {
		t.Errorf("counters are %v, want %d of denied/grant_denied and of failed/validation_error", got, times)
	}
}
