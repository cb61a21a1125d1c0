package candidate

import (
	"context"

	"github.com/rumi-ai/rumi/libs/statecount"
)

// Gauge is the number of candidates in each state, for the metrics. It asks the database, which other replicas write to, too.
func (c *Candidates[P]) Gauge() *statecount.Gauge {
	names := make([]string, len(States))
	for i, state := range States {
		names[i] = string(state)
	}
	return statecount.New("rumi_candidates", "Candidates by state: pending ones wait for a decision, superseded ones for none.", "state", names,
		statecount.Cached(func(ctx context.Context) (statecount.Counts, error) {
			byState, err := c.countStates(ctx)
			counts := make(statecount.Counts, len(byState))
			for state, n := range byState {
				counts[string(state)] = n
			}
			return counts, err
		}))
}
