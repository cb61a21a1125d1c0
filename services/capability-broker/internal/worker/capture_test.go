package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

func openLogs(t *testing.T) (*Logs, string) {
	t.Helper()
	dir := t.TempDir()
	l, err := NewLogs(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l, filepath.Join(dir, "o", "s.log")
}

// shown is a log in short: request, stream and text of each line.
func shown(t *testing.T, l *Logs) string {
	t.Helper()
	lines, err := l.Tail("o", "s", 1000)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, line := range lines {
		if line.TS.IsZero() || time.Since(line.TS) > time.Minute {
			t.Errorf("a line's time is %v, want it within the last minute", line.TS)
		}
		fmt.Fprintf(&b, "%s/%s/%q ", line.RequestID, line.Stream, line.Text)
	}
	return strings.TrimSpace(b.String())
}

func TestCapture(t *testing.T) {
	const begin, end, toErr, toOut = "\x1ec1 begin\x1f", "\x1ec1 end\x1f", "\x1ec1 stderr\x1f", "\x1ec1 stdout\x1f"
	for name, c := range map[string]struct{ printed, want string }{
		"nothing":              {"", ""},
		"before any call":      {"python3: no such file\n", `/stderr/"python3: no such file"`},
		"one call":             {begin + "a\nb\n" + end, `r1/stdout/"a" r1/stdout/"b"`},
		"both streams":         {begin + "a\n" + toErr + "b\n" + toOut + "c\n" + end, `r1/stdout/"a" r1/stderr/"b" r1/stdout/"c"`},
		"lines without end":    {begin + "a" + toErr + "b" + end + "c", `r1/stdout/"a" r1/stderr/"b" /stderr/"c"`},
		"left behind":          {begin + end + "a\n", `/stderr/"a"`},
		"overtaken":            {begin + "a\n" + end + "\x1ec2 begin\x1fb\n\x1ec2 end\x1f", `r1/stdout/"a" r2/stdout/"b"`},
		"a forged mark":        {begin + "\x1ec9 begin\x1fa\n" + end, `r1/stdout/"\x1ec9 begin\x1fa"`},
		"a word that is none":  {begin + "\x1ec1 more\x1fa\n", `r1/stdout/"\x1ec1 more\x1fa"`},
		"half a mark, at last": {begin + "a\x1ec1 be", `r1/stdout/"a\x1ec1 be"`},
		"half a mark, a line":  {begin + "\x1ec1 be\na\n", `r1/stdout/"\x1ec1 be" r1/stdout/"a"`},
		"marks in a row":       {begin + "\x1e\x1e\x1ec1 stderr\x1fa\n", `r1/stdout/"\x1e\x1e" r1/stderr/"a"`},
		"a mark without end":   {begin + "\x1e" + strings.Repeat("x", 200) + "\n", `r1/stdout/"\x1e` + strings.Repeat("x", 200) + `"`},
		"empty lines":          {begin + "\n\n" + end, `r1/stdout/"" r1/stdout/""`},
		"not UTF-8":            {begin + "a\xffb\n", `r1/stdout/"a` + string(utf8.RuneError) + `b"`},
		"a long line":          {begin + strings.Repeat("x", maxLine+1) + "\n", `r1/stdout/"` + strings.Repeat("x", maxLine) + `" r1/stdout/"x"`},
	} {
		for _, step := range []int{1, 3, 1 << 20} { // however it comes in pieces
			l, _ := openLogs(t)
			n := newCapture(l.of("o", "s"))
			n.announce("c1", "r1")
			n.announce("c2", "r2")
			for left := c.printed; left != ""; {
				piece := left[:min(step, len(left))]
				left = left[len(piece):]
				if wrote, err := n.Write([]byte(piece)); err != nil || wrote != len(piece) {
					t.Fatalf("wrote %d, %v; want %d", wrote, err, len(piece))
				}
			}
			n.Close()
			if c.want == "" {
				continue
			}
			if got := shown(t, l); got != c.want {
				t.Errorf("%s, in pieces of %d: got %.300s, want %.300s", name, step, got, c.want)
			}
		}
	}
}

// However much is printed, in however short lines, the files have a bound, and the log says what isn't in it.
func TestLogsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, path := openLogs(t)
		n := newCapture(l.of("o", "s"))
		piece := []byte(strings.Repeat("\n", 32<<10))
		for range 60 * 10 {
			for range 10 {
				_, _ = n.Write(piece)
			}
			time.Sleep(100 * time.Millisecond)
		}
		var size int64
		for _, name := range []string{path, path + ".1"} {
			info, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if size += info.Size(); info.Size() > maxLog+2*logStep {
				t.Errorf("%s has %d bytes, want at most %d", name, info.Size(), maxLog+2*logStep)
			}
		}
		if size < maxLog {
			t.Errorf("%d bytes are kept of a minute's output", size)
		}
		time.Sleep(time.Hour)
		_, _ = n.Write([]byte("after\n"))
		lines, err := l.Tail("o", "s", 100_000)
		if err != nil || lines[len(lines)-1].Text != "after" {
			t.Fatalf("the last line is %+v, %v; want \"after\"", lines[len(lines)-1], err)
		}
		said := false
		for _, line := range lines {
			said = said || line.Text == "[output dropped: too much at once]"
		}
		if !said {
			t.Error("the log doesn't say that there is more")
		}
	})
}

func TestTail(t *testing.T) {
	l, path := openLogs(t)
	if _, err := l.Tail("o", "s", 10); !errors.Is(err, ErrNoLog) {
		t.Errorf("without a log: got %v, want ErrNoLog", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	// An earlier version's, whose lines have no time and no request, and then one cut by a crash.
	if err := os.WriteFile(path+".1", []byte("Traceback:\n{\"a\": 1}\nhalf"), 0o640); err != nil {
		t.Fatal(err)
	}
	n := newCapture(l.of("o", "s"))
	_, _ = n.Write([]byte("new\n"))
	lines, err := l.Tail("o", "s", 10)
	if err != nil || len(lines) != 3 || lines[0].Text != "Traceback:" || lines[1].Text != `{"a": 1}` || lines[2].Text != "new" || !lines[0].TS.IsZero() {
		t.Errorf("got %+v, %v; want a traceback, some JSON and \"new\"", lines, err)
	}
	if lines, err = l.Tail("o", "s", 1); err != nil || len(lines) != 1 || lines[0].Text != "new" {
		t.Errorf("the last line is %+v, %v; want \"new\"", lines, err)
	}
}

// Nothing is missed and nothing comes twice, whenever the file is moved away.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, path := openLogs(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var gone atomic.Bool
		got := make(chan string, 10_000)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for line, err := range l.Follow(ctx, "o", "s", 2, func() bool { return !gone.Load() }) {
				if err != nil {
					t.Error(err)
				}
				got <- line.Text
			}
		}()
		time.Sleep(time.Second) // there is no file
		n := newCapture(l.of("o", "s"))
		const lines, size = 3000, 1000
		for i := range lines {
			fmt.Fprintf(n, "%d %s\n", i, strings.Repeat("x", size))
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if _, err := os.Stat(path + ".1"); err != nil {
			t.Fatalf("the file was never moved: %v", err)
		}
		for i := range lines {
			var text string
			select {
			case text = <-got:
			default:
			}
			if !strings.HasPrefix(text, fmt.Sprint(i, " ")) {
				t.Fatalf("line %d: got %.20q, want it to begin with its number", i, text)
			}
		}
		gone.Store(true)
		<-done
	})
}
