package journeys

import "testing"

// TestConditionsLast is the last test of this package, because its file is the last by name. See conditions.
func TestConditionsLast(t *testing.T) {
	if !conditionsFirst() {
		takeConditions(t)
	}
}
