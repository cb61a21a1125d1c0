package frameproto

import (
	"strings"
	"testing"
)

func TestOverflowsIsRight(t *testing.T) {
	for _, unit := range []string{"x", "\x00", "\n", "\"", "\\", "\x1f", "é", "\u2028", "</script>", "\x7f"} {
		for _, extra := range []int{-2, 0, 2} {
			quoted := len(appendQuote(nil, unit)) - 2
			body := []byte(strings.Repeat(unit, max(MaxResponse/quoted+extra, 0)))
			if got, want := overflows(body), len(appendQuote(nil, body))-2 > MaxResponse; got != want {
				t.Errorf("%q, %d: %v, want %v", unit, len(body), got, want)
			}
		}
	}
}
