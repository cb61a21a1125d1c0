package journeys

import "testing"

// TestConditionsLast is the last test of this package; see conditions.
func TestConditionsLast(t *testing.T) {
	if !rough() {
		takeConditions(t)
	}
}
