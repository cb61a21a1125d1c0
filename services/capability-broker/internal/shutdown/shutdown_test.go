package shutdown

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// suite has packs that run, or none, and an approval that stops at a time, or never.
type suite struct {
	running  bool
	stops    time.Time // zero for never
	disabled bool
	stopped  string // the reason, "" for packs that go on
}

func (s *suite) DisableRestarts() bool                          { s.disabled = true; return s.running }
func (s *suite) StopAll(_ context.Context, reason string) error { s.stopped = reason; return nil }
func (s *suite) Connected() bool                                { return s.stops.IsZero() || time.Now().Before(s.stops) }

func TestPacksStopWithTheSuite(t *testing.T) {
	for name, c := range map[string]struct {
		idle     bool          // no pack runs
		approval time.Duration // until its end, 0 for never
		lost     bool          // a mounted folder was replaced
		patience time.Duration // of the caller, 0 for any
		want     string
	}{
		"the broker restarts":       {want: ""},
		"the suite stops":           {approval: time.Millisecond, want: "the suite stops"},
		"approval takes its time":   {approval: approvalWait - pollEvery, want: "the suite stops"},
		"approval restarts later":   {approval: approvalWait + time.Second, want: ""},
		"a mounted folder replaced": {lost: true, want: "a mounted folder was replaced"},
		"no pack runs":              {idle: true, approval: time.Millisecond, lost: true, want: ""},
		"the caller doesn't wait":   {approval: time.Second, patience: time.Millisecond, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &suite{running: !c.idle}
				if c.approval > 0 {
					s.stops = time.Now().Add(c.approval)
				}
				ctx := t.Context()
				if c.patience > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.patience)
					defer cancel()
				}
				p := &Packs{Containers: s, Gates: s, MountsLost: func() bool { return c.lost }}
				if err := p.Stop(ctx); err != nil {
					t.Errorf("Stop = %v, want nil", err)
				}
				if s.stopped != c.want || !s.disabled {
					t.Errorf("packs were stopped for %q, want %q; restarts were disabled: %v, want true", s.stopped, c.want, s.disabled)
				}
			})
		})
	}
}
