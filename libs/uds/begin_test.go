package uds

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
)

// steps is an echo that decides at once what begins with "d", and notes in which order things happen.
type steps struct {
	*echo
	mu    sync.Mutex
	order []string
}

type step struct {
	*steps
	text string
	ctx  context.Context
}

func (h *steps) note(what, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.order = append(h.order, what+" "+text)
}

func (h *steps) Begin(ctx context.Context, request []byte) Pending {
	h.note("begin", string(request))
	return step{h, string(request), ctx}
}

func (s step) Decided() bool { return s.text[0] == 'd' }

func (s step) Finish(dst []byte) []byte {
	s.note("finish", s.text)
	return s.Answer(s.ctx, []byte(s.text), dst)
}

func pipeline(c net.Conn, requests ...string) error {
	var out []byte
	for _, r := range requests {
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(r))), r...)
	}
	_, err := c.Write(out)
	return err
}

func TestPipeline(t *testing.T) {
	for name, c := range map[string]struct {
		requests, answers, order []string
	}{
		"decided": { // are begun together
			[]string{"d1", "d2", "d3"}, []string{"d1", "d2", "d3"},
			[]string{"begin d1", "begin d2", "begin d3", "finish d1", "finish d2", "finish d3"},
		},
		"slow": { // nothing is begun before it is over
			[]string{"d1", "u2", "d3", "d4"}, []string{"d1", "u2", "d3", "d4"},
			[]string{"begin d1", "begin u2", "finish d1", "finish u2", "begin d3", "begin d4", "finish d3", "finish d4"},
		},
		"broken": { // is refused in its turn
			[]string{"d1", "d2", ""}, []string{"d1", "d2", "refused: " + ErrEmpty.Error(), ""}, nil,
		},
		"silent": { // ends the connection after those before it were answered
			[]string{"d1", "nothing", "d3"}, []string{"d1", ""}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := &steps{echo: newEcho("a")}
			path, _ := serve(t, h, Limits{})
			conn := dial(t, path)
			if err := pipeline(conn, c.requests...); err != nil {
				t.Fatal(err)
			}
			for _, want := range c.answers {
				got, err := ReadFrame(conn, 1<<20)
				if string(got) != want || (err != nil) != (want == "") {
					t.Fatalf("answer %q, %v; want %q", got, err, want)
				}
			}
			if c.order != nil && fmt.Sprint(h.order) != fmt.Sprint(c.order) {
				t.Errorf("order %v, want %v", h.order, c.order)
			}
		})
	}
}

// A request that is decided is answered while the one behind it still runs.
func TestAnswersDoNotWaitForSlowRequests(t *testing.T) {
	h := &steps{echo: newEcho("a")}
	path, _ := serve(t, h, Limits{})
	conn := dial(t, path)
	if err := pipeline(conn, "d1", "wait"); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFrame(conn, 100); string(got) != "d1" || err != nil {
		t.Fatalf("got %q, %v, want %q", got, err, "d1")
	}
	<-h.entered
	close(h.release)
	if got, err := ReadFrame(conn, 100); string(got) != "wait" || err != nil {
		t.Fatalf("got %q, %v, want %q", got, err, "wait")
	}
}

// However many are sent at once, all are answered, in order.
func TestLongPipeline(t *testing.T) {
	path, _ := serve(t, &steps{echo: newEcho("a")}, Limits{})
	conn := dial(t, path)
	requests := make([]string, 1000)
	for i := range requests {
		requests[i] = fmt.Sprintf("%c%d", "du"[i/100%2], i)
	}
	go pipeline(conn, requests...)
	for _, want := range requests {
		if got, err := ReadFrame(conn, 100); string(got) != want || err != nil {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	}
}
