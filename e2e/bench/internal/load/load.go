// Package load sends requests to servers over real sockets and measures rate, latency and processor time. All contestants get the same load from
// the same code, and take turns: on a machine with other work, only measurements close in time can be compared.
package load

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Contestant is a server that is compared with others.
type Contestant struct {
	Name string
	Open func() (*Client, error) // with a connection of its own
	PIDs []int                   // of its processes, for the processor time they take; may be empty
}

// Summary is the result of one contestant: medians over its rounds.
type Summary struct {
	Rate     float64 // requests a second
	P50, P99 time.Duration
	CPU      time.Duration // processor time of the contestant's processes for each request; 0 without PIDs. Other work of the machine doesn't change it.
}

// Plan says how contestants are measured.
type Plan struct {
	InFlight int           // clients that each have one request in flight
	Rounds   int           // of each contestant
	Each     time.Duration // the length of a round
}

// Compare measures the contestants in turns, A B A B, and returns a summary of each, in their order. Before its first turn a contestant warms up
// for a tenth of a round, which isn't counted.
func Compare(ctx context.Context, p Plan, contestants ...Contestant) ([]Summary, error) {
	rounds := make([][]Summary, len(contestants))
	for round := range p.Rounds {
		for i, c := range contestants {
			if round == 0 {
				if _, err := turn(ctx, p.InFlight, p.Each/10, c); err != nil {
					return nil, err
				}
			}
			s, err := turn(ctx, p.InFlight, p.Each, c)
			if err != nil {
				return nil, err
			}
			rounds[i] = append(rounds[i], s)
		}
	}
	result := make([]Summary, len(contestants))
	for i, all := range rounds {
		result[i] = Summary{
			Rate: Median(all, func(s Summary) float64 { return s.Rate }),
			P50:  Median(all, func(s Summary) time.Duration { return s.P50 }),
			P99:  Median(all, func(s Summary) time.Duration { return s.P99 }),
			CPU:  Median(all, func(s Summary) time.Duration { return s.CPU }),
		}
	}
	return result, nil
}

// turn measures one contestant for one round.
func turn(ctx context.Context, inFlight int, each time.Duration, c Contestant) (Summary, error) {
	clients := make([]*Client, inFlight)
	for i := range clients {
		client, err := c.Open()
		if err != nil {
			return Summary{}, fmt.Errorf("measure %s: %w", c.Name, err)
		}
		defer client.Close()
		clients[i] = client
	}
	before := ProcessorTime(c.PIDs)
	began := time.Now()
	took, err := drive(ctx, clients, began.Add(each))
	elapsed := time.Since(began)
	used := ProcessorTime(c.PIDs) - before
	if err != nil {
		return Summary{}, fmt.Errorf("measure %s: %w", c.Name, err)
	}
	return summarise(took, elapsed, used), nil
}

// summarise makes the summary of a turn from the durations of its requests (one at least), its length and the processor time used.
func summarise(took []time.Duration, elapsed, used time.Duration) Summary {
	p50, p99 := Durations(took)
	return Summary{Rate: float64(len(took)) / elapsed.Seconds(), P50: p50, P99: p99, CPU: used / time.Duration(len(took))}
}

// waitReady waits until some connections of a poll can be read, for askTimeout at most. It returns their number.
func waitReady(poll int, ready []unix.EpollEvent) (int, error) {
	for {
		n, err := unix.EpollWait(poll, ready, int(askTimeout.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, fmt.Errorf("wait for answers: %w", err)
		case n == 0:
			return 0, fmt.Errorf("wait for answers: none within %v", askTimeout)
		}
		return n, nil
	}
}

// drive keeps one request of each client in flight until end, on one thread, and returns the duration of each request. Each client sends one
// request at least.
func drive(ctx context.Context, clients []*Client, end time.Time) (took []time.Duration, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("wait for answers: %w", err)
	}
	defer unix.Close(poll)
	watch := func(i int) error {
		return unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, clients[i].fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)})
	}
	began := make([]time.Time, len(clients))
	for i, c := range clients {
		if err := watch(i); err != nil {
			return nil, fmt.Errorf("wait for answers: %w", err)
		}
		began[i] = time.Now()
		if err := c.begin(); err != nil {
			return nil, err
		}
	}
	took = make([]time.Duration, 0, 1<<16)
	ready := make([]unix.EpollEvent, len(clients))
	for asking := len(clients); asking > 0; {
		n, err := waitReady(poll, ready)
		if err != nil {
			return nil, err
		}
		for _, event := range ready[:n] {
			i := int(event.Fd)
			connection := clients[i].connection
			done, err := clients[i].advance()
			if err != nil {
				return nil, err
			}
			if !done {
				continue
			}
			now := time.Now()
			took = append(took, now.Sub(began[i]))
			if !now.Before(end) || ctx.Err() != nil {
				asking--
				continue
			}
			if clients[i].connection != connection {
				if err := watch(i); err != nil {
					return nil, fmt.Errorf("wait for answers: %w", err)
				}
			}
			began[i] = now
			if err := clients[i].begin(); err != nil {
				return nil, err
			}
		}
	}
	return took, ctx.Err()
}
