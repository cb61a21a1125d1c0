package call

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
)

// entries is an audit log.
type entries struct {
	mu  sync.Mutex
	all []audit.Entry
}

func (l *entries) Write(ctx context.Context, e audit.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, e)
	return ctx.Err()
}

func (l *entries) Submit(ctx context.Context, all ...audit.Entry) func() error {
	var err error
	for _, e := range all {
		err = errors.Join(err, l.Write(ctx, e))
	}
	return func() error { return err }
}

// phases are the entries as a person lists them.
func (l *entries) phases() (text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.all {
		text += fmt.Sprintf("%s %v/%v/%v; ", e.Phase, e.Success, e.Category, e.Details["latency_ms"])
	}
	return text
}

// What takes long is in the audit log before its end, and has an end there, also beyond the number of failures that have entries of their own.
func TestLongCalls(t *testing.T) {
	for about, c := range map[string]struct {
		takes   time.Duration
		refused *refusal
		want    string
	}{
		"a short call":             {beginAfter - 1, nil, " true/permission/<nil>; "},
		"a call of two seconds":    {2 * time.Second, nil, "begin true/permission/<nil>; end true/permission/<nil>; "},
		"a call of eleven minutes": {11 * time.Minute, nil, "begin true/permission/<nil>; progress true/permission/301000; progress true/permission/601000; end true/permission/<nil>; "},
		"one that fails":           {2 * time.Second, &refusal{kind: executionError, reason: "x"}, "begin true/permission/<nil>; end false/permission/<nil>; "},
		"one that is refused":      {2 * time.Second, &refusal{kind: grantDenied, reason: "x"}, "begin true/permission/<nil>;  false/security/<nil>; end false/permission/<nil>; "},
	} {
		synctest.Test(t, func(t *testing.T) {
			log := &entries{}
			cfg := Config{Audit: log}
			k := socket{&Service{Config: cfg, refusals: audit.NewRefusals(log, 1, nil), failures: audit.NewRefusals(log, 1, nil)}, "p"}
			ctx, cancel := context.WithCancel(t.Context())
			rec := &record{action: "permission_execute", details: map[string]any{}}
			long := k.watch(ctx, rec)
			cancel() // the client has left: what is under way is written down all the same
			time.Sleep(c.takes)
			rec.phase = long.end()
			if err := k.write(t.Context(), *rec, c.refused); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			if got := log.phases(); got != c.want {
				t.Errorf("%s: got the entries %q, want %q", about, got, c.want)
			}
		})
	}
}

// A call that waits for long, and is then decided about again, has begun once.
func TestLongCallThatIsDecidedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &entries{}
		k := socket{&Service{Config: Config{Audit: log}}, "p"}
		rec := &record{details: map[string]any{}}
		for range 2 {
			long := k.watch(t.Context(), rec)
			time.Sleep(2 * time.Second)
			rec.phase = long.end()
		}
		if got, want := log.phases(), "begin true/permission/<nil>; "; rec.phase != "end" || got != want {
			t.Errorf("got the entries %q and then %q, want %q and then \"end\"", got, rec.phase, want)
		}
	})
}
