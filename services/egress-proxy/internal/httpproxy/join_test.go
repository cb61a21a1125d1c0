package httpproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/record"
)

// halves is one end of a connection of which each direction can be closed by itself.
type halves struct{ in, out net.Conn }

func (h halves) Read(p []byte) (int, error)  { return h.in.Read(p) }
func (h halves) Write(p []byte) (int, error) { return h.out.Write(p) }
func (h halves) CloseWrite() error           { return h.out.Close() }
func (h halves) Close() error                { return errors.Join(h.in.Close(), h.out.Close()) }

func newHalves() (near, far halves) {
	a, b := net.Pipe()
	c, d := net.Pipe()
	return halves{a, c}, halves{d, b}
}

// joined is a client and a server, joined, in virtual time.
type joined struct {
	client, server halves // the far ends
	gone           context.CancelFunc
	took           <-chan time.Duration // until join has returned
}

func newJoined() *joined {
	client, near := newHalves()
	far, server := newHalves()
	counter := new(record.Transfer)
	counted := countedEnd{far, counter}
	ctx, cancel := context.WithCancel(context.Background())
	took := make(chan time.Duration, 1)
	go func() {
		began := time.Now()
		join(ctx, near, counted, counter.Bytes)
		took <- time.Since(began)
	}()
	return &joined{client, server, cancel, took}
}

// countedEnd counts as the kernel does.
type countedEnd struct {
	halves
	transfer *record.Transfer
}

func (c countedEnd) Read(p []byte) (int, error) {
	n, err := c.halves.Read(p)
	c.transfer.AddReceived(n)
	return n, err
}

func (c countedEnd) Write(p []byte) (int, error) {
	n, err := c.halves.Write(p)
	c.transfer.AddSent(n)
	return n, err
}

// One direction of a tunnel doesn't wait for ever when the other has ended.
func TestJoinEnds(t *testing.T) {
	const slack = 2 * afterEndPoll
	for name, test := range map[string]struct {
		do       func(j *joined)
		from, to time.Duration
	}{
		"client half closes, server is silent": {func(j *joined) { j.client.CloseWrite() }, afterEnd, afterEnd + slack},
		"server half closes, client is silent": {func(j *joined) { j.server.CloseWrite() }, afterEnd, afterEnd + slack},
		"both end": {func(j *joined) {
			j.client.CloseWrite()
			j.server.CloseWrite()
		}, 0, 0},
		"client half closes, server goes on for a while": {func(j *joined) {
			j.client.CloseWrite()
			go io.Copy(io.Discard, j.client)
			for range 10 {
				time.Sleep(afterEnd - time.Second)
				io.WriteString(j.server, "still here")
			}
		}, 10*(afterEnd-time.Second) + afterEnd, 10*(afterEnd-time.Second) + afterEnd + slack},
		"server half closes, client goes on for a while": {func(j *joined) {
			j.server.CloseWrite()
			go io.Copy(io.Discard, j.server)
			for range 10 {
				time.Sleep(afterEnd - time.Second)
				io.WriteString(j.client, "still here")
			}
		}, 10*(afterEnd-time.Second) + afterEnd, 10*(afterEnd-time.Second) + afterEnd + slack},
		"both are silent for days, then the server breaks": {func(j *joined) {
			time.Sleep(72 * time.Hour)
			j.server.Close()
			j.client.Close()
		}, 72 * time.Hour, 72 * time.Hour},
		"client half closes, then is gone": {func(j *joined) {
			j.client.CloseWrite()
			time.Sleep(time.Second)
			j.gone()
		}, time.Second, time.Second},
		"client is gone with something unread, which the server takes": {func(j *joined) {
			go io.WriteString(j.client, "last words")
			synctest.Wait()
			j.gone()
			time.Sleep(time.Second)
			got := make([]byte, len("last words"))
			if _, err := io.ReadFull(j.server, got); err != nil || string(got) != "last words" {
				t.Errorf("the server got %q, %v; want the client's last words", got, err)
			}
			j.client.CloseWrite()
		}, time.Second, time.Second},
		"client is gone, and the server takes nothing of what it had sent": {func(j *joined) {
			go io.WriteString(j.client, "last words")
			j.gone()
		}, afterEnd, afterEnd + slack},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newJoined()
				test.do(j)
				if took := <-j.took; took < test.from || took > test.to {
					t.Errorf("ended after %v, want %v to %v", took, test.from, test.to)
				}
				j.gone()
				j.client.Close()
				j.server.Close()
				time.Sleep(time.Second) // who still writes notices
			})
		})
	}
}
