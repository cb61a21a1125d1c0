package journeys

import (
	"context"
	"strconv"
	"testing"
	"time"
)

// TestOneServiceDown stops each service in turn. Calls of that service must be answered with 503 at once, and calls of another one as
// before.
func TestOneServiceDown(t *testing.T) {
	for i, service := range services {
		t.Run(service.name, func(t *testing.T) {
			if _, err := suite.compose(t.Context(), "stop", service.name); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if _, err := suite.compose(t.Context(), "start", service.name); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), readyWait)
				defer cancel()
				if err := suite.awaitService(ctx, service.name); err != nil {
					t.Fatal(err)
				}
			}()
			for range 3 {
				began := time.Now()
				a, err := suite.askService(t.Context(), service.name)
				took := time.Since(began)
				if err != nil {
					t.Fatal(err)
				}
				seconds, err := strconv.Atoi(a.Header.Get("Retry-After"))
				if a.Status != 503 || a.Success || err != nil || seconds < 1 {
					t.Errorf("answered %v, Retry-After %q; want 503 and when to come again", a, a.Header.Get("Retry-After"))
				}
				if took > 5*time.Second { // it usually takes a fraction of a second; the bound finds a hang, not a slow machine
					t.Errorf("the 503 took %v, want 5 s at most", took)
				}
			}
			other := services[(i+3)%len(services)].name
			if a, err := suite.askService(t.Context(), other); err != nil || a.Status != 200 {
				t.Errorf("meanwhile %s answered %v, %v; want 200", other, a, err)
			}
		})
	}
}
