package server_test

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/rpc/server"
)

// deadlines notes the write deadlines that are set.
type deadlines struct {
	http.ResponseWriter
	set *[]time.Time
}

func (d deadlines) SetWriteDeadline(t time.Time) error {
	*d.set = append(*d.set, t)
	return nil
}

// TestDeadlinesMoveOnceASecond: of a connection's answers, the first and each after a second moves the deadline; another connection has its own.
func TestDeadlinesMoveOnceASecond(t *testing.T) {
	var set []time.Time
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cut" {
			server.CutWrite(r.Context(), deadlines{w, &set})
		}
		for range 3 {
			server.ExtendWrite(r.Context(), deadlines{w, &set}, 30*time.Second)
			_, _ = io.WriteString(w, "x")
		}
	}))
	s.Config.ConnContext = server.ConnContext
	s.Start()
	defer s.Close()
	ask := func(c *http.Client, path string) {
		answer, err := c.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if _, err := bufio.NewReader(answer.Body).WriteTo(io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	first, second := &http.Client{Transport: &http.Transport{}}, &http.Client{Transport: &http.Transport{}}
	began := time.Now()
	ask(first, "/")
	ask(first, "/")
	if quick := time.Since(began) < time.Second; quick && len(set) != 1 {
		t.Errorf("two answers of a connection set %d deadlines, want 1", len(set))
	}
	if until := set[0].Sub(began); until < 30*time.Second || until > 40*time.Second {
		t.Errorf("the deadline is %v after the beginning, want 30 s or a little more", until)
	}
	before := len(set)
	ask(second, "/")
	if len(set) != before+1 {
		t.Errorf("the first answer of another connection set %d deadlines, want 1", len(set)-before)
	}
	before = len(set)
	time.Sleep(1100 * time.Millisecond)
	ask(first, "/")
	if len(set) == before {
		t.Error("an answer after a second set no deadline, want one")
	}
	before = len(set)
	ask(first, "/cut")
	if len(set) != before+2 || set[before+1].Sub(set[before]) < 29*time.Second {
		t.Errorf("a cut and the answer after it set the deadlines %v, want 2, the second 30 s later", set[before:])
	}
}
