package client

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipe is a connection that no certificate limits.
type pipe struct{ net.Conn }

func (pipe) Retired() bool { return false }

// parked gives d an idle connection and its other end.
func parked(d *direct) net.Conn {
	ours, theirs := net.Pipe()
	d.put(&directConn{raw: pipe{ours}, in: bufio.NewReader(ours)})
	return theirs
}

func open(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return !errors.Is(err, io.EOF)
}

func kept(d *direct) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.idle)
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirect(nil, securing{})
		first := parked(d)
		time.Sleep(idleTimeout / 2)
		second := parked(d)
		time.Sleep(idleTimeout/2 + time.Second)
		if open(first) || !open(second) {
			t.Errorf("after %v: the first is open: %v, the second: %v; want the second alone", idleTimeout, open(first), open(second))
		}
		time.Sleep(idleTimeout / 2)
		if open(second) || kept(d) != 0 {
			t.Errorf("the second is open: %v; %d are kept", open(second), kept(d))
		}
		third := parked(d) // after everything was closed
		time.Sleep(idleTimeout + time.Second)
		if open(third) {
			t.Error("the third is open")
		}
	})
}

func TestConnectionsOfRemovedInstancesAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirect(nil, securing{})
		idle := parked(d)
		d.Close()
		busy := parked(d) // its answer came later
		if open(idle) || open(busy) {
			t.Error("a connection outlives its instance")
		}
	})
}

func TestIdleConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirect(nil, securing{})
		for range maxIdle {
			parked(d)
		}
		if one := parked(d); open(one) || kept(d) != maxIdle {
			t.Errorf("%d connections are kept, want %d, and the one more closed", kept(d), maxIdle)
		}
		d.Close()
	})
}

func TestRequestsOfTheDirectClient(t *testing.T) {
	request := func(method string, body io.Reader, headers ...string) *http.Request {
		r, err := http.NewRequest(method, "https://x/", body)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range headers {
			r.Header.Set(h, "x")
		}
		return r
	}
	for name, c := range map[string]struct {
		r    *http.Request
		want bool
	}{
		"no body":      {request("GET", nil), true},
		"in memory":    {request("POST", strings.NewReader("{}")), true},
		"large":        {request("POST", strings.NewReader(strings.Repeat("x", connBuffer+1))), false},
		"from outside": {request("POST", io.MultiReader(strings.NewReader("{}"))), false},
		"upgrade":      {request("GET", nil, "Upgrade"), false},
		"expect":       {request("POST", strings.NewReader("{}"), "Expect"), false},
	} {
		if got := takes(c.r); got != c.want {
			t.Errorf("%s: takes it: %v, want %v", name, got, c.want)
		}
	}
}
