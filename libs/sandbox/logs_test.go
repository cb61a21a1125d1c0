package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
)

// logAPI stands for an engine with one container: what a followed log of it gives, and what one does that is read to its end.
type logAPI struct {
	client.APIClient
	followed, kept []string
}

func (a *logAPI) ContainerInspect(_ context.Context, id string) (container.InspectResponse, error) {
	return container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: id, Created: time.Now().Format(time.RFC3339Nano), State: &container.State{Status: "running"}},
		Config:            &container.Config{Labels: map[string]string{labelInstance: "test"}},
	}, nil
}

func (a *logAPI) ContainerLogs(_ context.Context, _ string, o container.LogsOptions) (io.ReadCloser, error) {
	frames := a.kept
	if o.Follow {
		frames = a.followed
	}
	var out bytes.Buffer
	for _, f := range frames {
		stream, text, _ := strings.Cut(f, " ")
		kind := stdcopy.Stdout
		if stream == "err" {
			kind = stdcopy.Stderr
		}
		if _, err := stdcopy.NewStdWriter(&out, kind).Write([]byte(text + "\n")); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(&out), nil
}

func withAPI(t *testing.T, api client.APIClient) *Engine {
	t.Helper()
	e, err := Connect(t.Context(), Config{Host: "tcp://127.0.0.1:1", Instance: "test"})
	if err != nil {
		t.Fatal(err)
	}
	e.api.Close()
	e.api = api
	e.negotiated.Store(true)
	return e
}

// frames are "out <time> <text>" for the numbers from..to, a second each.
func frames(from, to int) (list []string) {
	for n := from; n <= to; n++ {
		list = append(list, frameAt("out", n, fmt.Sprint(n)))
	}
	return list
}

func frameAt(stream string, second int, text string) string {
	return stream + " " + time.Date(2026, 1, 1, 12, 0, second, 0, time.UTC).Format(time.RFC3339Nano) + " " + text
}

func join(lists ...[]string) []string { return slices.Concat(lists...) }

func texts(from, to int) (list []string) {
	for n := from; n <= to; n++ {
		list = append(list, fmt.Sprint(n))
	}
	return list
}

// What a followed log gives where its engine repeats lines, leaves some out, ends early, or had its clock set.
func TestFollowedLogOverRotations(t *testing.T) {
	one := func(stream string, second int, text string) []string { return []string{frameAt(stream, second, text)} }
	for name, c := range map[string]struct {
		followed, kept []string
		tail           int
		want           []string
	}{
		"whole":                                 {frames(1, 5), frames(1, 5), 0, texts(1, 5)},
		"it ends early":                         {frames(1, 3), frames(1, 5), 0, texts(1, 5)},
		"a file comes twice":                    {join(frames(1, 6), frames(3, 6), frames(7, 8)), frames(5, 8), 0, texts(1, 8)},
		"a file comes three times":              {join(frames(1, 6), frames(3, 6), frames(3, 9)), frames(5, 9), 0, texts(1, 9)},
		"a part comes twice":                    {join(frames(1, 6), frames(2, 3), frames(7, 8)), frames(1, 8), 0, texts(1, 8)},
		"lines are left out and kept":           {join(frames(1, 2), frames(6, 8)), frames(1, 9), 0, join(texts(1, 2), texts(6, 8), []string{gapLate}, texts(3, 5), texts(9, 9))},
		"lines are left out, the beginning too": {join(frames(1, 2), frames(6, 8)), frames(2, 9), 0, join(texts(1, 2), texts(6, 8), []string{gapLate}, texts(3, 5), texts(9, 9))},
		"the last lines aren't kept":            {frames(1, 3), frames(7, 9), 0, join(texts(1, 3), []string{gapLost}, texts(7, 9))},
		"nothing is kept":                       {frames(1, 3), nil, 0, texts(1, 3)},
		"a tail":                                {frames(4, 6), frames(1, 8), 3, texts(4, 8)},
		"a tail of nothing":                     {nil, frames(1, 2), 3, texts(1, 2)},
		"the clock is set back":                 {join(frames(30, 33), frames(1, 3)), join(frames(30, 33), frames(1, 5)), 0, join(texts(30, 33), texts(1, 5))},
		"set back to the same times": {join(frames(1, 3), one("out", 2, "new"), one("out", 3, "3, too")), join(frames(1, 3), one("out", 2, "new"), one("out", 3, "3, too")), 0,
			[]string{"1", "2", "3", "new", "3, too"}},
		"set back after the end":        {frames(30, 33), join(frames(30, 33), frames(1, 3)), 0, join(texts(30, 33), texts(1, 3))},
		"set back, and a file twice":    {join(frames(30, 33), frames(1, 3), frames(31, 33), frames(1, 4)), join(frames(30, 33), frames(1, 5)), 0, join(texts(30, 33), texts(1, 5))},
		"set ahead":                     {join(frames(1, 2), frames(3000, 3001)), join(frames(1, 2), frames(3000, 3002)), 0, join(texts(1, 2), texts(3000, 3002))},
		"equal lines of a coarse clock": {join(one("out", 1, "x"), one("out", 1, "x"), one("out", 1, "x")), join(one("out", 1, "x"), one("out", 1, "x"), one("out", 1, "x"), one("out", 1, "x")), 0, []string{"x", "x", "x", "x"}},
		"the other stream ends early":   {frames(1, 3), join(frames(1, 2), one("err", 2, "e"), frames(3, 3)), 0, []string{"1", "2", "3", "e"}},
		"both streams, with a tail":     {join(frames(4, 5), one("err", 5, "e")), join(frames(1, 2), one("err", 3, "old"), frames(4, 5), one("err", 5, "e"), one("err", 6, "f")), 3, []string{"4", "5", "e", "f"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := withAPI(t, &logAPI{followed: c.followed, kept: c.kept})
			var got []string
			for line, err := range e.Logs(t.Context(), "c", LogOptions{Follow: true, Tail: c.tail}) {
				if err != nil {
					t.Fatal(err)
				}
				if (line.Stream == GapStream) != (line.Text == gapLate || line.Text == gapLost) {
					t.Errorf("%q is of the stream %s", line.Text, line.Stream)
				}
				got = append(got, line.Text)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// What is remembered of a log has a bound, and what is older is neither repeated nor taken for left out.
func TestFollowedLogLongerThanItsHistory(t *testing.T) {
	long := frames(1, maxIndexed+1000)
	e := withAPI(t, &logAPI{followed: join(long, long[maxIndexed/2:]), kept: join(long, frames(maxIndexed+1001, maxIndexed+1001))})
	count, last := 0, ""
	for line, err := range e.Logs(t.Context(), "c", LogOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		count, last = count+1, line.Text
	}
	if want := maxIndexed + 1001; count != want || last != fmt.Sprint(want) {
		t.Errorf("%d lines to %q, want %d", count, last, want)
	}
}
