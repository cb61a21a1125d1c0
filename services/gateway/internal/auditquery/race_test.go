package auditquery

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/auditfile"
)

// Questions come while the index is written, joined and rejected, and while entries are appended: each finds what was there before it was asked.
func TestQuestionsWhileTheIndexIsWritten(t *testing.T) {
	w := newWorld(t, 11)
	w.append(300, 2)
	ctx, stop := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	defer wait.Wait()
	defer stop()
	wait.Go(func() {
		for ctx.Err() == nil {
			if err := w.index.Update(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("update the index: %v", err)
			}
		}
	})
	for begin := time.Now(); time.Since(begin) < 2*time.Second; {
		w.append(50, 2)
		want := len(w.oracle(auditfile.Filter{PackID: "evil"}))
		var asking sync.WaitGroup
		for range 3 {
			asking.Go(func() {
				answer, err := w.log.Ask(ctx, Question{Filter: auditfile.Filter{PackID: "evil"}, Limit: 100_000})
				if err != nil || answer.Complete && len(answer.Entries) != want {
					t.Errorf("got %d entries, complete, %v; want %d", len(answer.Entries), err, want)
				}
			})
		}
		asking.Wait()
	}
}
