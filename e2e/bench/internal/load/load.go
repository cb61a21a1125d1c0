// Package load drives servers over real sockets and says how fast they were. Whoever is compared gets the same load from
// the same code, taking turns: on a machine that others use, only what was measured within a moment can be compared.
package load

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Client sends one request and reads its whole answer; an answer that isn't the expected one is an error.
type Client interface {
	Do() error
	Close() error
}

// Contestant is one of those that are compared.
type Contestant struct {
	Name string
	Open func() (Client, error) // a client with a connection of its own
	PIDs []int                  // of its processes, for the processor time they take; may be empty
}

// Summary is what one contestant did: medians over its rounds.
type Summary struct {
	Rate     float64 // requests a second
	P50, P99 time.Duration
	CPU      time.Duration // of the contestant's processes, a request; 0 where they weren't named. Others on the machine don't change it.
}

// Plan is how contestants are measured.
type Plan struct {
	InFlight int           // clients that each have one request in flight
	Rounds   int           // of each contestant
	Each     time.Duration // how long a round is
}

// Compare lets contestants take turns, A B A B, and gives a summary of each, in their order. Before its first turn a
// contestant serves a tenth of a round that isn't counted.
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

// turn drives one contestant for a while.
func turn(ctx context.Context, inFlight int, each time.Duration, c Contestant) (Summary, error) {
	clients := make([]Client, inFlight)
	for i := range clients {
		client, err := c.Open()
		if err != nil {
			return Summary{}, fmt.Errorf("measure %s: %w", c.Name, err)
		}
		defer client.Close()
		clients[i] = client
	}
	var mu sync.Mutex
	var took []time.Duration
	var failure error
	var wg sync.WaitGroup
	before := processorTime(c.PIDs)
	began := time.Now()
	end := began.Add(each)
	for _, client := range clients {
		wg.Go(func() {
			mine := make([]time.Duration, 0, 1<<14)
			var err error
			for at := time.Now(); ; { // once at least
				if err = client.Do(); err != nil {
					break
				}
				now := time.Now()
				mine = append(mine, now.Sub(at))
				if at = now; !at.Before(end) || ctx.Err() != nil {
					break
				}
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			if failure == nil {
				failure = err
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(began)
	used := processorTime(c.PIDs) - before
	if failure == nil {
		failure = ctx.Err()
	}
	if failure != nil {
		return Summary{}, fmt.Errorf("measure %s: %w", c.Name, failure)
	}
	slices.Sort(took)
	return Summary{
		Rate: float64(len(took)) / elapsed.Seconds(),
		P50:  Percentile(took, 50),
		P99:  Percentile(took, 99),
		CPU:  used / time.Duration(len(took)),
	}, nil
}
