package session

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
)

// Spend takes n bytes from what the pack may send today. If they aren't left, none is taken, and nothing may be sent.
func (k *Pack) Spend(n int) *decision.Failure {
	if !k.packs.Quota.Spend(k.ID, n) {
		return decision.DailyQuota
	}
	return nil
}

// QuotaLimited says whether what the pack sends must be taken from its daily quota at all.
func (k *Pack) QuotaLimited() bool { return k.packs.Quota.Limited() }

// AcquireSlot waits for one of the pack's MaxInFlight slots, until the deadline or the end of ctx, which is of s.With. ReleaseSlot gives it back.
func (k *Pack) AcquireSlot(ctx context.Context, s *Session, deadline time.Time) *decision.Failure {
	select {
	case k.slots <- struct{}{}:
		return nil
	default:
	}
	k.packs.waiting.Add(1)
	defer k.packs.waiting.Add(-1)
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case k.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return k.Interrupted(s)
	case <-timer.C:
		return decision.TimedOut
	}
}

// ReleaseSlot gives back what AcquireSlot took.
func (k *Pack) ReleaseSlot() { <-k.slots }

// AcquireStream takes one of the pack's MaxStreams streams; false where there is none left. ReleaseStream gives it back.
func (k *Pack) AcquireStream() bool {
	select {
	case k.streams <- struct{}{}:
		return true
	default:
		return false
	}
}

// ReleaseStream gives back what AcquireStream took.
func (k *Pack) ReleaseStream() { <-k.streams }

// Streams is how many of the pack's streams are taken.
func (k *Pack) Streams() int { return len(k.streams) }

// RetryAfter is how long a client should wait after a failure that is about a limit; 0 after any other failure.
func (k *Pack) RetryAfter(f *decision.Failure, now time.Time) time.Duration {
	switch f {
	case decision.TooManyStreams:
		return time.Second
	case decision.DailyQuota:
		return now.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now)
	case decision.RateLimited:
		return time.Duration((1 - k.tokens.TokensAt(now)) / float64(k.tokens.Limit()) * float64(time.Second))
	}
	return 0
}
