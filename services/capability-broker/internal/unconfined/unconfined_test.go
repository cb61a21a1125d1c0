package unconfined

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

func TestNamesOfMountsAreChanged(t *testing.T) {
	mounts := []sandbox.Mount{{Source: "/home/x/tree", Target: "/pack"}, {Source: "/var/e", Target: "/run/rumi/egress"}}
	for path, want := range map[string]string{
		"/pack": "/home/x/tree", "/pack/backend/main.py": "/home/x/tree/backend/main.py", "/packs": "/packs", "pack": "pack", "": "",
		"/run/rumi/egress/rumi.sock": "/var/e/rumi.sock", "/run/rumi": "/run/rumi", "a=/pack": "a=/pack",
	} {
		if got := hostPath(mounts, path); got != want {
			t.Errorf("%q is %q here, want %q", path, got, want)
		}
	}
}

func TestCommands(t *testing.T) {
	e := &Engine{Config: Config{RuntimeDir: "/r"}, python: "/bin/python3"}
	for want, command := range map[string][]string{
		"/bin/python3 -u /r/worker/rumi_worker.py": {"rumi-runtime", "serve"},
		"/bin/python3 -u /src/backend/main.py --x": {"rumi-runtime", "run", "backend/main.py", "--x"},
		"/bin/python3 -u /src/main.py":             {"rumi-runtime", "run", "--", "/pack/main.py"},
		"node /src/index.js":                       {"rumi-runtime", "run", "--", "node", "/pack/index.js"},
		"":                                         {"rumi-runtime", "run", "--"},
		" ":                                        {"sh", "-c", "true"},
	} {
		argv, err := e.command(sandbox.Spec{Command: command, Dir: "/pack", Mounts: []sandbox.Mount{{Source: "/src", Target: "/pack"}}})
		if strings.TrimSpace(want) == "" {
			if err == nil {
				t.Errorf("%q is run as %q, want an error", command, argv)
			}
			continue
		}
		if got := strings.Join(argv, " "); err != nil || got != want {
			t.Errorf("%q is %q, want %q (%v)", command, got, want, err)
		}
	}
}

func TestOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutput()
		write := func(stream, text string) { fmt.Fprint(o.stream(stream), text) }
		write("stdout", "one\ntw")
		write("stderr", "oops\n")
		write("stdout", "o\n"+strings.Repeat("x", maxLine+1))
		texts := func(lines []sandbox.Line) (all []string) {
			for _, l := range lines {
				all = append(all, l.Stream+" "+l.Text)
			}
			return all
		}
		lines, next, more := o.next(t.Context(), 0, false)
		if want := []string{"stdout one", "stderr oops", "stdout two", "stdout " + strings.Repeat("x", maxLine)}; !slices.Equal(texts(lines), want) || !more || next != 4 {
			t.Errorf("%.40q, next %d, more %v; want %.40q, next 4, and more", texts(lines), next, more, want)
		}
		// Who waits gets what comes, and is freed by the end and by its own.
		got := make(chan []sandbox.Line, 1)
		wait := func(ctx context.Context) { lines, _, _ := o.next(ctx, next, true); got <- lines }
		go wait(t.Context())
		synctest.Wait()
		write("stderr", "late\n")
		if lines := <-got; !slices.Equal(texts(lines), []string{"stderr late"}) {
			t.Errorf("the lines are %q, want what was written while it waited", texts(lines))
		}
		next++
		ctx, cancel := context.WithCancel(t.Context())
		go wait(ctx)
		synctest.Wait()
		cancel()
		if lines := <-got; len(lines) != 0 {
			t.Errorf("the lines are %q, want none", texts(lines))
		}
		go wait(t.Context())
		synctest.Wait()
		o.end()
		if lines := <-got; !slices.Equal(texts(lines), []string{"stdout x"}) {
			t.Errorf("the lines are %q, want the one printed before the end", texts(lines))
		}
		// The last 4 MiB are kept.
		for range 100 {
			write("stdout", strings.Repeat("y", maxLine)+"\n")
		}
		if lines, next, _ := o.next(t.Context(), 0, false); len(lines) != maxKept/(maxLine+lineCost) || next != 106 {
			t.Errorf("%d lines are kept, next %d; want %d, next 106", len(lines), next, maxKept/(maxLine+lineCost))
		}
	})
}

// Lines without text take memory, too.
func TestEmptyLinesAreBounded(t *testing.T) {
	o := newOutput()
	w := o.stream("stdout")
	for range 2 * maxKept / lineCost / 4096 {
		if _, err := w.Write(bytes.Repeat([]byte("\n"), 4096)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(o.lines); n == 0 || n > maxKept/lineCost {
		t.Errorf("%d lines are kept, want at least one and at most %d", n, maxKept/lineCost)
	}
}
