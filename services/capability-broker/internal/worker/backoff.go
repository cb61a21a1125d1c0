package worker

import (
	"math"
	"time"
)

// How fast workers of one handler may be started again for one principal, because calls make it necessary.
const (
	burst        = 5                // starts that may follow each other at once
	firstPause   = time.Second      // before the next one; doubled by each that follows
	longestPause = time.Minute      //
	recovery     = 30 * time.Second // after which one start is forgotten
	recycleCost  = 0.1              // of a start that the worker asked for, in starts that a failure made necessary
)

// suspectAfter is how many calls in a row may fail before their worker is suspected to be the reason.
const suspectAfter = 5

// backoff bounds the starts of one handler's workers for one principal. A pack decides by its calls how often a worker ends: by
// arguments that the handler dies of, time-outs that are too short, connections that it closes. Each costs a container. A
// success clears nothing, or calls that alternate would be free.
type backoff struct {
	starts float64 // that are remembered, as of at
	at     time.Time
	next   time.Time // no start is due before
}

// backoffKey names what a pace is of. Grants are not in it: a pack that is granted anew doesn't begin anew.
type backoffKey struct{ packID, slug, principal string }

func (k key) backoffKey() backoffKey { return backoffKey{k.packID, k.slug, k.principal} }

// add remembers a start that has become necessary.
func (c *backoff) add(now time.Time, cost float64) {
	c.decay(now)
	c.starts = min(c.starts+cost, burst+math.Log2(float64(longestPause/firstPause)))
	if c.starts >= burst {
		c.next = now.Add(min(time.Duration(math.Exp2(c.starts-burst)*float64(firstPause)), longestPause))
	}
}

func (c *backoff) decay(now time.Time) {
	c.starts = max(0, c.starts-float64(now.Sub(c.at))/float64(recovery))
	c.at = now
}

// due says whether a worker may be started.
func (c *backoff) due(now time.Time) bool { return c == nil || !now.Before(c.next) }

// charge remembers that a worker has to be replaced.
func (p *Pool) charge(g *group, cost float64) {
	c := p.backoffs[g.key.backoffKey()]
	if c == nil {
		c = &backoff{at: time.Now()}
		p.backoffs[g.key.backoffKey()] = c
	}
	c.add(time.Now(), cost)
}

// mayStart says whether a worker of the group may be started now.
func (p *Pool) mayStart(g *group) bool { return p.backoffs[g.key.backoffKey()].due(time.Now()) }

// dropExpiredBackoffs drops the backoffs that bound nothing any more.
func (p *Pool) dropExpiredBackoffs(now time.Time) {
	for k, c := range p.backoffs {
		if c.decay(now); c.starts == 0 {
			delete(p.backoffs, k)
		}
	}
}
