package packspans

import (
	"context"
	"sync"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Bounds of the queue. In memory a span takes about three times its bytes.
const (
	maxPackBytes  = 4 << 20  // that wait, of one pack
	maxQueueBytes = 16 << 20 // that wait, of all packs

	maxUploadSpans = 1024 // after as many, an upload takes no more
	maxUploadBytes = 2 << 20
	uploadEvery    = time.Second
	uploadTimeout  = 10 * time.Second
	flushTimeout   = 3 * time.Second
)

// batch is what was kept of one resource of a request.
type batch struct {
	resource     *tracepb.ResourceSpans
	spans, bytes int
}

func newBatch(resource *tracepb.ResourceSpans) batch {
	b := batch{resource: resource, bytes: proto.Size(resource)}
	for _, scope := range resource.ScopeSpans {
		b.spans += len(scope.Spans)
	}
	return b
}

// queue is what waits for the collector: a line for each pack, from which batches are taken in turns. A pack whose line is long waits for itself only.
type queue struct {
	mu    sync.Mutex
	lines map[string]*packLine
	turns []*packLine // those that are not empty, the next one first
	bytes int
}

// packLine is what waits of one pack.
type packLine struct {
	pack    string
	batches []batch
	bytes   int
}

func newQueue() *queue { return &queue{lines: make(map[string]*packLine)} }

// push puts a batch at the end of its pack's line. ok is false if that is too long. Where all lines together are, the longest gives up its newest
// batches, whoever's it is; evicted is how many spans that were.
func (q *queue) push(pack string, b batch) (evicted int, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	own := q.lines[pack]
	have := 0
	if own != nil {
		have = own.bytes
	}
	if have+b.bytes > maxPackBytes {
		return 0, false
	}
	for q.bytes+b.bytes > maxQueueBytes {
		longest := q.longest()
		if have+b.bytes >= longest.bytes {
			return evicted, false
		}
		evicted += q.evict(longest)
	}
	if own == nil {
		own = &packLine{pack: pack}
		q.lines[pack] = own
		q.turns = append(q.turns, own)
	}
	own.batches = append(own.batches, b)
	own.bytes += b.bytes
	q.bytes += b.bytes
	return evicted, true
}

// longest is the line with most bytes; there is one.
func (q *queue) longest() (longest *packLine) {
	for _, l := range q.turns {
		if longest == nil || l.bytes > longest.bytes {
			longest = l
		}
	}
	return longest
}

// evict drops a line's newest batch, and returns how many spans it had. The line keeps its turn, so it must have another one.
func (q *queue) evict(l *packLine) (spans int) {
	last := len(l.batches) - 1
	b := l.batches[last]
	l.batches = l.batches[:last]
	l.bytes -= b.bytes
	q.bytes -= b.bytes
	return b.spans
}

// next takes what one upload may have: a batch of each pack in turns.
func (q *queue) next() (upload []*tracepb.ResourceSpans, spans int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for bytes := 0; len(q.turns) > 0 && spans < maxUploadSpans && bytes < maxUploadBytes; {
		l := q.turns[0]
		q.turns = q.turns[1:]
		if len(l.batches) > 0 {
			b := l.batches[0]
			l.batches[0] = batch{}
			l.batches = l.batches[1:]
			l.bytes -= b.bytes
			q.bytes -= b.bytes
			upload, spans, bytes = append(upload, b.resource), spans+b.spans, bytes+b.bytes
		}
		if len(l.batches) == 0 {
			delete(q.lines, l.pack)
			continue
		}
		q.turns = append(q.turns, l)
	}
	return upload, spans
}

// Run sends what waits to the collector, once a second and more often while more waits, until ctx ends; then what is left, within flushTimeout.
func (i *Intake) Run(ctx context.Context) error {
	tick := time.NewTicker(uploadEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			i.upload(ctx)
		case <-ctx.Done():
			bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
			defer cancel()
			i.upload(bound)
			return nil
		}
	}
}

// upload sends all that waits. What can't be sent is dropped and counted.
func (i *Intake) upload(ctx context.Context) {
	for ctx.Err() == nil {
		spans, n := i.queue.next()
		if n == 0 {
			return
		}
		result := exported
		if !i.cfg.Traces.Collected() {
			result = collectorOff
		} else if err := i.send(ctx, spans); err != nil {
			result = failed
			i.cfg.Log.Warn("spans of packs could not be sent to the collector", "spans", n, "error", err)
		}
		i.metrics.spans[result].Add(float64(n))
	}
}

func (i *Intake) send(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	ctx, cancel := context.WithTimeout(ctx, uploadTimeout)
	defer cancel()
	return i.cfg.Traces.Upload(ctx, spans)
}
