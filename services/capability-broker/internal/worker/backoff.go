package worker

import (
	"math"
	"time"
)

// How fast workers of one handler may be started for one principal, if calls make it necessary.
const (
	burst        = 5                // starts that may follow each other without a pause
	firstPause   = time.Second      // before the start after these; each further start doubles it
	longestPause = time.Minute      // however many there were
	recovery     = 30 * time.Second // after so long one start is forgotten
	recycleCost  = 0.1              // what a start counts if the worker asked to be recycled; one that a failure made necessary counts 1
)

// suspectAfter is how many calls in a row fail before their worker is suspected to be the reason.
const suspectAfter = 5

// backoff bounds the starts of one handler's workers for one principal.
//
// The attack: a pack decides by its calls how often a worker ends. It can send arguments that the handler dies of, set time limits that
// are too short, or close its connections. Each such call costs the host a container. So starts are counted and slowly forgotten, and
// beyond burst the next start has to wait. A success resets nothing, or a pack could alternate good and bad calls for free.
type backoff struct {
	starts float64   // starts that are remembered; as of at, since they are forgotten continuously
	at     time.Time // see starts
	next   time.Time // no start before this time
}

// backoffKey names what a backoff is for. Grants are not in it, or a new grant would reset the count.
type backoffKey struct{ packID, slug, principal string }

func (k key) backoffKey() backoffKey { return backoffKey{k.packID, k.slug, k.principal} }

// add counts a start that has become necessary. The count is capped where the pause reaches longestPause, so that it isn't remembered for
// longer than that is just.
func (c *backoff) add(now time.Time, cost float64) {
	c.decay(now)
	c.starts = min(c.starts+cost, burst+math.Log2(float64(longestPause/firstPause)))
	if c.starts >= burst {
		c.next = now.Add(min(time.Duration(math.Exp2(c.starts-burst)*float64(firstPause)), longestPause))
	}
}

// decay forgets what the time since the last call lets it forget.
func (c *backoff) decay(now time.Time) {
	c.starts = max(0, c.starts-float64(now.Sub(c.at))/float64(recovery))
	c.at = now
}

// due says whether a worker may be started; a nil backoff allows it.
func (c *backoff) due(now time.Time) bool { return c == nil || !now.Before(c.next) }

// charge counts that a worker of the group has to be replaced.
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

// dropExpiredBackoffs drops the backoffs that have nothing counted any more.
func (p *Pool) dropExpiredBackoffs(now time.Time) {
	for k, c := range p.backoffs {
		if c.decay(now); c.starts == 0 {
			delete(p.backoffs, k)
		}
	}
}
