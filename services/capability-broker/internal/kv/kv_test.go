package kv_test

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/services/capability-broker/internal/kv"
)

func TestSame(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{`1`, `1.0`, true}, {`100`, `1e2`, true}, {`0.1`, `0.10000000000000000555`, true}, {`1`, `"1"`, false}, {`1`, `true`, false},
		{`"a"`, `"\u0061"`, true}, {`"a"`, `"A"`, false}, {`[1,2]`, `[2,1]`, false}, {`{"a":1,"b":2}`, `{ "b":2, "a":1 }`, true},
		{`{"a":null}`, `{}`, false}, {`123456789012345678901`, `123456789012345678902`, false},
	} {
		if kv.Same(jsontext.Value(c.a), jsontext.Value(c.b)) != c.same {
			t.Errorf("%s and %s: want %t", c.a, c.b, c.same)
		}
	}
}
