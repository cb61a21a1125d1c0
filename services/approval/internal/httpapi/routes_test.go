package httpapi

import (
	"context"
	"net/http/httptest"
	"testing"

	api "github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/libs/fault"
)

// A review waits for those under way, since each takes memory as its pack likes, but not for longer than its caller does.
func TestReviewsTakeTurns(t *testing.T) {
	h := routes{reviews: make(chan struct{}, 1)}
	h.reviews <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", "/api/packs/demo/review", nil)
	if err := h.review(httptest.NewRecorder(), r, api.ReviewRequest{PackID: "demo"}); !fault.Is(err, fault.KindUnavailable) {
		t.Errorf("a review did not wait for its turn: %v; want unavailable", err)
	}
	if len(h.reviews) != 1 {
		t.Error("it gave back a turn that it did not have")
	}
}
