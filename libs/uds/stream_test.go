package uds

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// lines is an echo that speaks lines of text, too.
type lines struct{ *echo }

func (h lines) Stream(ctx context.Context, s *Stream) {
	in := bufio.NewReader(s)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch line {
		case "wait\n":
			h.entered <- struct{}{}
			select {
			case <-h.release:
			case <-ctx.Done():
				h.ended.Add(1)
			}
		}
		fmt.Fprint(s, "line ", line)
		if in.Buffered() == 0 && !s.WaitIdle() {
			return
		}
	}
}

func sendLine(c net.Conn, in *bufio.Reader, line string) string {
	io.WriteString(c, line+"\n")
	answer, err := in.ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(answer, "\n")
}

func TestTwoProtocols(t *testing.T) {
	path, _ := serve(t, lines{newEcho("a")}, Limits{Request: 1 << 20})
	framed, plain := dial(t, path), dial(t, path)
	in := bufio.NewReader(plain)
	for range 3 {
		if got, err := ask(framed, "Ask"); got != "Ask" || err != nil {
			t.Fatalf("frame: %q, %v, want %q", got, err, "Ask")
		}
		if got := sendLine(plain, in, "Get"); got != "line Get" {
			t.Fatalf("the line's answer is %q, want \"line Get\"", got)
		}
	}
	// What is neither is answered as a frame, and so is everything where the handler has one protocol only.
	neither := dial(t, path)
	io.WriteString(neither, "\x80\x00\x00\x01")
	if got, err := ReadFrame(neither, 1<<20); err != nil || !strings.HasPrefix(string(got), "refused:") {
		t.Errorf("got %q, %v, want a frame that begins with \"refused:\"", got, err)
	}
	path, _ = serve(t, newEcho("b"), Limits{Request: 1 << 20})
	one := dial(t, path)
	io.WriteString(one, "GET ")
	if got, err := ReadFrame(one, 1<<20); err != nil || !strings.HasPrefix(string(got), "refused:") {
		t.Errorf("got %q, %v, want a frame that begins with \"refused:\"", got, err)
	}
}

// Idle streams are closed to admit others and don't hold up the end; busy ones are ended by it.
func TestIdleStreams(t *testing.T) {
	h := lines{newEcho("a")}
	path, stop := serve(t, h, Limits{Conns: 2, Drain: 50 * time.Millisecond})
	busy, idle := dial(t, path), dial(t, path)
	io.WriteString(busy, "wait\n")
	<-h.entered
	in := bufio.NewReader(idle)
	if got := sendLine(idle, in, "one"); got != "line one" {
		t.Fatalf("the idle connection's answer is %q, want \"line one\"", got)
	}
	third := dial(t, path)
	if got := sendLine(third, bufio.NewReader(third), "two"); got != "line two" {
		t.Fatalf("the third connection's answer is %q, want \"line two\"", got)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("the idle connection: got %v, want EOF", err)
	}
	stop()
	if h.ended.Load() != 1 {
		t.Error("the context of the busy one has not ended")
	}
	for _, c := range []net.Conn{busy, third} {
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("after the end: %v", err)
		}
	}
}
